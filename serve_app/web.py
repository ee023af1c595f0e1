"""What both HTTP APIs share: the FastAPI factory, the one error shape, request ids, API keys, pages without internet.

Knows nothing of users, pictures or Ray. Called by `users.api` and `classifier.api`.
"""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.entrance.keys import ApiKeys
from serve_app.errors import InvalidParameter, ServiceError, Unauthorized

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client may give as the id of its request; anything else could forge or flood the log."""

KEY_HEADER = "x-api-key"
OPEN_PATHS = ("/ready", "/docs", "/redoc", "/openapi.json", "/static-offline-docs/")
"""Below an application, what nobody needs a key for; a path that ends with a slash stands for all below it."""

_DRAIN_S = 30.0
_DRAIN_BYTES = 50_272_384
"""The upload of a job, the largest there is, as the shipped configs bound it."""

_MOST_PATH_CHARACTERS = 200


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    code: str = Field(description="A fixed word for programs.", examples=["unreadable_image"])
    detail: str = Field(description="What is wrong and what would mend it, for people.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the service's log.")


class Ready(BaseModel):
    """The answer of a warm replica."""

    ready: bool = True


def build_api(title: str, description: str) -> FastAPI:
    """Return a FastAPI application with the error shape in place and its pages at /docs and /redoc."""
    # A redirect to the path with or without its slash would name the host that the client made up.
    api: FastAPI = FastAPIOffline(title=title, description=description, version="1", redirect_slashes=False)
    api.add_exception_handler(ServiceError, _answer_service_error)
    api.add_exception_handler(RequestValidationError, _answer_invalid_parameter)
    api.add_exception_handler(HTTPException, _answer_http_exception)
    api.add_exception_handler(Exception, _answer_unexpected)
    api.add_middleware(_HeadAsGet)
    return api


def documented(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI `responses` that show each error under its status in OpenAPI."""
    responses: dict[int | str, dict[str, Any]] = {}
    every: tuple[type[ServiceError], ...] = (*errors, ServiceError)
    for error in dict.fromkeys(every):  # what nobody foresaw can happen anywhere
        doc = f"`{error.code}`: {(error.__doc__ or '').strip()}"
        entry = responses.setdefault(error.status, {"model": ErrorBody, "description": ""})
        entry["description"] = f"{entry['description']}\n\n{doc}".strip()
    return responses


def require_key(api: FastAPI, keys: ApiKeys) -> None:
    """Answer 401 to every request without one of `keys`, but for readiness and the pages; OpenAPI says so too."""
    api.add_middleware(_KeyRequired, keys=keys)
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


async def discard_body(receive: Receive, max_bytes: int = _DRAIN_BYTES, timeout_s: float = _DRAIN_S) -> None:
    """Read what the client still sends and keep nothing: it would see a reset instead of an answer that comes early."""
    received, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while more and received < max_bytes:
                message = await receive()
                received += len(message.get("body", b""))
                more = message.get("more_body", False)


def request_id_of(request: Request) -> str:
    """Return the id of this request: Serve's or the client's X-Request-ID, or a new one outside Serve."""
    given = request.headers.get(REQUEST_ID_HEADER)
    if given and REQUEST_ID.fullmatch(given):
        return given
    if not hasattr(request.state, "request_id"):
        request.state.request_id = str(uuid.uuid4())
    return str(request.state.request_id)


def error_response(error: ServiceError, request_id: str) -> JSONResponse:
    """Return the answer to a request that never reached an application."""
    body = ErrorBody(code=error.code, detail=error.detail, request_id=request_id)
    headers = {REQUEST_ID_HEADER: request_id, **error.headers, **_retry_after(error)}
    return JSONResponse(body.model_dump(), status_code=error.status, headers=headers)


def _retry_after(error: ServiceError) -> dict[str, str]:
    return {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}


class _HeadAsGet:
    """Answers HEAD as GET would, headers and their Content-Length included, without the body (RFC 9110, 9.3.2).

    In OpenAPI each path would have the same operation twice, so it stands in none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
            elif not message.get("more_body", False):
                await send({"type": "http.response.body", "body": b""})

        await self._app({**scope, "method": "GET"}, receive, send_head)


class _KeyRequired:
    """Lets a request through that has one of the keys, as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(_path_in_application(scope)) or self._has_key(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        await discard_body(receive)
        detail = "this needs an API key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        answer = await _answer_service_error(Request(scope), Unauthorized(detail))
        await answer(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        return any(self._keys.admit(key) for key in given_keys(headers))


def given_keys(headers: Headers) -> list[str]:
    """Return the API keys that a request has, whichever way it sends them."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    given = [credentials.strip()] if scheme.lower() == "bearer" else []
    return [*given, headers[KEY_HEADER]] if KEY_HEADER in headers else given


def _path_in_application(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _is_open(path: str) -> bool:
    return any(path.startswith(known) if known.endswith("/") else path == known for known in OPEN_PATHS)


def _described_401() -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}
    description = f"`{Unauthorized.code}`: {(Unauthorized.__doc__ or '').strip()}"
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _path_of(request: Request) -> str:
    # Not request.url, which parses the Host header as well and raises on a bad one.
    return str(request.scope["path"])[:_MOST_PATH_CHARACTERS]


def _answer_error(
    request: Request,
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = ErrorBody(code=code, detail=detail, request_id=request_id_of(request))
    return JSONResponse(body.model_dump(), status_code=status, headers=dict(headers or {}))


async def _answer_service_error(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, ServiceError)
    if exc.is_logged and exc.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.warning("%s %s: %s: %s", request.method, _path_of(request), exc.code, exc.detail)
    return _answer_error(request, exc.status, exc.code, exc.detail, {**exc.headers, **_retry_after(exc)})


async def _answer_invalid_parameter(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    faults = (f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in exc.errors())
    return _answer_error(request, InvalidParameter.status, InvalidParameter.code, "; ".join(faults))


async def _answer_http_exception(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    code = HTTPStatus(exc.status_code).phrase.lower().replace(" ", "_")
    detail = f"{request.method} {_path_of(request)}: {exc.detail}"
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
    return _answer_error(request, exc.status_code, code, detail, headers)


def _allowed_methods(request: Request) -> set[str]:
    """Return the methods of all routes to this path: the first one, which Starlette names, may be one of several."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    allowed = {method for route in routes for method in getattr(route, "methods", None) or {"GET"}}
    return allowed | {"HEAD"} if "GET" in allowed else allowed


async def _answer_unexpected(request: Request, exc: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, _path_of(request), exc_info=exc)
    detail = "the service failed on this request; its log has the cause under this request_id"
    return _answer_error(request, ServiceError.status, ServiceError.code, detail)


ReadyCheck = Callable[[], Awaitable[None]]


def add_ready_route(api: FastAPI, check_ready: ReadyCheck, *errors: type[ServiceError]) -> None:
    """Add GET /ready: 200 once `check_ready` returns, and the ServiceError it raises otherwise."""

    @api.get("/ready", responses=documented(*errors), summary="Is this replica warm?")
    async def ready() -> Ready:
        await check_ready()
        return Ready()
