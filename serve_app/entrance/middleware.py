"""Stands in front of Serve in every process that takes HTTP: replicas behind HAProxy, and Serve's own proxy.

Named in configs/serve.env as RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH. Clients cannot change Serve's own limits, and
what Serve itself answers has the service's error shape.
"""

import asyncio
from contextlib import ExitStack, suppress
from http import HTTPStatus
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.entrance.gate import GATE
from serve_app.entrance.haproxy import LAST_ANSWER_HEADER
from serve_app.entrance.read_ahead import ReadsLittleAhead
from serve_app.entrance.under_way import UnderWay
from serve_app.errors import ServiceError, Stopping
from serve_app.web import (
    REQUEST_ID,
    REQUEST_ID_HEADER,
    NoWebSocket,
    discard_body,
    error_of,
    error_response,
    path_in_application,
)

IGNORED_HEADERS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"x-session-id",
        b"serve-multiplexed-model-id",
    }
)
"""Serve lets a client switch its time limit and its watch for disconnects off with the first two; the others it decodes
as UTF-8, and answers 500 where it cannot. An underscore counts as a hyphen, as with Serve."""

_OWN_PATHS = "/-/"
_STOPPING = "this service is being stopped; send the request again, to the one that comes after it"


def middlewares() -> list[Middleware]:
    """Return what Serve is to put in front of itself."""
    return [
        Middleware(ReadsLittleAhead),
        Middleware(NoWebSocket),  # Serve answers a handshake at a path that is not routed with 500
        Middleware(ServeAnswersInOneShape),
        Middleware(RefusesAtOnce),
        Middleware(ServeHeadersIgnored),
    ]


class ServeHeadersIgnored:
    """Takes the headers away by which a client could change Serve's own limits, or write what it likes into the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as ASGI has it."""
        if scope["type"] == "http":
            headers = [header for header in scope["headers"] if _is_harmless(*header)]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


class RefusesAtOnce:
    """Answers what comes to a service that is being stopped, and what the gate refuses; counts those under way.

    The upload is read first, so that the client sees the answer and no reset.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._under_way = UnderWay()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as ASGI has it."""
        if scope["type"] != "http" or _is_serves_own(scope):
            await self._app(scope, receive, send)
            return
        with self._under_way.one_more(), ExitStack() as entered:
            try:
                if not self._under_way.is_accepted(scope):
                    raise Stopping(_STOPPING)
                entered.enter_context(GATE.enter(scope))
            except ServiceError as exc:
                error = exc
            else:
                await self._app(scope, receive, send)
                return
            await discard_body(Request(scope, receive), GATE.drain)
            request_id = Headers(scope=scope).get(REQUEST_ID_HEADER) or str(uuid4())
            response = error_response(error, request_id, GATE.shape_of(scope))
            if isinstance(error, Stopping):  # a client that asks again and again must not keep the service alive
                response.headers[LAST_ANSWER_HEADER] = "1"
                response.headers["Connection"] = "close"
            await response(scope, receive, send)


class ServeAnswersInOneShape:
    """Turns Serve's own refusals, which are plain text, into the error body; the applications have no such answers.

    The upload is read first: a client that is still sending would see its connection reset instead of the answer.
    Behind Serve's own proxy that is so for the answers of the applications too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as ASGI has it."""
        if scope["type"] == "http" and not _is_serves_own(scope):
            exchange = _Exchange(scope, receive, send)
            await self._app(scope, exchange.receive, exchange.send)
        else:
            await self._app(scope, receive, send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._received_bytes = 0
        self._is_read = False
        self._is_waited_for = False
        self._is_reading = False
        self._has_stopped_reading = asyncio.Event()
        self._start: Message | None = None
        self._text = b""

    async def receive(self) -> Message:
        self._is_reading = True
        self._has_stopped_reading.clear()
        try:
            message = await self._receive()
        finally:
            self._is_reading = False
            self._has_stopped_reading.set()
        self._received_bytes += len(message.get("body", b""))
        if not message.get("more_body", False) or self._received_bytes >= GATE.drain.max_bytes:
            self._is_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_plain_refusal(message):
            self._start = message
        elif self._start is None:
            if not GATE.is_told_what_is_taken:  # Serve's own proxy, which would close a connection with unread bytes
                await self._read_upload()
            await self._send(message)
        else:
            self._text += message.get("body", b"")
            if not message.get("more_body", False):
                await self._read_upload()
                await self._answer(self._start)

    async def _read_upload(self) -> None:
        """Return when all of it is read: by Serve while that reads, since two cannot, and else here."""
        if self._is_waited_for:
            return
        self._is_waited_for = True
        with suppress(TimeoutError):
            async with asyncio.timeout(GATE.drain.timeout_s):
                while self._is_reading and not self._is_read:
                    await self._has_stopped_reading.wait()
                if not self._is_read:
                    await discard_body(Request(self._scope, self.receive), GATE.drain)

    async def _answer(self, start: Message) -> None:
        given = Headers(raw=start["headers"])
        status = start["status"]
        error = error_of(status)
        text = " ".join(self._text.decode(errors="replace").split()) or HTTPStatus(status).phrase
        request_id = given.get(REQUEST_ID_HEADER) or str(uuid4())
        body = bytes(JSONResponse(GATE.shape_of(self._scope)(error.code, text, request_id)).body)
        replaced = (b"content-type", b"content-length")
        headers = [header for header in start["headers"] if header[0].lower() not in replaced]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({**start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _is_serves_own(scope: Scope) -> bool:
    return path_in_application(scope).startswith(_OWN_PATHS)  # the path begins with `http_options.root_path`


def _is_harmless(name: bytes, value: bytes) -> bool:
    name = name.lower()
    if name == REQUEST_ID_HEADER.encode():  # Serve makes an id where there is none
        return REQUEST_ID.fullmatch(value.decode("latin-1")) is not None
    return name.replace(b"_", b"-") not in IGNORED_HEADERS


def _is_plain_refusal(start: Message) -> bool:
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] >= HTTPStatus.BAD_REQUEST and kind.startswith("text/plain")
