"""Says what a start waits for, every few seconds, so that nobody takes it for a hang."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PROGRESS_S = 5.0


@contextmanager
def waiting_for(what: str, say: Callable[[str], None], every_s: float = PROGRESS_S) -> Iterator[None]:
    """Say what is waited for and since when, every `every_s`, for as long as the block lasts."""
    begun_s, is_over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not is_over.wait(every_s):
            say(f"  waiting for {what} ({time.monotonic() - begun_s:.0f} s)")

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        yield
    finally:
        is_over.set()
        telling.join()
