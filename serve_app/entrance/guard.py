"""Puts the API keys in front of an application and bounds the open requests of each client.

Without keys, a replica that others can reach does not start. Used by both deployments, in the replica: so `serve run`
and `serve deploy` cannot start unprotected either. They put it into the gate too, which counts a request from there on.
"""

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.entrance.haproxy import PAGE_PATH
from serve_app.entrance.keys import REMEDY, ApiKeys, Auth, KeySource, is_loopback
from serve_app.errors import ServiceError, SetupError, ShareExceeded, Unauthorized
from serve_app.metrics import Metrics
from serve_app.shares import EVERYONE, Account, Shares
from serve_app.web import answer_service_error, documented, path_in_application

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
_ACCOUNT = "account"
"""Where it stands in the state of a request."""


class Guard:
    """What one application's `auth` says, checked before anything heavy is loaded, and the accounts of its clients."""

    def __init__(
        self,
        keys: ApiKeys | None,
        metrics: Metrics | None = None,
        find_max_requests: Callable[[], int] = lambda: sys.maxsize,
    ) -> None:
        """`find_max_requests` returns how many requests the replica works on at a time now, of all clients together."""
        self._keys = keys
        self._find_max_requests = find_max_requests
        self._shares = Shares(keys.source.share, keys.count_clients, metrics or Metrics()) if keys else None

    @classmethod
    async def of(
        cls,
        auth: Auth,
        find_host: Callable[[], Awaitable[str]],
        find_max_requests: Callable[[], int] = lambda: sys.maxsize,
        metrics: Metrics | None = None,
    ) -> "Guard":
        """Return the guard for `auth` where the service listens on the host that `find_host` returns.

        The rest is as in the constructor. Raises SetupError when nothing was said on an address that others reach, or a
        key cannot be used.
        """
        if auth is None and not is_loopback(host := await find_host()):
            raise SetupError(f"other machines can reach http_options.host: {host}, but `args` has no `auth`; {REMEDY}")
        return cls(ApiKeys(auth), metrics, find_max_requests) if isinstance(auth, KeySource) else cls(None)

    def identify(self, headers: Headers) -> Account:
        """Return the account of the client whose key is in `headers`, that of EVERYONE where no key is needed.

        Raises Unauthorized when there is no valid key.
        """
        if self._keys is None or self._shares is None:
            return EVERYONE
        for key in given_keys(headers):
            if name := self._keys.find_name(key):
                return self._shares.account(name)
        raise Unauthorized("this needs an API key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`")

    def open_request(self, account: Account) -> AbstractContextManager[None]:
        """Count a request of a client as open while the block runs. Raises ShareExceeded."""
        return account.open_request(self._find_max_requests())

    @contextmanager
    def enter(self, scope: Scope) -> Iterator[Account | None]:
        """Find out whose a request is and count it as open while the block runs; once, in whichever place comes first.

        Yields the account; None for a path that may need no key, since the gate does not know where the application is
        mounted. Raises Unauthorized, ShareExceeded.
        """
        path = scope["path"]
        if any(known in path if known.endswith("/") else path.endswith(known) for known in OPEN_PATHS):
            yield None
            return
        with self.let_in(scope) as account:
            yield account

    @contextmanager
    def let_in(self, scope: Scope) -> Iterator[Account]:
        """As `enter`, for a path that needs a key."""
        state = scope.setdefault("state", {})
        if _ACCOUNT in state:
            yield state[_ACCOUNT]
            return
        account = self.identify(Headers(scope=scope))
        with self.open_request(account):
            state[_ACCOUNT] = account
            yield account

    def protect(self, api: FastAPI) -> FastAPI:
        """Return `api`, behind the keys if there are any."""
        if self._keys is not None:
            _require_key(api, self)
        return api


def account_of(request: Request) -> Account:
    """Return whose request this is, as the guard has found it out; that of EVERYONE where there is no guard."""
    account: Account = getattr(request.state, _ACCOUNT, EVERYONE)
    return account


def _require_key(api: FastAPI, guard: Guard) -> None:
    """Answer 401 to every request that `guard` does not know, but for readiness and the pages; OpenAPI says so too.

    Answer 429 to those whose key has its share of the open requests.
    """
    api.add_middleware(_KeyRequired, guard=guard)
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
                for error in (Unauthorized, ShareExceeded):
                    operation["responses"][str(error.status)] = _described(error, operation)
        return describe()

    api.openapi = describe_with_keys  # type: ignore[method-assign]


def given_keys(headers: Headers) -> list[str]:
    """Return the API keys that a request has, whichever way it sends them."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    given = [credentials.strip()] if scheme.lower() == "bearer" else []
    return [*given, headers[KEY_HEADER]] if KEY_HEADER in headers else given


class _KeyRequired:
    """Lets a request through that has one of the keys, within the client's share of the open requests.

    Of a refused body nothing is read: meanwhile, the request would have one of the places that Serve gives.
    """

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(path_in_application(scope)):
            await self._app(scope, receive, send)
            return
        with ExitStack() as opened:
            try:
                opened.enter_context(self._guard.let_in(scope))
            except (Unauthorized, ShareExceeded) as exc:
                answer = await answer_service_error(Request(scope, receive), exc)
                await answer(scope, receive, send)
            else:
                await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    return any(path.startswith(known) if known.endswith("/") else path == known for known in OPEN_PATHS)


def _described(error: type[ServiceError], operation: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAPI's description of an error, whose body is that of the operation's other errors."""
    other = operation["responses"][str(ServiceError.status)]
    return {**other, "description": documented(error)[error.status]["description"]}
