"""On which address the Serve that runs here listens, asked of Serve itself."""

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve._private.utils import is_grpc_enabled

from serve_app.entrance.keys import is_loopback

GRPC_REACH = "the replicas' gRPC ports (grpc_options), which bind every interface"


async def running_http_host() -> str:
    """Return the host that Serve was really started with, which a running Serve keeps whatever a new config says.

    With gRPC it is every interface, in words: replicas bind these ports there, whatever the host is.
    """
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    host = str((await controller.get_http_config.remote()).host)
    if is_loopback(host) and is_grpc_enabled(await controller.get_grpc_config.remote()):
        return f"{host}, and {GRPC_REACH}"
    return host
