"""On which cores an engine holds its threads while it computes: held ones of several replicas may be the same.

Called while the engine is warmed. Linux only; elsewhere nothing is seen.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

_LOOK_EVERY_S = 0.005

T = TypeVar("T")


def watch_pinning(compute: Callable[[], T]) -> tuple[T, frozenset[int]]:
    """Return what `compute` returns, and the cores on which threads of this process were held meanwhile.

    A thread is held when it may run on fewer cores than the process.
    """
    held: set[int] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            held.update(*_held_masks())

    watcher = threading.Thread(target=watch, name="pinning")
    watcher.start()
    try:
        result = compute()
    finally:
        ended.set()
        watcher.join()
    return result, frozenset(held)


def _held_masks() -> Iterator[set[int]]:
    if sys.platform != "linux":
        return
    whole = os.sched_getaffinity(os.getpid())  # of the main thread, which computes nothing
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 some hundred times a second
        with suppress(OSError):  # it ended just now
            mask = os.sched_getaffinity(int(thread))
            if mask < whole:
                yield mask
