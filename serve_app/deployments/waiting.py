"""Says what a start or a rollout waits for, every few seconds, so that nobody takes it for a hang."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PROGRESS_S = 5.0


def say(text: str) -> None:
    """Print a line. Where nobody reads any more (`| head`, a closed terminal), this and all later ones go nowhere."""
    try:
        print(text, flush=True)
    except OSError:
        # Python flushes what it could not write once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def waiting_for(
    what: str,
    say: Callable[[str], None],
    every_s: float = PROGRESS_S,
    why: Callable[[], str | None] = lambda: None,
) -> Iterator[None]:
    """Say what is waited for, since when and, if it is known, why, every `every_s`, for as long as the block lasts."""
    begun_s, is_over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not is_over.wait(every_s):
            reason = why()
            say(f"  waiting for {what} ({time.monotonic() - begun_s:.0f} s){f': {reason}' if reason else ''}")

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        yield
    finally:
        is_over.set()
        telling.join()
