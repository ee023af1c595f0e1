"""Load generators for a run on another machine, one load after the other. Called by `loadtest generator`."""

import time
from typing import NoReturn

from loadtest.load.generator import Processes, clean_environment, take_down, worker_command
from loadtest.machine.processes import start_process, undisturbed

_POLL_S = 0.1
_AGAIN_AFTER_S = 1.0


def serve_master(host: str, port: int, count: int) -> NoReturn:
    """Keep `count` generators ready for the master at an address until a signal comes; each ends with its load.

    The master has the locustfile. Raises Interrupted, when all have been taken down.
    """
    command = worker_command(0, host, port, "-f", "-")
    running: Processes = []
    try:
        while True:
            while len(running) < count:
                running.append(start_process(command, None, clean_environment()))
            time.sleep(_POLL_S)
            if any(process.poll() for process in running):
                time.sleep(_AGAIN_AFTER_S)  # the next one may fail alike
            running = [process for process in running if process.poll() is None]
    finally:
        with undisturbed():
            take_down(running)
