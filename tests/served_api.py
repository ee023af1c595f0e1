"""Serves an API of the service over HTTP, without Ray, in the event loop of a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from tests.patience import until
from tests.ports import free_port


@asynccontextmanager
async def served(api: ASGIApp, *, at: str = "/model") -> AsyncIterator[str]:
    """Serve `api` below the path `at` on a free port, in this event loop; yields the address."""
    mounted = FastAPI(openapi_url=None)
    mounted.mount(at, api)
    port = free_port()
    # Without uvicorn's log_config, which closes all handlers of this process, and absl's closes the stream of pytest.
    server = uvicorn.Server(
        uvicorn.Config(mounted, host="127.0.0.1", port=port, log_level="critical", log_config=None, lifespan="off")
    )
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started or running.done(), "the server")
    assert server.started
    yield f"http://127.0.0.1:{port}"
    server.should_exit = server.force_exit = True
    with suppress(asyncio.CancelledError):
        await running
