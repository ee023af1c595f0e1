"""Two nodes of a cluster, as two raylets on this machine: replicas follow the nodes, and one answers for the other.

`make test-system` does the same with machines of their own.
"""

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.raylets import Raylet, another_node
from tests.serve_app.running.shared import ANSWER_S, KEY
from tests.service import Service, read_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux only")

APPLICATION, PREFIX = "followers", "/followers"
DEMANDING, DEMAND = "demanding", "room"
"""An application for whose replicas only the second node has what they need."""


@dataclass
class TwoNodes:
    """The shared service with cluster.yaml's lookups besides its own, and one more node."""

    first: Service
    second: Raylet

    def replicas(self) -> list[str]:
        """Return the node id of each running replica that follows the nodes."""
        deployments = self.first.rest().applications()[APPLICATION]["deployments"]  # none while Serve builds them
        found = [replica for deployment in deployments.values() for replica in deployment["replicas"]]
        return [each["node_id"] for each in found if each["state"] == "RUNNING"]

    def are_whole(self) -> bool:
        return len(set(self.replicas())) == 2

    def answers(self, url: str) -> bool:
        try:
            got = httpx.get(f"{url}{PREFIX}/1", headers={"X-API-Key": KEY}, timeout=ANSWER_S, trust_env=False)
        except httpx.TransportError:
            return False
        return got.status_code == 200


@pytest.fixture(scope="module")
def nodes(running: Service, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    rest = running.rest()
    served = [found["deployed_app_config"] for found in rest.applications().values()]
    before = yaml.safe_load(running.output.with_name("config.yaml").read_text()) | {"applications": served}
    followers = read_config("cluster.yaml")["applications"][0] | {"name": APPLICATION, "route_prefix": PREFIX}
    followers["args"]["auth"]["keys_file"] = str(keys_file)
    followers["deployments"][0]["autoscaling_config"] |= {"upscale_delay_s": 0, "downscale_delay_s": 0}
    demanding = deepcopy(followers) | {"name": DEMANDING, "route_prefix": f"/{DEMANDING}"}
    demanding["deployments"][0]["ray_actor_options"] = {"num_cpus": 0.1, "resources": {DEMAND: 1}}
    rest.deploy(before | {"applications": [*served, followers, demanding]})
    with another_node(running, tmp_path_factory.mktemp("nodes"), json.dumps({DEMAND: 1})) as second:
        yield TwoNodes(running, second)
    rest.deploy(before)
    running.wait_for(lambda: not {APPLICATION, DEMANDING} & {*rest.applications()}, "the end of the applications")


def test_a_node_that_joins_gets_a_replica_and_an_ingress(nodes: TwoNodes) -> None:
    nodes.first.wait_for(nodes.are_whole, "a replica on each node")
    for url in (nodes.second.url, nodes.first.url):
        nodes.first.wait_for(lambda url=url: nodes.answers(url), f"the application behind {url}")  # type: ignore[misc]


def test_a_node_that_cannot_hold_a_replica_is_not_counted(nodes: TwoNodes) -> None:
    nodes.first.wait_for(nodes.are_whole, "a replica on each node")

    def is_in_place() -> dict[str, Any] | None:
        found: dict[str, Any] = nodes.first.rest().applications()[DEMANDING]
        return found if found["status"] == "RUNNING" else None

    [deployment] = nodes.first.wait_for(is_in_place, "the application of the second node alone")["deployments"].values()
    assert deployment["target_num_replicas"] == 1


def test_while_a_node_is_lost_the_other_answers_every_request(nodes: TwoNodes) -> None:
    nodes.first.wait_for(nodes.are_whole, "a replica on each node")
    nodes.first.wait_for(lambda: nodes.answers(nodes.first.url), "the application behind the first HAProxy")
    nodes.second.kill()
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
