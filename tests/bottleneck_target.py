"""A target with one known bottleneck: `python -m tests.bottleneck_target KIND --port 8000 --behind 8001`.

Its processes are roles, told apart by their command lines: `--role worker`, `--role proxy`, `--role database`.

cpu       one worker whose only thread computes for WORK_MS
workers   a worker of that kind for each core
lock      one worker that sleeps for WORK_MS under a lock
proxy     a proxy that computes for WORK_MS before it asks an idle worker
database  a worker that asks a database, which answers one question after the other, each after WORK_MS
threads   two workers, each with as many computing threads as the machine has cores and one more
idle      one worker that answers at once
"""

import argparse
import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

WORK_MS = 20.0
STOP_S = 60
CORES = os.cpu_count() or 1
# Above 2047 bytes hashlib releases Python's interpreter lock, so that threads compute side by side.
BLOCK = bytes(200_000)

Answer = Callable[[], Awaitable[str]]
"""Does the work for a request and returns its Server-Timing."""

ROLES = {
    "cpu": ["worker"],
    "workers": ["worker"] * CORES,
    "lock": ["worker"],
    "proxy": ["worker", "proxy"],
    "database": ["database", "worker"],
    "threads": ["worker", "worker"],
    "idle": ["worker"],
}


def compute(work_ms: float) -> None:
    """Use one core for so much CPU time, whatever else runs."""
    until_s = time.thread_time() + work_ms / 1000
    while time.thread_time() < until_s:
        hashlib.sha256(BLOCK).digest()


def compute_in_turn() -> Answer:
    """Compute in the only thread: requests that come meanwhile wait where no stage shows them."""

    async def answer() -> str:
        compute(WORK_MS)
        return f"work;dur={WORK_MS}"

    return answer


def sleep_in_turn(waiting: str, working: str) -> Answer:
    """Sleep under a lock; the two stages are named `waiting` and `working`."""
    lock = asyncio.Lock()

    async def answer() -> str:
        came_s = time.perf_counter()
        async with lock:
            began_s = time.perf_counter()
            await asyncio.sleep(WORK_MS / 1000)
        ended_s = time.perf_counter()
        return f"{waiting};dur={(began_s - came_s) * 1000:.2f}, {working};dur={(ended_s - began_s) * 1000:.2f}"

    return answer


def compute_in_threads(threads: int) -> Answer:
    """Split each request among all the threads of a pool, one request after the other, as an engine does."""
    pool, lock = ThreadPoolExecutor(threads), asyncio.Lock()

    async def answer() -> str:
        came_s = time.perf_counter()
        loop = asyncio.get_running_loop()
        async with lock:
            began_s = time.perf_counter()
            await asyncio.gather(*(loop.run_in_executor(pool, compute, WORK_MS) for _ in range(threads)))
        ended_s = time.perf_counter()
        return f"queue;dur={(began_s - came_s) * 1000:.2f}, inference;dur={(ended_s - began_s) * 1000:.2f}"

    return answer


def ask(port: int, stage: str, before_ms: float = 0.0) -> Answer:
    """Compute for `before_ms` and ask another process, on a connection for each request."""

    async def answer() -> str:
        if before_ms:
            compute(before_ms)
        began_s = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return f"{stage};dur={(time.perf_counter() - began_s) * 1000:.2f}"

    return answer


async def answer_at_once() -> str:
    return "work;dur=0.01"


def answer_of(kind: str, role: str, port: int) -> Answer:
    """Return what a role does for a request; `port` is where the role behind it listens."""
    answers: dict[tuple[str, str], Callable[[], Answer]] = {
        ("cpu", "worker"): compute_in_turn,
        ("workers", "worker"): compute_in_turn,
        ("lock", "worker"): lambda: sleep_in_turn("queue", "work"),
        ("proxy", "proxy"): lambda: ask(port, "worker", before_ms=WORK_MS),
        ("database", "worker"): lambda: ask(port, "db"),
        ("database", "database"): lambda: sleep_in_turn("locked", "read"),
        ("threads", "worker"): lambda: compute_in_threads(CORES + 1),
    }
    make = answers.get((kind, role))
    return make() if make else answer_at_once


async def serve(answer: Answer, port: int) -> None:
    """Answer GET requests on kept connections until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                timing = "" if b"GET /ready" in head else f"Server-Timing: {await answer()}\r\n"
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{timing}\r\nok".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    # Workers share the port: the kernel deals connections out among them.
    server = await asyncio.start_server(talk, "127.0.0.1", port, reuse_port=True, backlog=1024)
    await stopped.wait()
    server.close()


def wait_until_listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Return when the port takes connections. Raises RuntimeError when its process ends or is too slow."""
    deadline_s = time.monotonic() + STOP_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} does not listen on {port}")


def run_roles(kind: str, port: int, behind_port: int) -> None:
    """Start a process for each role, those behind first, and stop them all on SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    roles = ROLES[kind]
    processes = []
    try:
        for role in roles:
            own, behind = (port, behind_port) if role == roles[-1] else (behind_port, port)
            command = [sys.executable, "-m", "tests.bottleneck_target", kind, "--role", role]
            processes.append(subprocess.Popen([*command, "--port", str(own), "--behind", str(behind)]))
            wait_until_listening(own, processes[-1])
        while all(process.poll() is None for process in processes):
            time.sleep(0.1)
        sys.exit(1)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(STOP_S)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bottleneck_target")
    parser.add_argument("kind", choices=ROLES)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--behind", type=int, metavar="PORT", help="of the process behind (default: the next)")
    options = parser.parse_args()
    if options.role is None:
        run_roles(options.kind, options.port, options.behind or options.port + 1)
        return
    asyncio.run(start(options))


async def start(options: argparse.Namespace) -> None:
    await serve(answer_of(options.kind, options.role, options.behind), options.port)


if __name__ == "__main__":
    main()
