"""A target with known answers, to prove that the kit measures right: `python -m tests.known_target --port 8000`.

GET /fixed answers after `--delay-ms`; GET /serial passes one server that serves exactly `--serial-rate` a second.
Both state their true times as Server-Timing, and in it what they saw of the request (see Seen), so that whatever a
client says of it can be checked against that. GET / and /ready say whether it is ready, /about what it is, and /metrics
how many requests arrived. The other options make it misbehave, as real targets do. With `--config` it is a service that
is set up by a YAML file: so many `workers`, each of which serves `rate_per_worker` a second.

What a test waits for is counted in requests, not in seconds: the N-th one ends the target or its client, or waits at a
gate, a file that the test makes when it has seen what it came for.
"""

import argparse
import asyncio
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path

STOP_S = 60
GATE_POLL_S = 0.02
MEASURED = ("/fixed", "/serial")
SLEEPER = (sys.executable, "-S", "-c", "import signal; signal.pause()", "tests.known_target")
"""Command of a process that does nothing until a signal ends it; a word after it says what the process stands for."""


@dataclass(frozen=True)
class Behaviour:
    """What was asked for on the command line."""

    port: int
    delay_ms: float
    fail_every: int
    serial_rate: float
    padding_bytes: int
    workers: int
    never_ready: bool
    ready_after_s: float
    exit_after_s: float | None
    ignore_sigterm: bool
    spawn_orphan: bool
    stall_at: int
    stall_s: float
    most_wait_s: float
    refusal_ms: float
    crowd: int
    slow_clients: int
    slow_ms: float
    die_at: int
    kill_client_at: int
    hold_at: int
    gate: str


@dataclass(frozen=True)
class Seen:
    """What the target saw of a request to /fixed or /serial."""

    client: int
    """The connection, counted from 1 in the order in which they came."""
    number: int
    """Of the request among those of its connection, from 1 on."""
    unix_s: float
    """When it arrived."""

    def encode(self) -> str:
        """Return a part of Server-Timing that is no stage: it has no duration."""
        return f'seen;desc="{self.client} {self.number} {self.unix_s:.6f}"'


def read_seen(server_timing: str) -> Seen:
    """Return what the target saw of the request that it answered with this header."""
    found = re.search(r'seen;desc="(\d+) (\d+) ([\d.]+)"', server_timing)
    assert found, server_timing
    return Seen(int(found[1]), int(found[2]), float(found[3]))


class FileGate:
    """A file that is there while the gate is open; `PATH.reached` says that something waits for that."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def reached(self) -> Path:
        return self._path.with_suffix(".reached")

    def open(self) -> None:
        self._path.touch()

    def shut(self) -> None:
        self._path.unlink(missing_ok=True)
        self.reached.unlink(missing_ok=True)

    def lets_through(self) -> bool:
        """Return whether it is open; called by what waits for it."""
        if self._path.exists():
            return True
        self.reached.touch()
        return False


@dataclass(frozen=True)
class Answer:
    """What to send, and when by the loop's clock."""

    due_s: float
    status: HTTPStatus
    body: bytes
    server_timing: str = ""

    def encode(self) -> bytes:
        head = f"HTTP/1.1 {self.status} {self.status.phrase}\r\nContent-Length: {len(self.body)}\r\n"
        timing = f"Server-Timing: {self.server_timing}\r\n" if self.server_timing else ""
        return f"{head}{timing}\r\n".encode() + self.body


class KnownTarget:
    """Decides on each request when it arrives, so that its counts and times do not depend on the client."""

    def __init__(self, behaviour: Behaviour, now_s: float) -> None:
        self._behaviour = behaviour
        self._ready_s = float("inf") if behaviour.never_ready else now_s + behaviour.ready_after_s
        self._free_s = now_s
        self._arrived: Counter[tuple[str, HTTPStatus]] = Counter()
        self._measured = 0
        self._gate = FileGate(Path(behaviour.gate))
        self.clients: set[int] = set()
        """Open connections on which a measured request came."""
        self._in_order: dict[int, int] = {}

    def holds(self) -> bool:
        """Return whether the measured request that comes next must wait at the gate."""
        hold_at = self._behaviour.hold_at
        return bool(hold_at) and self._measured + 1 >= hold_at and not self._gate.lets_through()

    def answer(self, path: str, now_s: float, client: int = 0) -> Answer:
        if path in MEASURED:
            self._measured += 1
            self._do_harm()
        answer = self._answer(path, now_s, client)
        self._arrived[path, answer.status] += 1
        return answer

    def _do_harm(self) -> None:
        if self._measured == self._behaviour.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._measured == self._behaviour.kill_client_at:
            import psutil

            generators = [
                process
                for process in psutil.Process(os.getppid()).children()
                if {"loadtest.load.recorder", "loadtest.load.worker"} & {*process.cmdline()}
            ]
            generators[-1].kill()

    def _answer(self, path: str, now_s: float, client: int) -> Answer:
        match path:
            case "/fixed":
                return self._refused(now_s) or self._fixed(now_s, client)
            case "/serial":
                return self._refused(now_s) or self._serial(now_s)
            case "/" | "/ready":
                is_ready = now_s >= self._ready_s
                return Answer(now_s, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE, b"")
            case "/about":
                return Answer(now_s, HTTPStatus.OK, json.dumps(asdict(self._behaviour)).encode())
            case "/metrics":
                return Answer(now_s, HTTPStatus.OK, self._metrics())
        return Answer(now_s, HTTPStatus.NOT_FOUND, b"")

    def _refused(self, now_s: float) -> Answer | None:
        """Return a 503 for every `fail_every`-th request: at once and without stages, so that it would show in both."""
        if self._behaviour.fail_every and self._measured % self._behaviour.fail_every == 0:
            return Answer(now_s, HTTPStatus.SERVICE_UNAVAILABLE, b"")
        return None

    def _fixed(self, now_s: float, client: int) -> Answer:
        delay_ms = self._behaviour.delay_ms + (self._behaviour.slow_ms if self._is_slow(client) else 0)
        padding = ", pad;desc=" + "x" * self._behaviour.padding_bytes if self._behaviour.padding_bytes else ""
        return Answer(now_s + delay_ms / 1000, HTTPStatus.OK, b"fixed", f"work;dur={delay_ms:g}{padding}")

    def _is_slow(self, client: int) -> bool:
        """Return whether a client is among the first, or too many are there."""
        place = self._in_order.setdefault(client, len(self._in_order))
        crowd = self._behaviour.crowd
        return place < self._behaviour.slow_clients or bool(crowd and len(self.clients) > crowd)

    def _serial(self, now_s: float) -> Answer:
        if self._free_s - now_s > self._behaviour.most_wait_s:
            return Answer(now_s + self._behaviour.refusal_ms / 1000, HTTPStatus.SERVICE_UNAVAILABLE, b"")
        stall_s = self._behaviour.stall_s if self._measured == self._behaviour.stall_at else 0
        # From the end before, not from when its timer woke us: being late must not add up.
        begin_s = max(self._free_s, now_s) + stall_s
        service_s = 1 / self._behaviour.serial_rate
        self._free_s = begin_s + service_s
        timing = f"queue;dur={(begin_s - now_s) * 1000:.3f}, work;dur={service_s * 1000:g}"
        return Answer(self._free_s, HTTPStatus.OK, b"serial", timing)

    def _metrics(self) -> bytes:
        lines = ["# HELP known_requests_total Requests that arrived.", "# TYPE known_requests_total counter"]
        for (path, status), count in sorted(self._arrived.items()):
            lines.append(f'known_requests_total{{path="{path}",status="{status}"}} {count}')
        return ("\n".join(lines) + "\n").encode()


class Connection(asyncio.Protocol):
    """One client's connection; it stays open, and its GET requests come one after the other."""

    _count = 0

    def __init__(self, target: KnownTarget, loop: asyncio.AbstractEventLoop) -> None:
        Connection._count += 1
        self._client = Connection._count
        self._measured = 0
        self._target = target
        self._loop = loop
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._target.clients.discard(self._client)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, self._received = self._received.split(b"\r\n\r\n", 1)
            self._take(head.split(b" ", 2)[1].decode())

    def _take(self, path: str) -> None:
        if path not in MEASURED:
            self._send(self._target.answer(path, self._loop.time()))
            return
        self._measured += 1
        self._target.clients.add(self._client)
        self._answer(path, Seen(self._client, self._measured, time.time()))

    def _answer(self, path: str, seen: Seen) -> None:
        if self._target.holds():
            self._loop.call_later(GATE_POLL_S, self._answer, path, seen)
            return
        answer = self._target.answer(path, self._loop.time(), seen.client)
        timing = ", ".join(part for part in (answer.server_timing, seen.encode()) if part)
        self._send(replace(answer, server_timing=timing))

    def _send(self, answer: Answer) -> None:
        assert self._transport
        if answer.due_s > self._loop.time():
            self._loop.call_at(answer.due_s, self._transport.write, answer.encode())
        else:
            self._transport.write(answer.encode())


async def serve(behaviour: Behaviour) -> int:
    """Serve until SIGTERM and return the exit code."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    if behaviour.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, _end, ended, 0)
    if behaviour.exit_after_s is not None:
        loop.call_later(behaviour.exit_after_s, _end, ended, 3)
    target = KnownTarget(behaviour, loop.time())
    server = await loop.create_server(lambda: Connection(target, loop), "127.0.0.1", behaviour.port, backlog=1024)
    async with server:
        return await ended


def _end(ended: "asyncio.Future[int]", code: int) -> None:
    if not ended.done():
        ended.set_result(code)


@contextmanager
def replicas(count: int) -> Iterator[None]:
    """Run processes that do nothing, whose command line says that they are replicas."""
    processes = [subprocess.Popen([*SLEEPER, "--replica"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(STOP_S)


def leave_orphan() -> None:
    """Start a process that is in another session and no child of ours, as daemons are."""
    if os.fork() == 0:
        subprocess.Popen([*SLEEPER, "--orphan"], start_new_session=True)
        os._exit(0)
    os.wait()


def read_options() -> Behaviour:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.known_target")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--fail-every", type=int, default=0, metavar="N", help="every N-th answer is 503")
    parser.add_argument("--serial-rate", type=float, default=100, metavar="RPS")
    parser.add_argument("--padding-bytes", type=int, default=0, help="longer Server-Timing, to fill the client's disk")
    parser.add_argument("--workers", type=int, default=0, metavar="W", help="start W processes named --replica")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with service: {workers, rate_per_worker}")
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--ready-after-s", type=float, default=0, metavar="S")
    parser.add_argument("--exit-after-s", type=float, metavar="S", help="fail by itself")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--spawn-orphan", action="store_true", help="leave a process that outlives this one")
    parser.add_argument("--stall-at", type=int, default=0, metavar="N", help="the N-th request, if GET /serial, stalls")
    parser.add_argument("--stall-s", type=float, default=0, metavar="S", help="for so long, as collecting garbage does")
    parser.add_argument("--most-wait-s", type=float, default=float("inf"), metavar="S", help="503 for longer queues")
    parser.add_argument("--refusal-ms", type=float, default=0, metavar="MS", help="what such a 503 takes")
    parser.add_argument("--crowd", type=int, default=0, metavar="N", help="with more clients, GET /fixed takes longer")
    parser.add_argument("--slow-clients", type=int, default=0, metavar="N", help="and for the first N in any case")
    parser.add_argument("--slow-ms", type=float, default=0, metavar="MS", help="by so much")
    parser.add_argument("--die-at", type=int, default=0, metavar="N", help="the N-th request kills the target")
    parser.add_argument(
        "--kill-client-at",
        type=int,
        default=0,
        metavar="N",
        help="the N-th kills the load generator, or one of several",
    )
    parser.add_argument("--hold-at", type=int, default=0, metavar="N", help="from the N-th on they wait at the gate")
    parser.add_argument("--gate", default="", metavar="FILE", help="see FileGate")
    options = vars(parser.parse_args())
    options |= read_config(options.pop("config"))
    return Behaviour(**options)


def read_config(path: Path | None) -> dict[str, float]:
    """Return the options that a config stands for; ends the process when it is not a sound one."""
    if path is None:
        return {}
    import yaml

    service = yaml.safe_load(path.read_text())["service"]
    if service["rate_per_worker"] <= 0:
        sys.exit("known target: rate_per_worker must be above 0")
    return {"workers": service["workers"], "serial_rate": service["workers"] * service["rate_per_worker"]}


def main() -> int:
    behaviour = read_options()
    if behaviour.spawn_orphan:
        leave_orphan()
    print(f"known target: {behaviour}", flush=True)
    # select() waits to the microsecond; epoll, asyncio's usual choice, is up to 1 ms late.
    with (
        replicas(behaviour.workers),
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner,
    ):
        code = runner.run(serve(behaviour))
    if code:
        print(f"known target: ends with {code} as --exit-after-s says", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
