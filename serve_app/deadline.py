"""Bounds how long the answer to a question may take, where the library that asks does not.

The limits of most libraries are for one address of a host, or for one byte, and none of them bounds a name server.
"""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def answer_within(longest_s: float, ask: Callable[[], T]) -> T:
    """Return what `ask` returns, or raise what it raises. Raises TimeoutError after `longest_s`.

    `ask` then goes on in a daemon thread, which holds up nothing, not even the end of the process.
    """
    answer: Future[T] = Future()

    def wait() -> None:
        try:
            answer.set_result(ask())
        except BaseException as exc:  # noqa: BLE001 it is raised where somebody waits for the answer
            answer.set_exception(exc)

    Thread(target=wait, daemon=True).start()
    return answer.result(longest_s)
