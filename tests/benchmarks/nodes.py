"""Throughput by the number of nodes and replicas: how much of each further replica arrives, and what is the limit.

Nodes are raylets on this machine, each with an HAProxy of its own; wrk loads all of these. Each replica has an engine
that waits instead of computing (`tests.waiting_engine`), so each replica could answer `1000 / --picture-ms` img/s: `of
the engines` is the part of that which came. Nodes here share the cores of this machine: where these are used up, a
further replica brings nothing, and `of all cores` shows it.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from loadtest.load.pictures import draw_picture
from loadtest.plan.targets import Role
from serve_app.classifier.families import RESNET50
from serve_app.deployments.rollout import Rollout
from tests.benchmarks.report import Report, begin, command_line, finish, progress, run
from tests.benchmarks.service import cpu_by_role
from tests.benchmarks.wrk import WrkLoad, post_pictures, require_wrk
from tests.ports import free_port
from tests.raylets import another_node
from tests.serve_app.classifier.small_networks import write_onnx
from tests.service import Service, launcher, own_environment, read_config, service, write_config
from tests.waiting_engine import PICTURE_MS

PICTURES = 64
STEPS = ((1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8))
"""Nodes and replicas."""
MOST_WAIT_S = 60
SETTLE_S = 5
ROLES = [
    Role(name="replicas", command="^ray::ServeReplica:model:"),
    Role(name="HAProxy", command="bin/haproxy"),
    Role(name="Ray", command="^ray::|/ray/|-m serve_app|multiprocessing.resource_tracker"),
]


def main() -> int:
    parser = command_line("nodes", __doc__)
    parser.add_argument("--picture-ms", type=float, nargs="+", default=[100, 10], help="(default: %(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="for each replica (default: %(default)s)")
    parser.add_argument("--round-s", type=int, default=20, help="(default: %(default)s)")
    arguments = parser.parse_args()
    require_wrk()
    report = begin("nodes", arguments)
    for picture_ms in arguments.picture_ms:
        with tempfile.TemporaryDirectory(prefix="serve-app-benchmark-") as folder:
            climb(report, arguments, picture_ms, Path(folder))
    return finish(report, arguments.json)


def climb(report: Report, arguments: argparse.Namespace, picture_ms: float, folder: Path) -> None:
    """Measure all steps with engines that take `picture_ms` for a picture, on one cluster that grows."""
    for number in range(PICTURES):
        (folder / f"{number}.jpg").write_bytes(draw_picture(number))
    config = make_config(folder)
    environment = own_environment(folder) | {
        "DATABASE_URL": "", "REDIS_URL": "", "SERVE_APP_DATA_DIR": str(folder), PICTURE_MS: f"{picture_ms:g}"
    }  # fmt: skip
    path, port = write_config(folder, config), config["http_options"]["port"]
    with ExitStack() as stack:
        first = stack.enter_context(service(launcher(path), environment, folder, port))
        first.wait_for_ready_block()
        urls = [first.url]
        for nodes, replicas in STEPS:
            while len(urls) < nodes:
                urls.append(stack.enter_context(another_node(first, folder)).url)
            step = f"Engines that take {picture_ms:g} ms for a picture", f"{nodes} node(s), {replicas} replica(s)"
            progress(step[1])
            spread(first, config, nodes, replicas)
            first.wait_for(lambda: all(map(is_ready, urls)), "every node's HAProxy")
            connections = arguments.connections * replicas // nodes
            load(urls, folder, connections, SETTLE_S)
            with cpu_by_role(ROLES) as usage:
                loads = load(urls, folder, connections, arguments.round_s)
            tell(report, step, loads, 1000 / picture_ms * replicas)
            report.judge_others(step[1], usage)
            for role, percent in usage.items():
                report.append(step[0], step[1], role, "% of a core", percent)
            report.append(step[0], step[1], "of all cores", "%", sum(usage.values()) / (os.cpu_count() or 1))


def make_config(folder: Path) -> dict[str, Any]:
    """Return a config with the waiting engine, of which each replica has one."""
    config = read_config("one_replica.yaml")
    config["http_options"]["port"] = free_port()
    _, model = config["applications"]
    model["import_path"] = "tests.waiting_engine:build"
    model["args"] = {
        "model": str(write_onnx(folder / "network.onnx", side=RESNET50.crop)), "engine": "onnxruntime",
        "preprocessing": "scale_0_1", "threads": 1, "max_wait_s": MOST_WAIT_S, "deadline_s": 2 * MOST_WAIT_S,
        "cache": {"store": "off"},
    }  # fmt: skip
    model["deployments"] = [{"name": "Classifier", "num_replicas": 1, "ray_actor_options": {"num_cpus": 0.1}}]
    config["applications"] = [model]
    return config


def spread(first: Service, config: dict[str, Any], nodes: int, replicas: int) -> None:
    """Have as many replicas on each node.

    Those of before are removed first: they hold places that the new ones need, and Serve stops none of them while more
    replicas are wanted than run.
    """
    model = config["applications"][0]
    model["deployments"][0] |= {"num_replicas": replicas, "max_replicas_per_node": replicas // nodes}
    rest = first.rest()
    Rollout(rest, config | {"applications": []}).deploy()
    first.wait_for(lambda: not rest.applications(), "removal of the replicas of before")
    Rollout(rest, config).deploy()

    def are_spread() -> bool:
        found = [each for one in rest.applications()["model"]["deployments"].values() for each in one["replicas"]]
        there = [each["node_id"] for each in found if each["state"] == "RUNNING"]  # others may have no node yet
        return len(found) == len(there) == replicas and len(set(there)) == nodes

    first.wait_for(are_spread, f"{replicas} replicas on {nodes} nodes")


def is_ready(url: str) -> bool:
    """Tell whether a node's HAProxy has a replica that answers."""
    try:
        return httpx.get(f"{url}/model/ready", timeout=MOST_WAIT_S, trust_env=False).is_success
    except httpx.TransportError:
        return False


def tell(report: Report, step: tuple[str, str], loads: Sequence[WrkLoad], possible_rps: float) -> None:
    """Add a step, its table and row, to the report; `possible_rps` is what its engines can answer."""
    table, row = step
    rps, failures = sum(one.rps for one in loads), sum(one.failures for one in loads)
    if failures:
        report.faults.append(f"{table}, {row}: {failures} predictions failed")
    report.append(table, row, "rate", "img/s", rps)
    report.append(table, row, "of the engines", "%", 100 * rps / possible_rps)
    report.append(table, row, "p50", "ms", max(one.p50_ms for one in loads))
    progress(f"  {rps:.1f} img/s, {100 * rps / possible_rps:.0f} % of the engines")


def load(urls: Sequence[str], folder: Path, connections: int, duration_s: int) -> list[WrkLoad]:
    """Return what each node's HAProxy answered, all loaded at the same time."""
    with ThreadPoolExecutor(len(urls)) as threads:
        started = [
            threads.submit(
                post_pictures, f"{url}/model/predict", folder, PICTURES, connections=connections, duration_s=duration_s
            )
            for url in urls
        ]
        return [each.result() for each in started]


if __name__ == "__main__":
    run(main)
