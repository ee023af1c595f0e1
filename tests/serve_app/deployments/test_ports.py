"""The ports of a service besides the API's own: chosen free, apart from those of other services, and told."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from ray._private.parameter import RayParams

from serve_app.deployments.ports import (
    _GRPC_REPLICAS,
    _choose_replicas,
    _hold_free,
    _is_free,
    _is_left_to_us,
    check_free,
    chosen_ports,
    free_agent_port,
    why_not_listening,
)
from serve_app.entrance.environment import HAPROXY_SWITCH
from serve_app.errors import SetupError
from tests.ports import free_port

VARIABLES = {
    "statistics": "RAY_SERVE_HAPROXY_STATS_PORT",
    "metrics": "RAY_SERVE_HAPROXY_METRICS_PORT",
    "Serve's proxy": "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
}
BLOCK = ("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT")
CHOOSE = """
import json, os, sys
from serve_app.deployments.ports import chosen_ports
with chosen_ports(int(sys.argv[1])) as ports:
    told = {name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")}
    print(json.dumps({"taken": ports, "told": told}), flush=True)
    sys.stdin.read()
"""
Chosen = dict[str, dict[str, str]]


@contextmanager
def choosing(api_port: int | None = None, /, **environment: str) -> Iterator[Chosen]:
    """Yield what is chosen in such an environment, and hold it meanwhile."""
    with bare_environment():
        os.environ.update({HAPROXY_SWITCH: "1", **environment})
        with chosen_ports(api_port or free_port()) as ports:
            told = {name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")}
            yield {"taken": ports, "told": told}


@contextmanager
def choosing_elsewhere() -> Iterator[Chosen]:
    """Yield what a process of its own chooses, which holds it meanwhile."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    with subprocess.Popen(
        [sys.executable, "-c", CHOOSE, str(free_port())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**bare, HAPROXY_SWITCH: "1"},
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline())
        finally:
            process.communicate()


def refusal(api_port: int | None = None, /, **environment: str) -> str:
    """Return why ports cannot be chosen in such an environment."""
    with pytest.raises(SetupError) as refused, choosing(api_port, **environment):
        pass
    return str(refused.value)


@contextmanager
def bare_environment() -> Iterator[None]:
    """Take what Serve reads out of the environment, and put everything back at the end."""
    given = dict(os.environ)
    try:
        for name in [name for name in given if name.startswith("RAY_SERVE_")]:
            del os.environ[name]
        yield
    finally:
        os.environ.clear()
        os.environ.update(given)


def block_of(chosen: Chosen) -> range:
    first, last = map(int, chosen["taken"]["replicas"].split("-"))
    assert [chosen["told"][variable] for variable in BLOCK] == [str(first), str(last + 1)]
    return range(first, last + 1)


def single(chosen: Chosen) -> set[int]:
    told = {name: chosen["told"][variable] for name, variable in VARIABLES.items()}
    assert told == {name: port for name, port in chosen["taken"].items() if name in VARIABLES}
    return {int(port) for port in (*told.values(), chosen["taken"]["dashboard"])}


def test_services_that_start_at_once_choose_apart_from_each_other() -> None:
    with ExitStack() as stack:
        chosen = [stack.enter_context(choose()) for choose in (choosing_elsewhere, choosing_elsewhere, choosing)]
        ports = [port for one in chosen for port in single(one)]
        assert len(set(ports)) == len(ports) == 3 * (len(VARIABLES) + 1)
        blocks = sorted((block_of(one) for one in chosen), key=lambda block: block.start)
        for block, later in pairwise(blocks):
            assert block.stop <= later.start
        assert not {port for block in blocks for port in block} & set(ports)


def test_a_port_on_which_somebody_listens_is_passed_over() -> None:
    with choosing() as before:
        pass
    held = set()
    with ExitStack() as stack:
        for port in (*single(before), block_of(before)[7]):
            somebody = stack.enter_context(socket.socket())
            with suppress(OSError):  # another service of this machine has just taken it, and may give it back
                somebody.bind(("127.0.0.1", port))
                somebody.listen()
                held.add(port)
        after = stack.enter_context(choosing())
        assert held
        assert not held & (single(after) | set(block_of(after)))


def test_a_port_that_is_passed_over_is_left_to_others() -> None:
    listened_on = free_port()
    first, block = listened_on - 1, range(listened_on - 1, listened_on + 1)
    with ExitStack() as held:
        with socket.socket() as somebody:
            somebody.bind(("127.0.0.1", listened_on))
            somebody.listen()
            for port, is_free in (
                (listened_on, partial(_is_free, listened_on)),
                (first, partial(_is_left_to_us, block)),
            ):
                assert not _hold_free(port, held, is_free)
                with socket.socket(type=socket.SOCK_DGRAM) as other:
                    other.bind(("127.0.0.1", port))
        assert _hold_free(listened_on, held, partial(_is_free, listened_on))
        with socket.socket(type=socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", listened_on))


def test_replicas_ports_may_have_one_that_an_outgoing_connection_has_for_a_while() -> None:
    """The kernel gives clients ports from the same range; a server cannot have them meanwhile, and Serve retries."""
    port = free_port()
    blocks = replace(_GRPC_REPLICAS, choice=range(port, port + 1))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.bind(("127.0.0.1", port))
        client.connect(server.getsockname())
        assert not _is_free(port)
        with bare_environment(), ExitStack() as held:
            assert _choose_replicas(blocks, held, ()) == f"{port}-{port}"


def test_replicas_ports_have_none_on_which_somebody_listens() -> None:
    port = free_port()
    blocks = replace(_GRPC_REPLICAS, choice=range(port, port + 1))
    told = rf"no 1 ports in a row from {port} to {port} are free"
    with (
        socket.create_server(("127.0.0.1", port)),
        bare_environment(),
        ExitStack() as held,
        pytest.raises(SetupError, match=told),
    ):
        _choose_replicas(blocks, held, ())


@pytest.mark.parametrize("host", ["a\0b", "é" * 300])
def test_a_host_that_has_characters_no_name_has_is_no_traceback(host: str) -> None:
    assert why_not_listening(host)


def test_ports_that_the_environment_names_are_taken() -> None:
    named = {variable: str(free_port()) for variable in VARIABLES.values()}
    with choosing(**named, **dict(zip(BLOCK, ("31500", "31600"), strict=True))) as chosen:
        assert named.items() <= chosen["told"].items()
        assert block_of(chosen) == range(31_500, 31_600)


def test_a_named_port_that_is_in_use_or_none_is_told_by_its_variable() -> None:
    variable = VARIABLES["metrics"]
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        told = refusal(**{variable: str(port)})
        assert f"{variable}: port {port} cannot be used (Address already in use); free it" in told
        with pytest.raises(SetupError, match=rf"http_options.port: port {port} cannot be used .*; free it, or choose"):
            check_free("127.0.0.1", port, "http_options.port")
    assert f"{variable}: must be the number of a port" in refusal(**{variable: "http"})


def test_without_haproxy_none_is_needed() -> None:
    with choosing(**{HAPROXY_SWITCH: "0"}) as chosen:
        assert (chosen["taken"], set(BLOCK) & set(chosen["told"])) == (
            {"dashboard": chosen["taken"]["dashboard"]},
            set(),
        )


def test_the_apis_own_port_is_never_chosen_for_something_else() -> None:
    with choosing() as before:
        pass
    block = block_of(before)
    tested, refused = 0, {}
    for api_port in (*single(before), block[0], block[-1]):
        with ExitStack() as stack:
            try:
                chosen = stack.enter_context(choosing(api_port))
            except SetupError as exc:  # another service of this machine has just taken it
                refused[api_port] = str(exc)
                continue
            assert api_port not in single(chosen)
            assert api_port not in block_of(chosen)
            told = refusal(api_port)
            assert f"port {api_port} cannot be used" in told
            assert told.startswith("http_options.port: ")
            with choosing() as other:
                assert api_port not in single(other)
            tested += 1
    assert tested
    assert all(f"port {api_port} cannot be used" in told for api_port, told in refused.items())


def test_a_port_that_the_environment_names_is_not_taken_twice() -> None:
    port = free_port()
    statistics, metrics, _ = VARIABLES.values()
    assert f"{metrics}: port {port} is that of http_options.port" in refusal(port, **{metrics: str(port)})
    told = refusal(**{statistics: str(port), metrics: str(port)})
    assert f"{metrics}: port {port} is that of {statistics}" in told
    told = refusal(port, **dict(zip(BLOCK, (str(port - 5), str(port + 5)), strict=True)))
    assert f"includes {port}, which has another use" in told
    with choosing() as free:
        usual = free["taken"]["metrics"]
    with choosing(**{statistics: usual}) as chosen:
        assert chosen["taken"]["metrics"] != usual


@pytest.mark.parametrize("number", ["0", "99999", "-1", "abc", "8404.0", "", "٣", "9" * 5000])
def test_a_number_that_is_no_port_is_told_by_its_variable(number: str) -> None:
    for variable in (*VARIABLES.values(), *BLOCK):
        assert f"{variable}: must be the number of a port, 1 to 65535" in refusal(**{variable: number})


def test_replicas_need_a_port() -> None:
    for first, end in (("31000", "31000"), ("31500", "31400")):
        told = refusal(**dict(zip(BLOCK, (first, end), strict=True)))
        assert f"from {first} to {end} (not included) has no port" in told


@pytest.mark.parametrize("port", [99_999, 65_536, -1])
def test_a_port_beyond_all_numbers_is_no_traceback(port: int) -> None:
    with pytest.raises(SetupError, match=rf"port {port} cannot be used \(it is not from 1 to 65535\)"):
        check_free("127.0.0.1", port, "http_options.port")


def test_ray_lets_the_system_choose_its_agents_port() -> None:
    usual = RayParams().dashboard_agent_listen_port
    with free_agent_port():
        assert RayParams(node_ip_address="127.0.0.1").dashboard_agent_listen_port == 0
    assert RayParams().dashboard_agent_listen_port == usual != 0
