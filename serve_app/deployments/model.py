"""The Serve application `model`: POST /model/predict, and jobs with REDIS_URL.

Named in configs/*.yaml as `serve_app.deployments.model:build`.

No `from __future__ import annotations` here: Serve reads the builder's annotation at run time to type its args.
"""

import logging
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import ray
from fastapi import FastAPI
from ray import serve
from ray._private.worker import get_dashboard_url
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.cores import usable_cores
from serve_app.deployments.grpc_methods import InferenceMethods
from serve_app.deployments.http_host import running_http_host
from serve_app.deployments.logs import send_logs_to_serve
from serve_app.deployments.ongoing import most_requests_of_replica
from serve_app.deployments.options import CLASSIFIER, CLASSIFIER_NAME, ENGINE, ENGINE_NAME
from serve_app.deployments.per_node import all_nodes, count_nodes, most_on_node
from serve_app.deployments.thread_budget import Replicas, pinning_fault
from serve_app.entrance.gate import GATE
from serve_app.entrance.guard import Guard
from serve_app.entrance.keys import is_loopback
from serve_app.entrance.read_ahead import tell_what_is_taken
from serve_app.entrance.under_way import UnderWay
from serve_app.errors import SetupFaults
from serve_app.redis.address import redis_url

if TYPE_CHECKING:
    from serve_app.classifier.loading import LoadEngine

logger = logging.getLogger(__name__)


@serve.deployment(name=CLASSIFIER_NAME, **CLASSIFIER.model_dump())
@serve.ingress()
class ClassifierDeployment(InferenceMethods):
    """One classifier replica; how many there are is in the YAML."""

    def __init__(self, settings: ClassifierSettings, engine: DeploymentHandle[Any] | None = None) -> None:
        """With `engine`, the deployment that the replicas share, which starts with them: they reach it by a socket."""
        self._settings = settings
        self._engine = engine

    @property
    def load_own_engine(self) -> "LoadEngine":
        """What loads the engine of a replica that shares none."""
        from serve_app.classifier.loading import load_own_engine

        return load_own_engine

    async def __serve_build_asgi_app__(self) -> FastAPI:
        # Imported in the replica: the builder runs in a process of its own, which every start waits for.
        from serve_app.classifier.api import build_model_api
        from serve_app.classifier.classifier import Classifier
        from serve_app.classifier.early import build_entry
        from serve_app.deployments.engine import connect_to_engine, facts_of, gpu_share_of_replica, with_threads
        from serve_app.deployments.metrics import ServeMetrics
        from serve_app.jobs.api import add_job_routes
        from serve_app.jobs.intake import job_bounds
        from serve_app.jobs.replica import ReplicaJobs
        from serve_app.open_inference.api import PATH, add_inference_routes, error_shape
        from serve_app.open_inference.grpc_service import GrpcInference
        from serve_app.open_inference.inference import Inference
        from serve_app.try_page.page import add_try_page

        send_logs_to_serve()
        metrics = ServeMetrics()
        guard = await Guard.of(self._settings.auth, running_http_host, most_requests_of_replica, metrics)
        url = redis_url()
        load: LoadEngine
        if self._engine:
            self._facts = facts = await facts_of(self._settings, self._engine.facts.remote)
            self._settings = self._settings.model_copy(update={"threads": facts.threads})
            load, share = partial(connect_to_engine, facts), facts.gpu_share
        else:
            self._settings = with_threads(self._settings, _replicas_on_node())
            load, share = self.load_own_engine, gpu_share_of_replica()
        self._classifier = await Classifier.load(self._settings, metrics, load, share)
        self._warn_of_pinning()
        GATE.enter = build_entry(self._classifier.admission, guard)
        self._jobs = ReplicaJobs(url, self._classifier, self._settings.jobs, metrics) if url else None
        api = build_model_api(self._classifier)
        add_job_routes(api, self._settings, self._jobs)
        inference = Inference(self._classifier)
        add_inference_routes(api, inference)
        self.grpc_inference = GrpcInference(inference, guard, UnderWay())
        GATE.shape_errors(PATH, error_shape)
        add_try_page(api, dashboard=await _dashboard_for_this_machine())
        GATE.drain = job_bounds(self._settings).drain
        return tell_what_is_taken(guard.protect(api))

    def _warn_of_pinning(self) -> None:
        replicas = _replicas_on_node().most
        held = self._classifier.held_cores
        if fault := pinning_fault(self._settings.thread_count, replicas, held, usable_cores()):
            logger.warning(fault)

    async def check_health(self) -> None:
        """Raise if this replica cannot classify; Serve then replaces it."""
        self._classifier.check_ready()
        if self._engine:
            from serve_app.deployments.engine import check_engine

            await check_engine(self._classifier.engine, self._facts, self._engine.facts.remote)

    async def __del__(self) -> None:
        if (jobs := getattr(self, "_jobs", None)) is not None:
            await jobs.close()
        if hasattr(self, "_classifier"):
            await self._classifier.close()


def build(args: ClassifierSettings) -> Application:
    """Return the application; `args` are those of the YAML. Raises SetupError, once, before any replica starts."""
    from serve_app.classifier.sources import find_source_faults

    args.cache.kind_with(redis_url())
    if faults := list(find_source_faults(args)):
        raise SetupFaults(faults)
    if not args.shared_engine:
        return ClassifierDeployment.bind(args)  # type: ignore[attr-defined,no-any-return]
    from serve_app.deployments.engine import EngineReplica

    engine = serve.deployment(name=ENGINE_NAME, **ENGINE.model_dump())(EngineReplica).bind(args)
    return ClassifierDeployment.bind(args, engine)  # type: ignore[attr-defined,no-any-return]


async def _dashboard_for_this_machine() -> str | None:
    """Return the dashboard's URL; None where others reach the service, who cannot reach the dashboard."""
    is_here = is_loopback(await running_http_host())
    return f"http://{get_dashboard_url()}" if is_here else None  # type: ignore[no-untyped-call]


def _replicas_on_node() -> Replicas:
    """Return how many replicas this one may be among on its node, if they are spread evenly."""
    context = serve.get_replica_context()
    given = ray.get_runtime_context().get_assigned_resources()  # type: ignore[no-untyped-call]
    if (nodes := count_nodes(all_nodes(), given)) > 1:
        found = Replicas(*[ceil(context.world_size / nodes)] * 2)
    else:
        bounds = vars(context)["_deployment_config"].autoscaling_config  # Serve tells it in no other way
        found = Replicas(bounds.min_replicas, bounds.max_replicas) if bounds else Replicas(*[context.world_size] * 2)
    return found.at_most(most_on_node(given))
