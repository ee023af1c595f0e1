"""`python -m tests.postgres_server FOLDER start|stop|lock|close`: a real PostgreSQL for the shipped fault plan.

From the pgserver wheel (`.[dev]`). `start` returns when it takes connections, on a socket in FOLDER/data, and leaves it
running; `stop` closes every connection and keeps the data; `lock` holds the lock of ALTER TABLE on the users table, so
that readers wait; `close` stops it and deletes the folder.
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

STOP_S = 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("do", choices=("start", "stop", "lock", "close"))
    parser.add_argument("--for-s", type=float, default=10)
    arguments = parser.parse_args()
    if arguments.do == "start":
        arguments.folder.mkdir(parents=True, exist_ok=True)
        _server(arguments.folder)
    elif arguments.do == "lock":
        hold = f"SELECT pg_sleep({arguments.for_s})"
        _server(arguments.folder).psql(f"BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE; {hold}; ROLLBACK;")
    else:
        _stop(arguments.folder / "data" / "postmaster.pid")
    if arguments.do == "close":
        shutil.rmtree(arguments.folder, ignore_errors=True)
    return 0


def _server(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs, where XDG_RUNTIME_DIR is not set
        pgserver: Any = importlib.import_module("pgserver")
    return pgserver.get_server(folder / "data", cleanup_mode=None)


def _stop(pid_file: Path) -> None:
    if not pid_file.exists():
        return
    try:
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + STOP_S
    while pid_file.exists():
        if time.monotonic() > deadline:
            sys.exit(f"PostgreSQL did not stop within {STOP_S:g} s")
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
