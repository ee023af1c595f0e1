"""Serve's queue in front of an application, for real: how much of a body gets into it before somebody asks for it."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fastapi import FastAPI, Request
from ray.serve._private.direct_ingress_http_util import ASGIDIReceiveProxy
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.entrance.gate import GATE
from serve_app.entrance.middleware import middlewares
from serve_app.entrance.read_ahead import tell_what_is_taken
from serve_app.web import Drain
from tests.patience import HANG_S

PIECE = b"x" * 65_536
Handler = Callable[[Request], Awaitable[dict[str, int]]]


def through_serves_queue(app: ASGIApp) -> ASGIApp:
    """Return what hands requests on as Serve's replica does (replica.py, _direct_ingress_asgi)."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        proxy = ASGIDIReceiveProxy(scope, receive, asyncio.get_running_loop())
        reading = proxy.fetch_until_disconnect_task()
        request = asyncio.ensure_future(app(scope, proxy, send))
        await asyncio.wait([reading, request], return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, request):
            task.cancel()
        await asyncio.wait([reading, request])

    return serve


class Client:
    """Sends `pieces` of a body, stays until it is answered, or leaves at the end of its body."""

    def __init__(self, pieces: int, *, leaves: bool = False) -> None:
        self._pieces = pieces
        self._leaves = leaves
        self.taken = 0
        self.sent: list[Message] = []

    async def send(self, method: str, app: ASGIApp) -> None:
        scope = {"type": "http", "method": method, "path": "/", "headers": [], "query_string": b"", "root_path": ""}
        async with asyncio.timeout(HANG_S):
            await app(scope, self._receive, self._hear)

    async def _receive(self) -> Message:
        await asyncio.sleep(0)
        if self.taken == self._pieces:
            if not self._leaves:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}
        self.taken += 1
        return {"type": "http.request", "body": PIECE, "more_body": self.taken < self._pieces}

    async def _hear(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def heard(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], ASGIApp]:
    """What puts a handler behind our middleware and Serve's queue."""
    monkeypatch.setattr(GATE, "is_told_what_is_taken", False)

    def serve(handler: Handler) -> ASGIApp:
        api = FastAPI()
        api.add_api_route("/", handler, methods=["GET", "POST"])
        stack = Starlette(middleware=[*reversed(middlewares())])
        stack.mount("/", through_serves_queue(tell_what_is_taken(api)))
        return stack

    return serve


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_body_that_no_handler_reads_stays_with_the_client(
    served: Callable[[Handler], ASGIApp], method: str
) -> None:
    async def wait(_request: Request) -> dict[str, int]:
        for _ in range(1000):  # as long as it takes for as many pieces
            await asyncio.sleep(0)
        return {"read": 0}

    client = Client(10_000)
    await client.send(method, served(wait))
    assert client.heard == b'{"read":0}'
    assert client.taken == 1


async def test_a_body_is_read_to_its_end_and_never_more_than_one_message_ahead(
    served: Callable[[Handler], ASGIApp],
) -> None:
    ahead: list[int] = []
    client = Client(50)

    async def read(request: Request) -> dict[str, int]:
        got = 0
        async for chunk in request.stream():
            got += len(chunk)
            for _ in range(20):
                await asyncio.sleep(0)
            ahead.append(client.taken - got // len(PIECE))
        return {"read": got}

    await client.send("POST", served(read))
    assert client.heard == b'{"read":%d}' % (50 * len(PIECE))
    assert max(ahead) == 1


async def test_a_client_that_leaves_after_its_body_is_noticed(served: Callable[[Handler], ASGIApp]) -> None:
    async def wait(_: Request) -> dict[str, int]:
        await asyncio.Event().wait()
        return {}

    client = Client(1, leaves=True)
    await client.send("POST", served(wait))
    assert client.heard == b""


async def test_what_serve_refuses_itself_is_read_although_nobody_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Scope, __: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"Request dropped due to backpressure"})

    monkeypatch.setattr(GATE, "is_told_what_is_taken", True)
    stack = Starlette(middleware=[*reversed(middlewares())])
    stack.mount("/", refuse)
    client = Client(20)
    await client.send("POST", stack)
    assert b'"code":"overloaded"' in client.heard
    assert client.taken == 20


async def test_an_application_of_somebody_else_reads_as_with_serve_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(request: Request) -> dict[str, int]:
        return {"read": len(await request.body())}

    monkeypatch.setattr(GATE, "is_told_what_is_taken", False)
    api = FastAPI()
    api.add_api_route("/", read, methods=["POST"])
    stack = Starlette(middleware=[*reversed(middlewares())])
    stack.mount("/", through_serves_queue(api))
    client = Client(20)
    await client.send("POST", stack)
    assert client.heard == b'{"read":%d}' % (20 * len(PIECE))


@pytest.mark.parametrize("is_read_by_serve", [True, False], ids=["Serve reads meanwhile", "nobody reads"])
async def test_serves_own_proxy_answers_when_the_upload_is_read(
    monkeypatch: pytest.MonkeyPatch, *, is_read_by_serve: bool
) -> None:
    async def refuse(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]})
        taken_at_the_answer.append(client.taken)
        await send({"type": "http.response.body", "body": b"{}"})

    monkeypatch.setattr(GATE, "is_told_what_is_taken", False)
    taken_at_the_answer: list[int] = []
    client = Client(20)
    stack = Starlette(middleware=[*reversed(middlewares())])
    stack.mount("/", through_serves_queue(refuse) if is_read_by_serve else refuse)
    await client.send("POST", stack)
    assert client.heard == b"{}"
    assert taken_at_the_answer == [20]


async def test_what_serve_no_longer_reads_is_read_before_its_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the time limit of `http_options.request_timeout_s` is over."""

    async def give_up(_: Scope, receive: Receive, send: Send) -> None:
        reading = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        reading.cancel()
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 408, "headers": headers})
        await send({"type": "http.response.body", "body": b"Request timed out"})

    monkeypatch.setattr(GATE, "is_told_what_is_taken", True)
    client = Client(20)
    stack = Starlette(middleware=[*reversed(middlewares())])
    stack.mount("/", give_up)
    await client.send("POST", stack)
    assert b"Request timed out" in client.heard
    assert client.taken == 20


async def test_serves_own_proxy_waits_once_for_a_client_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stalling(Client):
        asked = 0

        async def _receive(self) -> Message:
            self.asked += 1
            return await asyncio.Event().wait()  # type: ignore[return-value]

    async def refuse(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        for _number in range(5):
            await send({"type": "http.response.body", "body": b"no ", "more_body": True})
        await send({"type": "http.response.body"})

    monkeypatch.setattr(GATE, "is_told_what_is_taken", False)
    monkeypatch.setattr(GATE, "drain", Drain(timeout_s=0.1))
    client = Stalling(1)
    stack = Starlette(middleware=[*reversed(middlewares())])
    stack.mount("/", refuse)
    await client.send("POST", stack)
    assert client.heard == 5 * b"no "
    assert client.asked == 1
