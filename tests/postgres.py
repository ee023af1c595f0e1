"""A real PostgreSQL for the tests, from the pgserver wheel: started once per session, in a folder of its own.

Registered as a pytest plugin by conftest. Knows nothing of the users table.
"""

import importlib
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

STOP_S = 10.0


class Postgres:
    """A server that a test may stop, start, freeze and thaw; new databases in it are cheap."""

    def __init__(self, server: Any) -> None:
        """Take over a running pgserver `server`."""
        self._server = server
        self._names = (f"test_{number}" for number in count())
        # Nobody needs this data after a power cut: the last stop takes 0.4 s instead of 2.7 s.
        self.execute("ALTER SYSTEM SET fsync = off")
        self.execute("SELECT pg_reload_conf()")

    def new_database(self) -> str:
        """Return the URL of a new, empty database."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(database=name))

    def execute(self, statement: str) -> None:
        """Run one statement in the server's own database."""
        self._server.psql(statement)

    def stop(self) -> None:
        """Stop at once, closing every connection, as `systemctl stop postgresql` does."""
        _signal([self._process()], signal.SIGINT)
        self._wait_until_stopped()

    def start(self) -> None:
        """Start again on the same socket with the same data; return when it takes connections."""
        self._server.ensure_postgres_running()

    def freeze(self) -> None:
        """Let every process of the server stand still: sockets stay open and nothing answers."""
        _signal(self._family(), signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        _signal(self._family(), signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and delete its folder."""
        self._server.cleanup()

    def _process(self) -> psutil.Process:
        return psutil.Process(self._server.get_pid())

    def _family(self) -> list[psutil.Process]:
        return [self._process(), *self._process().children(recursive=True)]

    def _wait_until_stopped(self) -> None:
        pid_file = Path(self._server.pgdata) / "postmaster.pid"
        deadline = time.monotonic() + STOP_S
        while pid_file.exists():
            assert time.monotonic() < deadline, f"PostgreSQL did not stop within {STOP_S} s"
            time.sleep(0.02)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process.pid, number)


def _start_server(folder: Path) -> Any:
    with warnings.catch_warnings():
        # Where XDG_RUNTIME_DIR is not set, platformdirs warns about its own fallback on import.
        warnings.simplefilter("ignore")
        pgserver: Any = importlib.import_module("pgserver")
    return pgserver.get_server(folder / "data", cleanup_mode="delete")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return a running PostgreSQL."""
    # Not below tmp_path: a socket's path has at most 107 bytes, and the server's user must be able to enter.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        server = Postgres(_start_server(Path(folder)))
        yield server
        server.close()


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """Return the URL of an empty PostgreSQL database that no other test uses."""
    return postgres.new_database()
