"""On which address the Serve that runs here listens, asked of Serve itself."""

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE


async def running_http_host() -> str:
    """Return the host that Serve was really started with, which a running Serve keeps whatever a new config says."""
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    return str((await controller.get_http_config.remote()).host)
