"""How many cores the kit and its targets may use, and where busy threads crowd, by real processes and made files."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from loadtest.machine.cores import Quota, quota_of, usable_cores
from loadtest.machine.environment import read_environment
from loadtest.machine.resources import ResourceSampler
from loadtest.machine.threads import Crowd, Place, ThreadUse, add_up, knows_threads
from loadtest.plan.targets import Role
from loadtest.rows.columns import ResourceRow
from tests.control_groups import SYSTEMS, UNLIMITED, half_a_core, write_system

pytestmark = pytest.mark.skipif(not knows_threads(), reason="masks, quotas and waiting threads are told by Linux only")
ALL = frozenset(range(16))
COMPUTE = "import hashlib\nwhile True: hashlib.sha256(bytes(10**6)).digest()"
DEADLINE_S = 60


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_cpu_quota_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: ALL)
    assert usable_cores(write_system(tmp_path, SYSTEMS[system])) == SYSTEMS[system].cores


@pytest.mark.parametrize("system", UNLIMITED)
def test_without_a_quota_there_is_none(tmp_path: Path, system: str) -> None:
    assert quota_of("self", write_system(tmp_path, UNLIMITED[system])) is None


def test_a_process_that_has_ended_has_no_quota() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert quota_of(process.pid) is None


def test_a_mask_counts_and_the_environment_tells_it() -> None:
    first = min(os.sched_getaffinity(0))
    code = "from loadtest.machine.cores import usable_cores; print(usable_cores())"
    code = f"import os; os.sched_setaffinity(0, [{first}]); {code}"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "1.0\n"
    environment = read_environment()
    assert (environment.cores, environment.usable_cores) == (psutil.cpu_count(), usable_cores())


# Crowds


def places(*cores: frozenset[int], quota: Quota | None = None) -> tuple[Place, ...]:
    return tuple(Place(each, quota) for each in cores)


def test_threads_held_on_few_cores_are_a_crowd_whatever_others_may_do() -> None:
    held = places(*[frozenset({0})] * 8, *[frozenset({1})] * 8)
    assert ThreadUse(places=(*held, *places(ALL))).crowd == Crowd(8, 1)
    assert ThreadUse(places=places(*[frozenset({0, 1})] * 6, ALL)).crowd == Crowd(6, 2)


def test_threads_that_may_run_everywhere_are_a_crowd_on_all_cores() -> None:
    assert ThreadUse(places=places(ALL, ALL, ALL)).crowd == Crowd(3, 16)
    assert ThreadUse().crowd is None


def test_replicas_with_cores_of_their_own_are_no_crowd() -> None:
    apart = [frozenset({2 * replica, 2 * replica + 1}) for replica in range(8) for _ in range(2)]
    assert ThreadUse(places=places(*apart)).crowd == Crowd(2, 2)


def test_a_quota_is_shared_by_all_threads_of_its_group() -> None:
    one, other = Quota(Path("/one"), 1.5), Quota(Path("/other"), 1.0)
    use = add_up([ThreadUse(places=places(ALL, ALL, quota=one)), ThreadUse(places=places(ALL, quota=one))])
    assert use.crowd == Crowd(3, 1.5)
    assert ThreadUse(places=(*use.places, *places(ALL, quota=other))).crowd == Crowd(4, 2.5)
    assert ThreadUse(places=(*use.places, *places(ALL))).crowd == Crowd(4, 16)


def wait_for_row(sampler: ResourceSampler, processes: int) -> ResourceRow:
    """Return the first row in which all processes computed or waited, on one core at most: that comes with time."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        time.sleep(0.5)
        rows = {row.role: row for row in sampler.sample()}
        row = rows["worker"]
        if row.crowd_threads == processes and row.crowd_cores is not None and row.crowd_cores <= 1:
            return row
    raise AssertionError(f"no second in which {processes} processes crowded: {rows}")


def test_two_workers_on_the_same_core_are_seen_as_a_crowd_while_another_core_is_free() -> None:
    held = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\n{COMPUTE}"
    workers = [psutil.Popen([sys.executable, "-c", held]) for _ in range(3)]
    try:
        row = wait_for_row(ResourceSampler([Role(name="worker", command="sched_setaffinity")], 0), len(workers))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert (row.crowd_threads, row.crowd_cores) == (3, 1)


@pytest.mark.system(root=True, cpu_quota=True)
def test_workers_in_a_real_control_group_crowd_on_its_quota() -> None:
    with half_a_core() as group:
        code = f"open('{group}/cgroup.procs', 'w').write('0')\n{COMPUTE}"
        workers = [psutil.Popen([sys.executable, "-c", code]) for _ in range(2)]
        try:
            row = wait_for_row(ResourceSampler([Role(name="worker", command="cgroup.procs")], 0), len(workers))
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert (row.crowd_threads, row.crowd_cores) == (2, 0.5)
