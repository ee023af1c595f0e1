"""What of a config changes nothing in the Serve that runs: options that it takes at its start alone. For `redeploy`."""

from collections.abc import Iterator
from typing import Any

from ray.serve.schema import ServeDeploySchema

from serve_app.deployments.config_file import serve_part
from serve_app.deployments.ingress_tls import START_AGAIN
from serve_app.errors import Fault

_FIXED = ("proxy_location", "http_options", "grpc_options")


def find_fixed_changes(config: dict[str, Any], running: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each option of a valid config that differs from the one that Serve is `running` with.

    `running` is what Serve's REST API tells of itself; without options, where no Serve runs, there is none.
    """
    told = {name: running[name] for name in _FIXED if running.get(name) is not None}
    wanted, found = _by_key(serve_part(config)), _by_key({"applications": [], **told})
    for key, value in wanted.items():
        if key.partition(".")[0] in told and found[key] != value:
            what = "the service that runs was started with another; Serve takes it only at its start"
            yield Fault(key, what, START_AGAIN)


def _by_key(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options by their keys, Serve's defaults among them."""
    options = ServeDeploySchema.model_validate(config).model_dump(include=set(_FIXED))
    location = {"proxy_location": options.pop("proxy_location")}
    return location | {f"{name}.{key}": value for name, each in options.items() for key, value in each.items()}
