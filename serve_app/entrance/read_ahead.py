"""Bounds how much of a body Serve reads before the application asks for it.

Serve reads every request to its end at once, into a queue without a bound, to hear of a client that has gone: uvicorn
could never hold a client back, and a body that no handler reads would fill the memory of the replica. `middleware` puts
ReadsLittleAhead in front of that queue; the deployments put `tell_what_is_taken` behind it.
"""

import asyncio
from functools import partial

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.entrance.gate import GATE

_TAKEN = "serve_app.taken"
"""Where in the state of a request stands what the application calls for each message that it has taken."""


def tell_what_is_taken(api: FastAPI) -> FastAPI:
    """Return `api`, which from now on tells what it takes of a body; Serve reads one message ahead of it.

    A message has what has arrived when it is read, usually at most HAProxy's buffer. While a body is not read to its
    end, Serve does not hear that its client has gone.
    """
    api.add_middleware(_TellsWhatIsTaken)
    GATE.is_told_what_is_taken = True
    return api


class ReadsLittleAhead:
    """Gives Serve one message of a body, and the next one when the application has taken it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as ASGI has it."""
        if scope["type"] != "http" or not GATE.is_told_what_is_taken:
            await self._app(scope, receive, send)
            return
        may_read, is_at_end = asyncio.Semaphore(1), False

        async def receive_when_taken() -> Message:
            nonlocal is_at_end
            if not is_at_end:  # after it, only the end of the connection is waited for
                await may_read.acquire()
            message = await receive()
            is_at_end = is_at_end or not message.get("more_body", False)
            return message

        # The application may run in another thread than the server (RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD).
        release = partial(asyncio.get_running_loop().call_soon_threadsafe, may_read.release)
        scope.setdefault("state", {})[_TAKEN] = release
        await self._app(scope, receive_when_taken, send)


class _TellsWhatIsTaken:
    """Stands around all of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tell = scope.get("state", {}).get(_TAKEN)
        if tell is None:
            await self._app(scope, receive, send)
            return

        async def receive_and_tell() -> Message:
            message = await receive()
            tell()
            return message

        await self._app(scope, receive_and_tell, send)
