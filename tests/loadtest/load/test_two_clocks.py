"""Generators whose clocks are hours off make the same load at the same time, and their rows have the master's time."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest.load.arrivals import draw_arrival_times_s
from loadtest.load.generator import Load, running_generator, take_down, worker_command
from loadtest.rows.columns import RequestRow, read_rows
from loadtest.rows.run_folder import Moments
from tests.kit import ROOT, RUN_S, known_target, running_known_target, workload
from tests.made_run import made_plan
from tests.ports import free_port

AHEAD_S = (3600.0, -1800.0)
RATE_RPS = 20.0
SHIFTED = """
import runpy, sys, time
ahead_s, own = float(sys.argv.pop(1)), time.time
time.time = lambda: own() + ahead_s
runpy.run_module("loadtest.load.worker", run_name="__main__", alter_sys=True)
"""


@contextmanager
def generators_ahead(port: int, folder: Path) -> Iterator[None]:
    """Run two generators with clocks that are ahead of this machine's."""
    locustfile = workload("fixed")["locustfile"]
    _, _, _, *options = worker_command(0, "127.0.0.1", port, "-f", locustfile)
    processes = []
    try:
        for ahead_s in AHEAD_S:
            command = [sys.executable, "-c", SHIFTED, str(ahead_s), *options]
            with (folder / f"{ahead_s}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))
        yield
    finally:
        take_down(processes)


def make_load(folder: Path) -> Moments:
    """Make an open loop with these generators."""
    port, target_port = free_port(), free_port()
    plan = made_plan(
        targets=[known_target("known", target_port)],
        workload=workload("fixed", rate_rps=RATE_RPS),
        users=[4],
        limits=[],
        baseline=None,
        settle_s=1,
        duration_s=5,
        generators=2,
        generators_at=f"127.0.0.1:{port}",
    )
    load = Load(4, 4, 5, 1, folder, "requests", divided=True)
    with (
        running_known_target(target_port),
        running_generator(plan, plan.targets[0], load) as generator,
        generators_ahead(port, folder),
    ):
        deadline = time.monotonic() + RUN_S
        while generator.is_running():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return generator.read_moments()


@pytest.mark.long
def test_all_times_are_the_master_s_whatever_the_generators_clocks_say(tmp_path: Path) -> None:
    moments = make_load(tmp_path)
    assert moments.spawned_unix_s
    assert moments.arrivals
    assert moments.waited_s is not None
    assert 0 <= moments.waited_s <= moments.stopped_unix_s - moments.stopping_unix_s
    for clock in moments.clocks:
        (ahead_s,) = (ahead_s for ahead_s in AHEAD_S if abs(clock.ahead_s - ahead_s) < 1)
        assert abs(clock.ahead_s - ahead_s) <= clock.uncertainty_s
        assert abs(clock.ahead_at_end_s - ahead_s) <= clock.uncertainty_s
    rows = list(read_rows(tmp_path / "requests.csv", RequestRow))
    assert {row.generator for row in rows} == {1, 2}
    lasted_s = moments.stopping_unix_s - moments.spawned_unix_s
    times_s = [due_s for due_s in draw_arrival_times_s(RATE_RPS, 5, "poisson", seed=1) if due_s < lasted_s]
    assert moments.arrivals.due == pytest.approx(len(times_s), abs=1)
    scheduled = sorted(row.scheduled_unix_s or 0.0 for row in rows)
    assert scheduled == pytest.approx([moments.spawned_unix_s + due_s for due_s in times_s[: len(rows)]], abs=0.01)
    assert len(rows) == moments.arrivals.due - moments.arrivals.unsent > 0
    late_s = [row.start_unix_s - (row.scheduled_unix_s or 0.0) for row in rows]
    assert min(late_s) > -0.01
    assert max(late_s) < RUN_S
