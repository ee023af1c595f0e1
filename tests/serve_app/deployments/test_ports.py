"""The ports of a service besides the API's own: chosen free, apart from those of other services, and told."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

import pytest
from ray._private.parameter import RayParams

from serve_app.data_plane import HAPROXY_SWITCH
from serve_app.deployments.ports import check_free, free_agent_port
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
from serve_app.errors import SetupError
try:
    with chosen_ports() as ports:
        told = {name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")}
        print(json.dumps({"taken": ports, "told": told}), flush=True)
        sys.stdin.read()
except SetupError as exc:
    print(json.dumps({"fault": str(exc)}), flush=True)
"""
Chosen = dict[str, dict[str, str]]


@contextmanager
def choosing(**environment: str) -> Iterator[Chosen]:
    """Yield what a process chooses, which holds it meanwhile."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    with subprocess.Popen(
        [sys.executable, "-c", CHOOSE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**bare, HAPROXY_SWITCH: "1", **environment},
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline())
        finally:
            process.communicate()


def block_of(chosen: Chosen) -> range:
    first, last = map(int, chosen["taken"]["replicas"].split("-"))
    assert [chosen["told"][variable] for variable in BLOCK] == [str(first), str(last + 1)]
    return range(first, last + 1)


def single(chosen: Chosen) -> set[int]:
    told = {name: chosen["told"][variable] for name, variable in VARIABLES.items()}
    assert told == {name: port for name, port in chosen["taken"].items() if name != "replicas"}
    return {int(port) for port in told.values()}


def test_services_that_start_at_once_choose_apart_from_each_other() -> None:
    with ExitStack() as stack:
        chosen = [stack.enter_context(choosing()) for _ in range(3)]
        ports = [port for one in chosen for port in single(one)]
        assert len(set(ports)) == len(ports) == 3 * len(VARIABLES)
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
        with choosing(**{variable: str(port)}) as chosen:
            assert f"port {port} cannot be used" in str(chosen["fault"])
            assert f"free it or set {variable}" in str(chosen["fault"])
        with pytest.raises(SetupError, match=rf"port {port} cannot be used .*; free it or set http_options.port"):
            check_free("127.0.0.1", port, "http_options.port")
    with choosing(**{variable: "http"}) as chosen:
        assert f"{variable} must be the number of a port" in str(chosen["fault"])


def test_without_haproxy_none_is_needed() -> None:
    with choosing(**{HAPROXY_SWITCH: "0"}) as chosen:
        assert (chosen["taken"], set(BLOCK) & set(chosen["told"])) == ({}, set())


def test_ray_lets_the_system_choose_its_agents_port() -> None:
    usual = RayParams().dashboard_agent_listen_port
    with free_agent_port():
        assert RayParams(node_ip_address="127.0.0.1").dashboard_agent_listen_port == 0
    assert RayParams().dashboard_agent_listen_port == usual != 0
