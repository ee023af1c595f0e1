"""The task that every candidate runs: notes its begin, takes its time, notes its end."""

import os
import time

POISON_S = -1.0
"""Instead of a duration: a task that ends its worker."""


def note(what: str, number: int) -> None:
    """Append a line: what, number, process group, seconds since 1970."""
    line = f"{what} {number} {os.getpgid(0)} {time.time():.3f}\n"
    log = os.open(os.environ["QUEUE_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, line.encode())
    os.close(log)


def work(number: int, seconds: float) -> None:
    """Take `seconds`, or end the process when they are POISON_S."""
    note("begin", number)
    if seconds == POISON_S:
        os._exit(1)
    time.sleep(seconds)
    note("end", number)
