"""A service that reads every request to its end and answers by rule: for what the kit says of refusals."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from tests.ports import free_port

START_S = 60.0
Rule = Callable[[Request], Response]


@dataclass
class SimpleService:
    """Where it is, and what was asked."""

    url: str
    seen: list[Request] = field(default_factory=list)

    def lines(self) -> set[str]:
        """Return method and path of all requests."""
        return {f"{request.method} {request.url.path}" for request in self.seen}


@contextmanager
def simple_service(rule: Rule) -> Iterator[SimpleService]:
    """Run it on a free port of this machine, in a thread, until the end of the block."""
    port = free_port()
    service = SimpleService(f"http://127.0.0.1:{port}")

    async def app(scope: dict[str, object], receive: object, send: object) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)  # type: ignore[arg-type]
            await request.body()
            service.seen.append(request)
            await rule(request)(scope, receive, send)  # type: ignore[arg-type]

    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", log_config=None, lifespan="off")
    )
    thread = threading.Thread(target=server.run, name="simple service")
    thread.start()
    deadline_s = time.monotonic() + START_S
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    try:
        yield service
    finally:
        server.should_exit = server.force_exit = True
        thread.join(START_S)
        assert not thread.is_alive()
