"""Fixtures of a real PostgreSQL: started once per session, in a folder of its own.

Registered as a pytest plugin by conftest. Knows nothing of the users table.
"""

import signal
import tempfile
from collections.abc import Iterator
from functools import cached_property
from itertools import count
from pathlib import Path

import pytest

from tests.failures import keep_on_failure
from tests.postgres_server import PostgresServer

EMPTY = """
SET client_min_messages = warning;
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
"""Removes tables and connections; tests make nothing outside `public`."""


class Postgres:
    """A server that a test may stop, start, freeze and thaw."""

    def __init__(self, server: PostgresServer) -> None:
        """Take over a running `server`."""
        self._server = server
        self._names = (f"test_{number}" for number in count())

    def new_database(self) -> str:
        """Return the URL of a new, empty database. The server copies 300 files for it."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name}")
        return self._server.url(name)

    @cached_property
    def _emptied(self) -> str:
        return self.new_database()

    def emptied_database(self) -> str:
        """Return the URL of a database that this empties, whoever used it before."""
        self._server.execute(EMPTY, self._emptied)
        return self._emptied

    def execute(self, statement: str) -> None:
        """Run one statement in the server's own database."""
        self._server.execute(statement)

    def stop(self) -> None:
        """Stop at once, closing every connection, as `systemctl stop postgresql` does."""
        self._server.stop()

    def start(self) -> None:
        """Start again on the same socket with the same data; return when it takes connections."""
        self._server.start()

    def freeze(self) -> None:
        """Let every process of the server stand still: sockets stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._server.processes():
            process.send_signal(number)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return a running PostgreSQL."""
    # Not below tmp_path or TMPDIR: a socket's path has at most 107 bytes, and the server's user must be able to enter.
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder))
        server.start()
        with keep_on_failure("postgres", lambda: [server.log]):
            yield Postgres(server)
        server.stop()


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """Return the URL of an empty PostgreSQL database that no other test uses meanwhile."""
    return postgres.emptied_database()
