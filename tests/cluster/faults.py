"""What a cluster loses in each fault, under load through every node: one fault at a time, and a table of them."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.cluster import API_KEY, NEW_ADDRESS, PROJECT, PYTHON, Cluster
from tests.cluster.load import ANSWER_S, RATE
from tests.cluster.node import ROOT, Machine

BACK_S = 300.0
"""Longest wait for full capacity."""
TARGET_S = 60.0
"""Full capacity is to be back within this; what takes longer says why."""
SENT = 0.9
"""Part of the requests due that must have been sent: the machine that sends is busy too."""
BEFORE_S, AFTER_S = 5.0, 10.0
AWAY_S = 10.0
MAX_BATCH = 8
CUT_S = 20.0


@dataclass
class Outcome:
    """What was seen of one fault. Times in seconds since it began."""

    fault: str
    back_s: float
    """Until every node that is there has its replicas and answers; the time of the fault itself included."""
    without: set[str] = field(default_factory=set)
    """Addresses of the nodes that the fault took away."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    known: str = ""
    """The kind of requests that cannot all succeed, whatever node is asked."""
    slow_because: str = ""
    """Why full capacity may be back later than TARGET_S."""

    @property
    def is_surprising(self) -> bool:
        """Whether a request failed that need not, none was sent, or capacity was not back in time."""
        is_late = self.back_s > (BACK_S if self.slow_because else TARGET_S)
        has_failed = any(row["kind"] != self.known for row in self.failed(through_left=True))
        return is_late or has_failed or not self.requests(through_left=True)

    def failed(self, *, through_left: bool) -> list[dict[str, Any]]:
        """Return the requests that failed, through the nodes that were left, or through those that were not."""
        return [
            row for row in self.rows if row["status"] != 200 and (row["address"] not in self.without) == through_left
        ]

    def requests(self, *, through_left: bool) -> int:
        return sum((row["address"] not in self.without) == through_left for row in self.rows)

    def slowest_s(self) -> float:
        """Return the longest time of a request through the nodes that were left."""
        return max((row["s"] for row in self.rows if row["address"] not in self.without), default=0.0)


@dataclass(frozen=True)
class Fault:
    """What is done to a cluster, and what of it cannot be as good as for other faults."""

    title: str
    do: Callable[[Cluster], set[str]]
    """Does the harm and its end, and returns the addresses of the nodes that it takes away."""
    known: str = ""
    slow_because: str = ""


def worker_loses_power(cluster: Cluster) -> set[str]:
    worker = cluster.nodes[1]
    worker.power_off()
    time.sleep(CUT_S)
    worker.start()
    return {worker.address}


def worker_processes_killed(cluster: Cluster) -> set[str]:
    """Ray, replicas and HAProxy of a worker end at once; the machine itself stays."""
    worker = cluster.nodes[1]
    worker.run("pkill", "-KILL", "-u", "ubuntu", user="root", check=False)
    return {worker.address}


def worker_cut_off(cluster: Cluster) -> set[str]:
    worker = cluster.nodes[1]
    worker.unplug()
    time.sleep(CUT_S)
    worker.plug()
    return {worker.address}


def worker_added(cluster: Cluster) -> set[str]:
    """One more address in ray_cluster.yaml, and `ray up --no-restart`."""
    file = cluster.laptop.home / "serve-app" / "ray_cluster.yaml"
    text = file.read_text()
    last = f"{cluster.nodes[-1].address}]"
    assert last in text
    cluster.add_machine(NEW_ADDRESS)
    file.write_text(text.replace(last, f"{last[:-1]}, {NEW_ADDRESS}]"))
    cluster.ray_up("--no-restart")
    return set()


def head_killed(cluster: Cluster) -> set[str]:
    """Every process of the head ends at once; `ray up` brings it back."""
    cluster.head.run("pkill", "-KILL", "-u", "ubuntu", user="root", check=False)
    time.sleep(CUT_S)
    cluster.ray_up()
    return {cluster.head.address}


def postgres_away(cluster: Cluster) -> set[str]:
    cluster.stop_postgres()
    time.sleep(AWAY_S)
    cluster.start_postgres()
    return set()


def redis_away(cluster: Cluster) -> set[str]:
    """The head ends, because it does not connect to Redis again; `ray up` brings it back."""
    cluster.stop_redis()
    time.sleep(AWAY_S)
    cluster.start_redis()
    cluster.ray_up()
    return set()


def worker_drained(cluster: Cluster) -> set[str]:
    """`ray drain-node` and then a reboot; Ray's monitor starts Ray there again, as on every worker it has lost."""
    worker = cluster.nodes[1]
    cluster.drain(worker)
    cluster.wait_until(lambda: worker.address not in cluster.alive(), "the end of the drained node", BACK_S)
    worker.power_off()
    worker.start()
    return {worker.address}


def rolling_update(cluster: Cluster) -> set[str]:
    """Another config for every classifier replica: the batch of configs/cluster.yaml, or one less."""
    deployed = cluster.status()["model"]["deployed_app_config"]["args"].get("max_batch", MAX_BATCH)
    other = MAX_BATCH - 1 if deployed == MAX_BATCH else MAX_BATCH
    words = ["-m", "serve_app.redeploy", "configs/cluster.yaml", "--dashboard", "http://127.0.0.1:8265"]
    words += ["--set", f"model.max_batch={other}", "--timeout-s", f"{BACK_S:g}"]
    cluster.head.run("bash", "-c", f"cd {PROJECT} && {PYTHON} {' '.join(words)}")
    return set()


_STARTED_AGAIN = "Ray's monitor takes a worker for lost after 15 s, and then starts Ray there again"
_RAY_UP = "`ray up` starts Ray again, on the head and where files have changed"
FAULTS: dict[str, Fault] = {
    "update": Fault("rolling update of the classifiers", rolling_update, slow_because="one node after the other"),
    "killed": Fault("all processes of a worker killed", worker_processes_killed, slow_because=_STARTED_AGAIN),
    "power": Fault(f"a worker without power for {CUT_S:g} s", worker_loses_power, slow_because=_STARTED_AGAIN),
    "cut": Fault(f"a worker cut off for {CUT_S:g} s", worker_cut_off),
    "postgres": Fault(f"PostgreSQL away for {AWAY_S:g} s", postgres_away, known="lookup"),
    "redis": Fault(f"Redis away for {AWAY_S:g} s, then `ray up`", redis_away, slow_because=_RAY_UP),
    "added": Fault("a worker added", worker_added, slow_because="the machine is installed first"),
    "drained": Fault("a worker drained, `ray drain-node`", worker_drained, slow_because=_STARTED_AGAIN),
    "head": Fault(f"the head killed, brought back after {CUT_S:g} s", head_killed, slow_because=_RAY_UP),
}


def measure(cluster: Cluster, name: str, folder: Path) -> Outcome:
    """Return what the fault `name` costs; the rows of its load are in `folder`.

    A node that has come meanwhile is asked too, once it serves. Raises AssertionError if the load was not sent.
    """
    fault = FAULTS[name]
    asked = list(cluster.nodes)
    files = [folder / f"{name}.jsonl"]
    with _load(cluster, asked, files[0]):
        time.sleep(BEFORE_S)
        begun = time.monotonic()
        without = fault.do(cluster)
        try:
            cluster.wait_until(cluster.is_whole, "full capacity", BACK_S)
            back_s = time.monotonic() - begun
        except AssertionError:
            back_s = float("inf")
        added = [machine for machine in cluster.nodes if machine not in asked]
        if added and back_s <= BACK_S:
            files.append(folder / f"{name}.added.jsonl")
        with _load(cluster, added, files[1]) if files[1:] else nullcontext():
            time.sleep(AFTER_S)
    rows = [row for file in files for row in read_rows(file)]
    return Outcome(fault.title, back_s, without, rows, fault.known, fault.slow_because)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return what the load printed: one row for each request."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_sent(rows: list[dict[str, Any]], addresses: list[str], seconds: float) -> None:
    """Return if each address was asked at RATE for `seconds`, but for a few. Raises AssertionError."""
    sent = Counter(row["address"] for row in rows)
    least = SENT * RATE * seconds
    assert all(sent[address] >= least for address in addresses), f"less than {least:.0f} requests each: {dict(sent)}"


def render(outcomes: list[Outcome]) -> Iterator[str]:
    """Yield the lines of the table, as Markdown."""
    yield "| fault | failed through the nodes left | slowest | through the lost node | capacity back after |"
    yield "|---|---|---|---|---|"
    for one in outcomes:
        left, lost = one.failed(through_left=True), one.failed(through_left=False)
        through_left = f"{len(left)} of {one.requests(through_left=True)}{_kinds(left)}"
        through_lost = f"{len(lost)} of {one.requests(through_left=False)}" if one.without else "–"
        back = f"{one.back_s:.0f} s" if one.back_s < BACK_S else f"not within {BACK_S:g} s"
        yield f"| {one.fault} | {through_left} | {one.slowest_s():.1f} s | {through_lost} | {back} |"


def _kinds(failed: list[dict[str, Any]]) -> str:
    counted = Counter(f"{row['kind']} {row['status'] or row['fault']}" for row in failed)
    return f" ({', '.join(f'{count} {kind}' for kind, count in counted.most_common())})" if counted else ""


@contextmanager
def _load(cluster: Cluster, asked: list[Machine], rows: Path) -> Iterator[None]:
    """Ask each machine during the block, and then wait for every answer that is still due."""
    addresses = [machine.address for machine in asked]
    program = f"tests.cluster.load {' '.join(addresses)} --key"
    command = f"cd {ROOT} && exec {PYTHON} -m {program} {API_KEY} --for-s 3600"
    errors = rows.with_suffix(".errors.txt")
    with rows.open("wb") as file, errors.open("wb") as error_file:
        process = subprocess.Popen(
            cluster.laptop.command("bash", "-c", command),
            stdin=subprocess.DEVNULL, stdout=file, stderr=error_file,
        )  # fmt: skip
        try:
            cluster.wait_until(lambda: rows.stat().st_size > 0, "the first answer to the load", BACK_S)
            begun = time.monotonic()
            yield
            seconds = time.monotonic() - begun
            assert process.poll() is None, f"the load has ended by itself: {errors.read_text()[-2000:]}"
        finally:
            cluster.laptop.run("pkill", "-TERM", "-f", program, check=False)
            code = process.wait(2 * ANSWER_S)
    assert code == 0, f"the load: exit code {code}: {errors.read_text()[-2000:]}"
    check_sent(read_rows(rows), addresses, seconds)
