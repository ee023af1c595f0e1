"""What both HTTP APIs share: the FastAPI factory, the one error shape, request ids, refused bodies, pages offline.

Knows nothing of users, pictures or Ray. Called by both APIs and the entrance.
"""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import (
    InvalidParameter,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    ServiceError,
    meanings_of_codes,
)
from serve_app.spelling import nearest

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
"""What a client may give as the id of its request; anything else could forge or flood the log."""

_MOST_PATH_CHARACTERS = 200
_MOST_NAME_CHARACTERS = 40
_MOST_UNKNOWN = 8
_WEBSOCKET_ANSWER = "websocket.http.response"
"""ASGI's extension by which a server lets the application answer a WebSocket handshake with an HTTP response."""
# Errors of Starlette and of Serve that have one of ours.
_BY_STATUS: Mapping[int, type[ServiceError]] = {
    error.status: error for error in (MalformedRequest, NotFound, MethodNotAllowed, Overloaded)
}


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    code: str = Field(
        description=f"A fixed word for programs.\n\n{meanings_of_codes(is_for_jobs=False)}",
        examples=["unreadable_image"],
    )
    detail: str = Field(description="What is wrong and what would mend it, for people.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the service's log.")


@dataclass(frozen=True)
class Drain:
    """How much of a refused request's body is read, and for how long.

    The default is for processes that know no application's bounds: more than the shipped configs let a client send.
    """

    max_bytes: int = 67_108_864
    timeout_s: float = 30.0


ErrorShape = Callable[[str, str, str], dict[str, str]]
"""Returns the body of an error from its code, its detail and the request's id."""


def own_shape(code: str, detail: str, request_id: str) -> dict[str, str]:
    """Return the service's own error body."""
    return ErrorBody(code=code, detail=detail, request_id=request_id).model_dump()


class Ready(BaseModel):
    """The answer of a warm replica."""

    ready: bool = True


def build_api(title: str, description: str) -> FastAPI:
    """Return a FastAPI application with the error shape in place and its pages at /docs and /redoc."""
    # A redirect to the path with or without its slash would name the host that the client made up.
    api: FastAPI = FastAPIOffline(
        title=title,
        description=description,
        version="1",
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_parameters)],
    )
    api.add_exception_handler(ServiceError, answer_service_error)
    api.add_exception_handler(RequestValidationError, _answer_invalid_parameter)
    api.add_exception_handler(HTTPException, _answer_http_exception)
    api.add_exception_handler(Exception, _answer_unexpected)
    api.add_middleware(_HeadAsGet)
    api.add_middleware(NoWebSocket)
    return api


async def refuse_unknown_parameters(request: Request) -> None:
    """Raise InvalidParameter for a query parameter that the endpoint does not have; it names the nearest one.

    A dependency of every endpoint: a misspelled parameter would otherwise be ignored, and its default be used.
    """
    if not request.scope["query_string"]:
        return
    known = [parameter.alias for parameter in request.scope["route"].dependant.query_params]
    unknown = [name[:_MOST_NAME_CHARACTERS] for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        faults = [_describe_unknown(name, known) for name in unknown[:_MOST_UNKNOWN]]
        takes = ", ".join(known) or "no query parameters"
        raise InvalidParameter(f"{'; '.join(faults)}. {request.method} {_path_of(request)} takes {takes}")


def documented(*errors: type[ServiceError], body: type[BaseModel] = ErrorBody) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI `responses` that show each error under its status in OpenAPI."""
    responses: dict[int | str, dict[str, Any]] = {}
    # Any endpoint may be asked with an unknown parameter, and fail in a way that nobody foresaw.
    every: tuple[type[ServiceError], ...] = (*errors, InvalidParameter, ServiceError)
    for error in dict.fromkeys(every):
        doc = f"`{error.code}`: {(error.__doc__ or '').strip()}"
        entry = responses.setdefault(error.status, {"model": body, "description": ""})
        entry["description"] = f"{entry['description']}\n\n{doc}".strip()
    return responses


async def discard_body(request: Request, drain: Drain) -> None:
    """Read what the client still sends and keep nothing, within the bounds of `drain`.

    A client that is still sending when the answer comes sees its connection reset instead of the answer.
    """
    received = 0
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):  # the last: all of it has been read already
        async with asyncio.timeout(drain.timeout_s):
            async for chunk in request.stream():
                received += len(chunk)
                if received >= drain.max_bytes:
                    return


def error_of(status: int) -> type[ServiceError]:
    """Return the error that an answer of Starlette or Serve with this status stands for."""
    return _BY_STATUS.get(status, ServiceError)


def request_id_of(request: HTTPConnection) -> str:
    """Return the id of this request: Serve's or the client's X-Request-ID, or a new one outside Serve."""
    given = request.headers.get(REQUEST_ID_HEADER)
    if given and REQUEST_ID.fullmatch(given):
        return given
    if not hasattr(request.state, "request_id"):
        request.state.request_id = str(uuid.uuid4())
    return str(request.state.request_id)


def shape_errors(api: FastAPI, path: str, shape: ErrorShape) -> None:
    """Give the errors of `api` at `path` and below it another shape."""
    api.state.error_shape = (path, shape)


def path_in_application(scope: Scope) -> str:
    """Return the path below the place where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def error_response(error: ServiceError, request_id: str, shape: ErrorShape = own_shape) -> JSONResponse:
    """Return the answer to a request that never reached an application."""
    headers = {REQUEST_ID_HEADER: request_id, **error.headers, **_retry_after(error)}
    body = shape(error.code, error.detail, request_id)
    return JSONResponse(body, status_code=error.status, headers=headers)


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


class NoWebSocket:
    """Answers a WebSocket handshake with a 404 in the error shape; the server alone would answer an empty 403."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as ASGI has it."""
        if scope["type"] != "websocket" or _WEBSOCKET_ANSWER not in scope.get("extensions", {}):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        error = NotFound(f"{_path_of(connection)}: WebSocket is not supported; send the request without `Upgrade`")
        await error_response(error, request_id_of(connection))(scope, receive, send)


def _describe_unknown(name: str, known: list[str]) -> str:
    near = nearest(name, known)
    meant = f" (did you mean {near}?)" if near else ""
    return f"query.{name}: unknown parameter{meant}"


def _path_of(request: HTTPConnection) -> str:
    # Not request.url, which parses the Host header as well and raises on a bad one.
    return str(request.scope["path"])[:_MOST_PATH_CHARACTERS]


def _answer_error(
    request: Request,
    status: int,
    code: str,
    detail: str,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = _shape_of(request)(code, detail, request_id_of(request))
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


def _shape_of(request: Request) -> ErrorShape:
    shaped: tuple[str, ErrorShape] | None = getattr(request.app.state, "error_shape", None)
    if shaped is None:
        return own_shape
    below, shape = shaped
    return shape if f"{path_in_application(request.scope)}/".startswith(f"{below}/") else own_shape


async def answer_service_error(request: Request, exc: Exception) -> JSONResponse:
    """Return the answer to a ServiceError, with a line in the log where it is a fault of ours."""
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
    detail = f"{request.method} {_path_of(request)}: {exc.detail}"
    headers = dict(exc.headers or {})
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
    return _answer_error(request, exc.status_code, error_of(exc.status_code).code, detail, headers)


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
