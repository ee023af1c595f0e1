"""How many cores the service says it may use: affinity masks and the CPU quotas of containers, of both versions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_app.deployments.cores import usable_cores
from serve_app.deployments.thread_budget import Replicas, pinning_fault, thread_budget_fault
from tests.control_groups import SYSTEMS, UNLIMITED, half_a_core, write_system

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="masks and quotas are Linux's")
MACHINE = frozenset(range(16))


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: MACHINE)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_cpu_quota_of_a_container_counts_in_whole_cores(tmp_path: Path, system: str) -> None:
    described = SYSTEMS[system]
    assert described.cores
    assert usable_cores(write_system(tmp_path, described)) == int(described.cores)


@pytest.mark.parametrize("system", UNLIMITED)
def test_without_a_quota_every_core_counts(tmp_path: Path, system: str) -> None:
    assert usable_cores(write_system(tmp_path, UNLIMITED[system])) == len(MACHINE)


def test_of_less_than_a_core_one_is_left(tmp_path: Path) -> None:
    container = SYSTEMS["version 2, a container"]._replace(files={"cpu.max": "20000 100000"})
    assert usable_cores(write_system(tmp_path, container)) == 1


def test_a_mask_with_fewer_cores_than_the_quota_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores(write_system(tmp_path, SYSTEMS["version 2, a unit in a slice"])) == 1


def test_two_replicas_in_a_container_of_one_core_are_a_loud_line(tmp_path: Path) -> None:
    fault = thread_budget_fault(
        1, Replicas(2, 2), usable_cores(write_system(tmp_path, SYSTEMS["version 2, a container"]))
    )
    assert fault
    assert "on 1 core(s) (by CPU affinity and quota): they will slow each other down" in fault


def test_the_threads_of_other_classifiers_count() -> None:
    assert thread_budget_fault(1, Replicas(1, 1), 2, other_threads=1) is None
    fault = thread_budget_fault(2, Replicas(1, 1), 2, other_threads=2)
    assert fault
    assert (
        "beside 2 of other classifiers, on 2 core(s) (by CPU affinity and quota): they will slow each other down"
        in fault
    )


@pytest.mark.parametrize(
    ("threads", "replicas", "held"),
    [(2, 8, MACHINE), (2, 8, frozenset()), (2, 1, frozenset({0, 1}))],
    ids=["on every core", "not held", "one replica with a core for each thread"],
)
def test_engines_that_leave_each_other_alone_are_not_mentioned(
    threads: int, replicas: int, held: frozenset[int]
) -> None:
    assert pinning_fault(threads, replicas, held, len(MACHINE)) is None


def test_engines_that_hold_their_threads_on_the_same_cores_are_a_loud_line() -> None:
    fault = pinning_fault(2, 8, frozenset({1, 0}), len(MACHINE))
    assert fault
    assert fault.startswith("THREADS: the engine holds its threads on core(s) 0, 1 of 16")


@pytest.mark.system(root=True, cpu_quota=True)
def test_a_real_control_group_with_a_quota_is_seen() -> None:
    code = (
        "from serve_app.deployments.cores import *; from serve_app.deployments import cores; from pathlib import Path"
    )
    code += "; print(usable_cores(), list(cores._quotas(Path('/'))))"
    with half_a_core() as group:
        enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        command = ["sh", "-c", enter, "sh", sys.executable, "-c", code]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == "1 [0.5]\n"
