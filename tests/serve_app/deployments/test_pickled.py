"""What a replica has of the modules here: Serve pickles deployments with `@serve.ingress`, classes and all."""

import pickle

import pytest
from ray import cloudpickle
from ray.serve import Deployment

from serve_app.deployments.model import ClassifierDeployment
from serve_app.deployments.users import UsersDeployment
from serve_app.entrance.gate import GATE


@pytest.mark.parametrize("deployment", [ClassifierDeployment, UsersDeployment])
def test_a_replica_opens_the_gate_that_its_middleware_asks(deployment: Deployment) -> None:
    replica = pickle.loads(cloudpickle.dumps(deployment.func_or_class))  # type: ignore[no-untyped-call]
    builders = [found for each in replica.__mro__ if (found := vars(each).get("__serve_build_asgi_app__"))]
    gates = [builder.__globals__["GATE"] for builder in builders if "GATE" in builder.__globals__]
    assert gates
    assert all(gate is GATE for gate in gates)
