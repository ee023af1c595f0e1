"""The ports that a service takes besides the API's own: the usual ones where they are free, else the next that are.

Several services on a machine, also of several users, choose apart from each other: who has chosen a TCP port holds the
UDP port of the same number for as long as it runs. What the environment names is taken as it is.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partialmethod

from serve_app.data_plane import HAPROXY_SWITCH
from serve_app.errors import SetupError

_TRIES = 100
# A replica's port must never become one of another service: HAProxy may still send requests there for a moment.
_REPLICA_BLOCKS = range(30_000, 32_500, 250)
_ANYWHERE = "0.0.0.0"  # noqa: S104 HAProxies of other kinds listen everywhere
REPLICA_PORTS = ("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT")


@dataclass(frozen=True)
class _Use:
    """What a port is for, and the variable that tells Serve, or a user us, which one it is."""

    name: str
    variable: str
    usual: int


HAPROXY_PORTS = (
    _Use("statistics", "RAY_SERVE_HAPROXY_STATS_PORT", 8404),
    _Use("metrics", "RAY_SERVE_HAPROXY_METRICS_PORT", 9101),
    _Use("Serve's proxy", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", 8500),
)


@contextmanager
def chosen_ports() -> Iterator[dict[str, str]]:
    """Choose the ports, tell Serve of them in the environment, and hold them against other services.

    Yields port or ports by what they are for. Raises SetupError when one that the environment names is in use.
    """
    with ExitStack() as held:
        taken: dict[str, str] = {}
        if os.environ.get(HAPROXY_SWITCH) == "1":
            for use in HAPROXY_PORTS:
                taken[use.name] = os.environ[use.variable] = str(_choose(use, held))
            taken["replicas"] = _choose_replicas(held)
        yield taken


def check_free(host: str, port: int, where: str) -> None:
    """Return if `port` can be listened on. Raises SetupError that says what to change, `where`."""
    try:
        _bind(host, port)
    except OSError as exc:
        raise SetupError(f"port {port} cannot be used ({exc.strerror}); free it or set {where}") from exc


@contextmanager
def free_agent_port() -> Iterator[None]:
    """Have the Ray that is started meanwhile give its dashboard agent any free port.

    `ray.init` has no argument for it. Ray's own number is the same for every Ray; one that cannot have it leaves
    its dashboard without logs.
    """
    from ray._private.parameter import RayParams

    original = RayParams.__init__
    RayParams.__init__ = partialmethod(original, dashboard_agent_listen_port=0)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        RayParams.__init__ = original  # type: ignore[method-assign]


def _choose(use: _Use, held: ExitStack) -> int:
    given = os.environ.get(use.variable)
    if given is None:
        return _first_free(use.usual, held)
    if not (given.isascii() and given.isdigit()):
        raise SetupError(f"{use.variable} must be the number of a port (given: {given!r})")
    check_free(_ANYWHERE, int(given), use.variable)
    return int(given)


def _choose_replicas(held: ExitStack) -> str:
    if not any(variable in os.environ for variable in REPLICA_PORTS):
        blocks = (range(first, first + _REPLICA_BLOCKS.step) for first in _REPLICA_BLOCKS)
        block = next((block for block in blocks if _hold(block[0], held) and all(map(_is_free, block))), None)
        if block is None:
            raise SetupError(f"all ports from {_REPLICA_BLOCKS.start} to {_REPLICA_BLOCKS.stop - 1} are in use")
        os.environ |= dict(zip(REPLICA_PORTS, map(str, (block.start, block.stop)), strict=True))
    first, end = (os.environ.get(variable) for variable in REPLICA_PORTS)
    return f"{first or 30_000}-{int(end or 31_000) - 1}"


def _first_free(usual: int, held: ExitStack) -> int:
    for port in range(usual, usual + _TRIES):
        if _hold(port, held) and _is_free(port):
            return port
    raise SetupError(f"all ports from {usual} to {usual + _TRIES - 1} are in use")


def _hold(port: int, held: ExitStack) -> bool:
    """Hold the UDP port of this number. Returns whether nobody else does."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        holder.bind(("127.0.0.1", port))
    except OSError:
        holder.close()
        return False
    held.enter_context(holder)
    return True


def _is_free(port: int) -> bool:
    with suppress(OSError):
        _bind(_ANYWHERE, port)
        return True
    return False


def _bind(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":  # there it would let two servers share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
