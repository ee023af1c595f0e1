"""Works on many things concurrently and emits the results in the order of the things."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

Thing = TypeVar("Thing")
Result = TypeVar("Result")

WINDOW = 256
"""Largest number of results that wait for an earlier one; beyond, no work starts until that one is complete."""


def batches(things: Iterable[Thing], size: int) -> Iterator[list[Thing]]:
    """Yield `things` in lists of `size`, the last one of what is left."""
    left = iter(things)
    while batch := list(islice(left, size)):
        yield batch


async def run_in_order(
    things: Iterable[Thing],
    work: Callable[[Thing], Awaitable[Result]],
    parallel: int,
    emit: Callable[[Result], None],
) -> None:
    """Run `work` on each of `things`, `parallel` at a time, and pass the results to `emit` in order.

    If `work` raises or this is cancelled, the rest is cancelled and completed results are still emitted. Raises the
    first error of `work` or `emit`.
    """
    waiting: deque[asyncio.Task[Result]] = deque()
    free = asyncio.Semaphore(parallel)

    async def work_and_free(thing: Thing) -> Result:
        try:
            return await work(thing)
        finally:
            free.release()

    try:
        async with asyncio.TaskGroup() as group:
            for thing in things:
                await free.acquire()
                waiting.append(group.create_task(work_and_free(thing)))
                while waiting and (waiting[0].done() or len(waiting) > WINDOW):
                    emit(await _first(waiting))
            while waiting:
                emit(await _first(waiting))
    except BaseExceptionGroup as group_error:
        _emit_ready(waiting, emit)
        raise group_error.exceptions[0] from None
    except asyncio.CancelledError:
        _emit_ready(waiting, emit)
        raise


async def _first(waiting: "deque[asyncio.Task[Result]]") -> Result:
    result = await waiting[0]
    waiting.popleft()  # only now: if this is cancelled, the result is not lost
    return result


def _emit_ready(waiting: "deque[asyncio.Task[Result]]", emit: Callable[[Result], None]) -> None:
    for task in waiting:
        if not task.cancelled() and task.exception() is None:
            emit(task.result())
