"""What both HTTP APIs share: the FastAPI factory, the one error shape, request ids, documentation without internet.

Knows nothing of users, pictures or Ray. Called by `users.api` and `classifier.api`.
"""

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from serve_app.errors import InvalidParameter, ServiceError

logger = logging.getLogger(__name__)

REQUEST_ID_HEADER = "x-request-id"

_MOST_ID_CHARACTERS = 128
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


def request_id_of(request: Request) -> str:
    """Return the id of this request: Serve's or the client's X-Request-ID, or a new one if that is none to print."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    if 0 < len(given) <= _MOST_ID_CHARACTERS and given.isascii() and given.isprintable():
        return given
    if not hasattr(request.state, "request_id"):
        request.state.request_id = str(uuid.uuid4())
    return str(request.state.request_id)


def error_response(error: ServiceError, request_id: str) -> JSONResponse:
    """Return the answer to a request that never reached an application."""
    body = ErrorBody(code=error.code, detail=error.detail, request_id=request_id)
    headers = {REQUEST_ID_HEADER: request_id, **_retry_after(error)}
    return JSONResponse(body.model_dump(), status_code=error.status, headers=headers)


def _retry_after(error: ServiceError) -> dict[str, str]:
    return {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}


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
    return _answer_error(request, exc.status, exc.code, exc.detail, _retry_after(exc))


async def _answer_invalid_parameter(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    faults = (f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in exc.errors())
    return _answer_error(request, InvalidParameter.status, InvalidParameter.code, "; ".join(faults))


async def _answer_http_exception(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    code = HTTPStatus(exc.status_code).phrase.lower().replace(" ", "_")
    detail = f"{request.method} {_path_of(request)}: {exc.detail}"
    return _answer_error(request, exc.status_code, code, detail, exc.headers)


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
