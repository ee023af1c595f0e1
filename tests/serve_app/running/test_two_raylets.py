"""Two nodes of a cluster, as two raylets on this machine: replicas follow the nodes, and one answers for the other.

Marked long: two starts of Ray take about a minute on two cores. `make test-system` does the same with machines of their
own.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.failures import keep_on_failure
from tests.ports import free_port
from tests.service import START_S, STOP_S, Service, launcher, own_environment, read_config, service, write_config

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux only"), pytest.mark.long]

KEY = "a-key-of-the-two-raylets"


@dataclass
class TwoNodes:
    """A service with cluster.yaml's lookups, and what the second raylet has."""

    first: Service
    second: "subprocess.Popen[bytes]"
    second_url: str

    def replicas(self) -> list[str]:
        """Return the node id of each running replica."""
        found = self.first.rest().applications()["users"]["deployments"]["Users"]["replicas"]
        return [each["node_id"] for each in found if each["state"] == "RUNNING"]

    def are_whole(self) -> bool:
        return len(set(self.replicas())) == 2

    def answers(self, url: str) -> bool:
        try:
            return httpx.get(f"{url}/user/1", headers={"X-API-Key": KEY}, timeout=STOP_S).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    folder, port, second_port = tmp_path_factory.mktemp("nodes"), free_port(), free_port()
    keys = folder / "keys"
    keys.write_text(KEY)
    config = read_config("cluster.yaml")
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["applications"] = [users] = config["applications"][:1]
    users["args"]["auth"]["keys_file"] = str(keys)
    users["deployments"][0]["autoscaling_config"] |= {"upscale_delay_s": 0, "downscale_delay_s": 0}
    environment = own_environment(folder) | {"RAY_health_check_period_ms": "500"}
    with service(launcher(write_config(folder, config)), environment, folder, port) as first:
        first.wait_for_ready_block()
        named = re.search(r"ray status --address (\S+)", first.printed())
        assert named
        other_ports = {
            "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(second_port),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        }
        with (folder / "second.txt").open("wb") as log, keep_on_failure("raylet", lambda: [folder / "second.txt"]):
            command = [str(Path(sys.executable).with_name("ray")), "start", f"--address={named[1]}", "--num-cpus=1"]
            second = subprocess.Popen(
                [*command, "--block"],
                env=first.processes_environment() | other_ports,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                yield TwoNodes(first, second, f"http://127.0.0.1:{second_port}")
            finally:
                second.send_signal(signal.SIGTERM)
                second.wait(START_S)


def test_a_node_that_joins_gets_a_replica_and_an_ingress(nodes: TwoNodes) -> None:
    nodes.first.wait_for(nodes.are_whole, "a replica on each node")
    nodes.first.wait_for(lambda: nodes.answers(nodes.second_url), "the second node's HAProxy")
    assert nodes.answers(nodes.first.url)


def test_while_a_node_is_lost_the_other_answers_every_request(nodes: TwoNodes) -> None:
    nodes.first.wait_for(nodes.are_whole, "a replica on each node")
    os.killpg(nodes.second.pid, signal.SIGKILL)
    meanwhile = []

    def is_alone() -> bool:
        has_answered = nodes.answers(nodes.first.url)
        if len(nodes.replicas()) == 1:
            return True
        meanwhile.append(has_answered)
        return False

    nodes.first.wait_for(is_alone, "one replica less")
    assert meanwhile, "no request was sent while the dead node still counted as one"
    assert all(meanwhile)
    assert nodes.answers(nodes.first.url)
