"""Puts the API keys in front of an application; without them a replica that others can reach does not start.

Used by both deployments, in the replica: so `serve run` and `serve deploy` cannot start unprotected either.
"""

import ray
from fastapi import FastAPI
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from serve_app.entrance.keys import REMEDY, ApiKeys, Auth, KeySource, is_loopback
from serve_app.errors import SetupError
from serve_app.web import require_key


class Guard:
    """What one application's `auth` says, checked before anything heavy is loaded."""

    def __init__(self, keys: ApiKeys | None) -> None:
        self._keys = keys

    @classmethod
    async def of(cls, auth: Auth) -> "Guard":
        """Return the guard for `auth`. Raises SetupError when nothing was said on an address that others reach."""
        if auth is None and not is_loopback(host := await _http_host()):
            raise SetupError(f"other machines can reach http_options.host: {host}, but `args` has no `auth`; {REMEDY}")
        return cls(ApiKeys(auth) if isinstance(auth, KeySource) else None)

    @property
    def asks_for_keys(self) -> bool:
        """Return whether only requests with a key are served."""
        return self._keys is not None

    def protect(self, api: FastAPI) -> FastAPI:
        """Return `api`, behind the keys if there are any."""
        if self._keys is not None:
            require_key(api, self._keys)
        return api


async def _http_host() -> str:
    """Return the host that Serve was really started with, which a running Serve keeps whatever a new config says."""
    controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    return str((await controller.get_http_config.remote()).host)
