"""Puts the API keys in front of an application; without them a replica that others can reach does not start.

Used by both deployments, in the replica: so `serve run` and `serve deploy` cannot start unprotected either.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.entrance.haproxy import PAGE_PATH
from serve_app.entrance.keys import REMEDY, ApiKeys, Auth, KeySource, is_loopback
from serve_app.errors import SetupError, Unauthorized
from serve_app.web import Drain, answer_service_error, discard_body, documented, path_in_application

KEY_HEADER = "x-api-key"
OPEN_PATHS = (
    "/ready",
    PAGE_PATH,
    "/v2/health/live",
    "/v2/health/ready",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/static-offline-docs/",
)
"""Below an application, what needs no key; a path that ends with a slash stands for all below it."""


class Guard:
    """What one application's `auth` says, checked before anything heavy is loaded."""

    def __init__(self, keys: ApiKeys | None) -> None:
        self._keys = keys

    @classmethod
    async def of(cls, auth: Auth, find_host: Callable[[], Awaitable[str]]) -> "Guard":
        """Return the guard for `auth` where the service listens on the host that `find_host` returns.

        Raises SetupError when nothing was said on an address that others reach, or a key cannot be used.
        """
        if auth is None and not is_loopback(host := await find_host()):
            raise SetupError(f"other machines can reach http_options.host: {host}, but `args` has no `auth`; {REMEDY}")
        return cls(ApiKeys(auth) if isinstance(auth, KeySource) else None)

    @property
    def asks_for_keys(self) -> bool:
        """Return whether only requests with a key are served."""
        return self._keys is not None

    def check(self, headers: Headers) -> None:
        """Return if there is a valid key in `headers`, or none is needed. Raises Unauthorized."""
        if self._keys is not None and not any(self._keys.admit(key) for key in given_keys(headers)):
            raise Unauthorized("this needs an API key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`")

    def protect(self, api: FastAPI, drain: Drain) -> FastAPI:
        """Return `api`, behind the keys if there are any; of a refused body as much is read as `drain` says."""
        if self._keys is not None:
            require_key(api, self._keys, drain)
        return api


def require_key(api: FastAPI, keys: ApiKeys, drain: Drain) -> None:
    """Answer 401 to every request without one of `keys`, but for readiness and the pages; OpenAPI says so too."""
    api.add_middleware(_KeyRequired, guard=Guard(keys), drain=drain)
    describe = api.openapi

    def describe_with_keys() -> dict[str, Any]:
        if api.openapi_schema is None:
            document = describe()
            schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
            schemes["bearer"] = {"type": "http", "scheme": "bearer"}
            schemes["key"] = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
            closed = (item for path, item in document["paths"].items() if not _is_open(path))
            for operation in (operation for item in closed for operation in item.values()):
                operation["security"] = [{"bearer": []}, {"key": []}]
                operation["responses"]["401"] = _described_401()
        return describe()

    api.openapi = describe_with_keys  # type: ignore[method-assign]


def given_keys(headers: Headers) -> list[str]:
    """Return the API keys that a request has, whichever way it sends them."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    given = [credentials.strip()] if scheme.lower() == "bearer" else []
    return [*given, headers[KEY_HEADER]] if KEY_HEADER in headers else given


class _KeyRequired:
    """Lets a request through that has one of the keys, as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    def __init__(self, app: ASGIApp, guard: Guard, drain: Drain) -> None:
        self._app = app
        self._guard = guard
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(path_in_application(scope)):
            await self._app(scope, receive, send)
            return
        try:
            self._guard.check(Headers(scope=scope))
        except Unauthorized as exc:
            request = Request(scope, receive)
            await discard_body(request, self._drain)
            answer = await answer_service_error(request, exc)
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return any(path.startswith(known) if known.endswith("/") else path == known for known in OPEN_PATHS)


def _described_401() -> dict[str, Any]:
    described = documented(Unauthorized)[Unauthorized.status]
    schema = {"$ref": f"#/components/schemas/{described['model'].__name__}"}
    return {"description": described["description"], "content": {"application/json": {"schema": schema}}}
