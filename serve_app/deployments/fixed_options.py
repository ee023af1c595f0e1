"""What of a config changes nothing in the Serve that runs: options that it takes at its start alone. For `redeploy`."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from ray.serve.schema import HTTPOptionsSchema, gRPCOptionsSchema

from serve_app.deployments.ingress_tls import START_AGAIN
from serve_app.errors import Fault

_FIXED: dict[str, type[BaseModel]] = {"http_options": HTTPOptionsSchema, "grpc_options": gRPCOptionsSchema}


def find_fixed_changes(config: dict[str, Any], running: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each option of a valid config that differs from the one that Serve is `running` with.

    `running` is what Serve's REST API tells of itself; without options, where no Serve runs, there is none.
    """
    for name, schema in _FIXED.items():
        if running.get(name) is not None:
            wanted = schema.model_validate(config.get(name) or {}).model_dump()
            found = schema.model_validate(running[name]).model_dump()
            for key in [key for key in wanted if wanted[key] != found[key]]:
                what = "the service that runs was started with another; Serve takes it only at its start"
                yield Fault(f"{name}.{key}", what, START_AGAIN)
