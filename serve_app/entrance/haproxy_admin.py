"""Asks HAProxy through its admin socket to take no more connections, and what it works on. For the launcher.

Of those commands: https://docs.haproxy.org/2.8/management.html#9.3
"""

import socket
from collections.abc import Iterator
from pathlib import Path

from serve_app.service_folder import haproxy_sockets

_FRONTEND = "http_frontend"  # Ray's name
_ANSWER_S = 2.0


def close_ingress(folder: Path) -> None:
    """Have new connections refused; those that are there stay."""
    for _ in _ask(folder, f"disable frontend {_FRONTEND}"):
        pass


def count_in_ingress(folder: Path) -> int:
    """Return how many requests HAProxy has that it has not answered; 0 when none can be asked."""
    mark = f" fe={_FRONTEND} "
    return sum(line.count(mark) for line in _ask(folder, "show sess"))


def _ask(folder: Path, command: str) -> Iterator[str]:
    """Yield the answer of each HAProxy that answers."""
    for path in haproxy_sockets(folder):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as admin:
                admin.settimeout(_ANSWER_S)
                admin.connect(str(path))
                admin.sendall(f"{command}\n".encode())
                parts = []
                while part := admin.recv(65536):
                    parts.append(part)
        except OSError:  # a folder of a HAProxy that has ended
            continue
        yield b"".join(parts).decode(errors="replace")
