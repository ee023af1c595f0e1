"""The ports that a service takes besides the API's own: the usual ones where they are free, else the next that are.

Several services on a machine, also of several users, choose apart from each other: who has chosen a TCP port holds the
UDP port of the same number for as long as it runs. What the environment names is taken as it is.
"""

import os
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial, partialmethod

from serve_app.address import MOST_PORT, AddressFault, read_port
from serve_app.entrance.environment import HAPROXY_SWITCH
from serve_app.entrance.listening import listened_ports
from serve_app.errors import Fault, SetupError, SetupFaults

_TRIES = 100
_ANYWHERE = "0.0.0.0"  # noqa: S104 HAProxies of other kinds listen everywhere
REPLICA_PORTS = ("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT")
GRPC_REPLICA_PORTS = ("RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT")
API_PORT = "http_options.port"
GRPC_PORT = "grpc_options.port"


@dataclass(frozen=True)
class _Use:
    """What a port is for, and the variable that tells Serve, or a user us, which one it is."""

    name: str
    variable: str
    usual: int


@dataclass(frozen=True)
class _Blocks:
    """Where the replicas' ports are, the variables for the first and for the one after the last, and Serve's own."""

    name: str
    variables: tuple[str, str]
    usual: tuple[str, str]
    choice: range


# A replica's port must never become one of another service: HAProxy may still send requests there for a moment.
_REPLICAS = _Blocks("replicas", REPLICA_PORTS, ("30000", "31000"), range(30_000, 32_500, 250))
_GRPC_REPLICAS = _Blocks("replicas' gRPC", GRPC_REPLICA_PORTS, ("40000", "41000"), range(40_000, 42_500, 250))
_DASHBOARD = "dashboard"
_USUAL_DASHBOARD = 8265
HAPROXY_PORTS = (
    _Use("statistics", "RAY_SERVE_HAPROXY_STATS_PORT", 8404),
    _Use("metrics", "RAY_SERVE_HAPROXY_METRICS_PORT", 9101),
    _Use("Serve's proxy", "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", 8500),
)
GRPC_PORTS = (_Use("Serve's gRPC proxy", "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT", 9500),)


@contextmanager
def chosen_ports(api_port: int, grpc_port: int | None = None) -> Iterator[dict[str, str]]:
    """Choose the ports, tell Serve of them in the environment, and hold them and the given ones against other services.

    Yields port or ports by what they are for. Raises SetupError when another service holds `api_port` or `grpc_port`,
    and when one that the environment names is no port, in use, or taken twice.
    """
    with ExitStack() as held:
        for key, port in ((API_PORT, api_port), (GRPC_PORT, grpc_port)):
            if port is not None and not _hold(port, held):
                what = f"port {port} cannot be used: another service uses it, or a program has its UDP port"
                raise SetupError(Fault(key, what, "free it, or choose another"))
        taken = {} if grpc_port is None else {"gRPC": str(grpc_port)}
        blocks = [_REPLICAS] if grpc_port is None else [_REPLICAS, _GRPC_REPLICAS]
        if os.environ.get(HAPROXY_SWITCH) == "1":
            uses = _uses(grpc_port)
            named = _named(api_port, grpc_port)
            for use in uses:
                port = named[use.variable] if use.variable in named else _first_free(use.usual, held, named.values())
                taken[use.name] = os.environ[use.variable] = str(port)
            singles = {api_port, *map(int, taken.values())}
            taken |= {block.name: _choose_replicas(block, held, singles) for block in blocks}
        singles = {int(port) for name, port in taken.items() if name not in {block.name for block in blocks}}
        taken[_DASHBOARD] = str(_first_free(_USUAL_DASHBOARD, held, singles))
        yield taken


def dashboard_port(ports: Mapping[str, str]) -> int:
    """Return the one of the chosen `ports` that Ray's dashboard has."""
    return int(ports[_DASHBOARD])


def find_named_faults(api_port: int, grpc_port: int | None = None) -> Iterator[Fault]:
    """Yield a fault for each port that the environment names for HAProxy and cannot be used."""
    used = {api_port: API_PORT} if grpc_port is None else {api_port: API_PORT, grpc_port: GRPC_PORT}
    for use in _uses(grpc_port) if os.environ.get(HAPROXY_SWITCH) == "1" else ():
        if (given := os.environ.get(use.variable)) is not None:
            try:
                port = _read(use.variable, given)
                if port not in used:
                    check_free(_ANYWHERE, port, use.variable)
            except SetupError as exc:
                yield exc.fault
                continue
            if port in used:
                yield Fault(use.variable, f"port {port} is that of {used[port]}", "choose another")
            used[port] = use.variable


def check_free(host: str, port: int, key: str) -> None:
    """Return if `port` can be listened on. Raises SetupError with the `key` that names the port."""
    try:
        _bind(host, port)
    except (OSError, OverflowError) as exc:  # beyond MOST_PORT
        reason = getattr(exc, "strerror", None) or f"it is not from 1 to {MOST_PORT}"
        raise SetupError(Fault(key, f"port {port} cannot be used ({reason})", "free it, or choose another")) from exc


def why_not_listening(host: str) -> str | None:
    """Return why nothing can listen on `host`, whatever the port, or None."""
    try:
        _bind(host, 0)
    except (OSError, TypeError) as exc:  # the latter: of characters that no name has
        return getattr(exc, "strerror", None) or str(exc)
    return None


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


def _uses(grpc_port: int | None) -> tuple[_Use, ...]:
    """Return what HAProxy and Serve's proxy need ports for."""
    return HAPROXY_PORTS if grpc_port is None else HAPROXY_PORTS + GRPC_PORTS


def _named(api_port: int, grpc_port: int | None) -> dict[str, int]:
    """Return the ports that the environment names, by variable. Raises SetupFaults."""
    if faults := list(find_named_faults(api_port, grpc_port)):
        raise SetupFaults(faults)
    return {use.variable: int(os.environ[use.variable]) for use in _uses(grpc_port) if use.variable in os.environ}


def _read(variable: str, given: str) -> int:
    try:
        return read_port(given)
    except AddressFault:
        what = f"must be the number of a port, 1 to {MOST_PORT} (given: {given!r})"
        raise SetupError(Fault(variable, what, "write another, or remove the variable")) from None


def _choose_replicas(blocks: _Blocks, held: ExitStack, others: Collection[int]) -> str:
    """Return the replicas' ports, first and last: as the environment names them, or a block without the `others`."""
    variables = " and ".join(blocks.variables)
    if not any(variable in os.environ for variable in blocks.variables):
        choice = (range(first, first + blocks.choice.step) for first in blocks.choice)
        fitting = (block for block in choice if not any(port in block for port in others))
        block = next(
            (block for block in fitting if _hold_free(block.start, held, partial(_is_left_to_us, block))), None
        )
        if block is None:
            first, last, count = blocks.choice.start, blocks.choice.stop - 1, blocks.choice.step
            what = f"no {count} ports in a row from {first} to {last} are free: others use them"
            raise SetupError(Fault(variables, what, "name a free range"))
        os.environ |= dict(zip(blocks.variables, map(str, (block.start, block.stop)), strict=True))
    first, end = (
        _read(name, os.environ.get(name, usual)) for name, usual in zip(blocks.variables, blocks.usual, strict=True)
    )
    clash = next((port for port in others if port in range(first, end)), None)
    if first >= end or clash is not None:
        fault = "has no port" if clash is None else f"includes {clash}, which has another use"
        what = f"the range from {first} to {end} (not included) {fault}"
        raise SetupError(Fault(variables, what, "choose another range"))
    return f"{first}-{end - 1}"


def _first_free(usual: int, held: ExitStack, others: Iterable[int] = ()) -> int:
    passed_over = set(others)
    for port in range(usual, usual + _TRIES):
        if port not in passed_over and _hold_free(port, held, partial(_is_free, port)):
            return port
    raise SetupError(f"all ports from {usual} to {usual + _TRIES - 1} are in use; free one of them")


def _hold_free(port: int, held: ExitStack, is_free: Callable[[], bool]) -> bool:
    """Hold `port`, for what it stands for, if no other service does and that `is_free`. Returns whether it does."""
    with ExitStack() as trying:
        # Held before it is tried: no other service's ports are touched.
        if not _hold(port, trying) or not is_free():
            return False
        held.enter_context(trying.pop_all())
    return True


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


def _is_left_to_us(block: range) -> bool:
    """Tell whether nobody listens on any port of a block.

    A port that a client's connection has for a while is no other service: Serve passes over it, and takes the next.
    """
    return listened_ports().isdisjoint(block)


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
