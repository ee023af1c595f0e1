"""Ends the tasks that talk to Redis."""

import asyncio
from collections.abc import Iterable

_CANCEL_AGAIN_S = 0.1


async def end_tasks(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Cancel `tasks` and return when all have ended.

    More than once if need be: redis-py waits for its sends with asyncio.wait_for, which until Python 3.12 forgets a
    cancellation that comes in the moment of success (CPython issue 86296).
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
