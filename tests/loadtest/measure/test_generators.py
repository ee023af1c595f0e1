"""Several load generators make one load: real Locust processes, against targets that count what arrives.

That N = 1, 2 and 4 give the same figures, and a higher rate than one can make: `python -m tests.benchmarks.generators`.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from loadtest.figures.traffic import read_stages_ms
from loadtest.load.generator import LONGEST_SILENCE_S
from loadtest.rows.columns import GeneratorRow, RequestRow, read_rows
from tests.failures import keep_on_failure
from tests.kit import (
    MARK,
    ROOT,
    RUN_S,
    START_S,
    STOP_S,
    Ended,
    assert_nothing_left,
    faults_of,
    known_target,
    make_report,
    processes_of,
    run_kit,
    running_known_target,
    started_kit,
    target_metrics,
    workload,
    write_plan,
)
from tests.known_target import read_seen
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

USERS = 6
SLOW_PREPARATIONS = f"""

from gevent.monkey import get_original
from locust import events
from locust.runners import WorkerRunner


@events.test_start.add_listener
def prepare(environment, **_):
    if isinstance(environment.runner, WorkerRunner):
        get_original("time", "sleep")({LONGEST_SILENCE_S + 3})  # nothing else of this process runs meanwhile
"""
DELAYS_MS = (5.0, 15.0)
"""Of the two ingresses: an answer tells by it which one it is from."""


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """Two generators with three users each, at a target with two ingresses."""
    folder = tmp_path_factory.mktemp("divided")
    first, second = free_port(), free_port()
    target = known_target("cluster", first, start=None, url=[f"http://127.0.0.1:{port}" for port in (first, second)])
    plan = write_plan(
        folder / "plan.yaml",
        [target],
        users=[USERS],
        generators=2,
        metrics={**target_metrics(first), "urls": [f"http://127.0.0.1:{port}/metrics" for port in (first, second)]},
        warmup={"duration_s": 0},
    )
    delays = [("--delay-ms", str(delay_ms)) for delay_ms in DELAYS_MS]
    with running_known_target(first, *delays[0]), running_known_target(second, *delays[1]):
        ended = run_kit(plan, folder / "run")
    with keep_on_failure("divided", lambda: [folder]):
        yield ended


def test_a_load_of_several_generators_is_a_valid_cell(divided: Ended) -> None:
    assert faults_of(divided.cell("cluster")) == []
    assert [generator.name for generator in divided.cell("cluster").generators] == ["1 of 2", "2 of 2"]


def test_the_run_folder_has_a_row_of_every_request_that_arrived(divided: Ended) -> None:
    arrived = sum(
        counter.increase for counter in divided.cell("cluster").counters if counter.labels["path"] == "/fixed"
    )
    rows = divided.rows("cluster")
    assert len(rows) == arrived > 0
    seen = [(read_stages_ms(row.server_timing)["work"], read_seen(row.server_timing)) for row in rows]
    assert len({(ingress, one.client, one.number) for ingress, one in seen}) == len(rows)


def test_each_row_has_its_generator_and_each_generator_counted_its_rows(divided: Ended) -> None:
    folder = divided.folder.cell_path(divided.record("cluster").cell)
    counted = {row.generator: row.requests for row in read_rows(folder / "generator.csv", GeneratorRow)}
    assert Counter(row.generator for row in divided.rows("cluster")) == counted
    assert sorted(counted, key=str) == [1, 2]


def test_users_are_divided_evenly_among_generators_and_ingresses(divided: Ended) -> None:
    connections = defaultdict(set)
    for row in divided.rows("cluster"):
        ingress = read_stages_ms(row.server_timing)["work"]
        connections[ingress, row.generator].add(read_seen(row.server_timing).client)
    assert {ingress for ingress, _ in connections} == {*DELAYS_MS}
    for delay_ms in DELAYS_MS:
        assert sum(len(users) for (ingress, _), users in connections.items() if ingress == delay_ms) == USERS / 2
    for generator in (1, 2):
        assert sum(len(users) for (_, number), users in connections.items() if number == generator) == USERS / 2


def test_clocks_of_one_machine_are_the_same_within_what_is_known_of_them(divided: Ended) -> None:
    moments = divided.record("cluster").moments
    assert moments
    assert [clock.generator for clock in moments.clocks] == [1, 2]
    for clock in moments.clocks:
        assert abs(clock.ahead_s) <= clock.uncertainty_s + 1e-4


def test_all_rows_lie_between_the_moments_of_the_load(divided: Ended) -> None:
    moments = divided.record("cluster").moments
    assert moments
    starts = [row.start_unix_s for row in divided.rows("cluster")]
    slack_s = 1e-3 + max(clock.uncertainty_s for clock in moments.clocks)
    assert moments.started_unix_s - slack_s <= min(starts)
    assert max(starts) <= moments.stopped_unix_s + slack_s


def test_the_report_says_how_many_generators_there_were_and_names_the_ingresses(divided: Ended) -> None:
    report = (divided.folder.path / "report.md").read_text()
    assert "| load generators " in report
    assert "| ingresses (cluster) " in report


@pytest.mark.long
def test_a_generator_that_is_killed_in_mid_cell_makes_it_invalid_also_when_resumed(tmp_path: Path) -> None:
    target = known_target("killing", free_port(), "--kill-client-at 60")
    plan = write_plan(tmp_path / "plan.yaml", [target], generators=2, duration_s=20, warmup={"duration_s": 0})
    told = "load generator 2 of 2 ended with code -9 before the load was over"
    for _ in range(2):
        ended = run_kit(plan, tmp_path / "run")
        assert ended.exit_code == 1, ended.output
        (reason,) = ended.cell("killing").reasons
        assert reason.startswith(told)
        assert reason.code == "generator_lost"
        assert f"INVALID killing, 5 users, repetition 1: {told}" in ended.stdout
    assert told in make_report(tmp_path / "run").stdout
    assert "1 of 1 cells to measure" in ended.stderr  # the failed cell is not taken for a finished one


@pytest.mark.long
def test_a_generator_that_freezes_in_mid_cell_makes_it_invalid(tmp_path: Path) -> None:
    plan = write_plan(
        tmp_path / "plan.yaml",
        [known_target("known", free_port())],
        generators=2,
        duration_s=60,
        warmup={"duration_s": 0},
        workload=workload("fixed", wait_s=[0.05, 0.15]),
    )
    with started_kit(plan, tmp_path / "run") as kit:
        rows = tmp_path / "run/cells/known-5users-1/generator.csv"
        kit.wait_until(lambda: rows.is_file() and _generators_in(rows) == {1, 2}, "both generators send")
        frozen = _worker(kit.mark, 1)
        frozen.send_signal(signal.SIGSTOP)
        ended = kit.wait()
    (reason,) = ended.cell("known").reasons
    assert (reason, reason.code) == ("load generator 1 of 2 sent nothing for 10 s in mid-load", "generator_lost")


@pytest.mark.long
def test_preparations_may_take_longer_than_a_generator_may_be_silent_and_are_no_part_of_the_load(
    tmp_path: Path,
) -> None:
    plan_workload = workload("fixed", wait_s=[0.05, 0.15])
    locustfile = tmp_path / "slow.py"
    locustfile.write_text(Path(plan_workload["locustfile"]).read_text() + SLOW_PREPARATIONS)
    plan = write_plan(
        tmp_path / "plan.yaml",
        [known_target("known", free_port())],
        generators=2,
        warmup={"duration_s": 0},
        workload={**plan_workload, "locustfile": str(locustfile)},
    )
    ended = run_kit(plan, tmp_path / "run")
    assert faults_of(ended.cell("known")) == []
    record = ended.record("known")
    assert record.moments
    assert record.moments.started_unix_s - record.began_unix_s > LONGEST_SILENCE_S
    assert min(row.start_unix_s for row in ended.rows("known")) > record.moments.started_unix_s - 0.01


@pytest.mark.long
def test_generators_elsewhere_report_to_the_run_one_load_after_the_other(tmp_path: Path) -> None:
    """As on another machine: another folder, the locustfile from the master, rows by messages only."""
    port = free_port()
    plan = write_plan(
        tmp_path / "plan.yaml",
        [known_target("known", target_port := free_port())],
        generators=2,
        generators_at=f"127.0.0.1:{port}",
        repetitions=2,
        metrics=target_metrics(target_port),
        warmup={"duration_s": 0},
    )
    (tmp_path / "elsewhere").mkdir()
    with running_generators(f"127.0.0.1:{port}", tmp_path / "elsewhere"):
        ended = run_kit(plan, tmp_path / "run")
    figures = ended.figures()
    assert [cell.repetition for cell in figures.cells] == [1, 2]
    for cell in figures.cells:
        assert faults_of(cell) == []
        folder = ended.folder.path / "cells" / f"known-5users-{cell.repetition}"
        rows = list(read_rows(folder / "requests.csv", RequestRow))
        arrived = sum(counter.increase for counter in cell.counters if counter.labels["path"] == "/fixed")
        assert len(rows) == arrived > 0
        assert {row.generator for row in rows} == {1, 2}


@pytest.mark.long
def test_a_generator_elsewhere_that_is_killed_is_lost_and_its_successor_waits_for_the_next_cell(tmp_path: Path) -> None:
    at = f"127.0.0.1:{free_port()}"
    plan = write_plan(
        tmp_path / "plan.yaml",
        [known_target("known", free_port())],
        generators=2,
        generators_at=at,
        repetitions=2,
        duration_s=30,
        warmup={"duration_s": 0},
        workload=workload("fixed", wait_s=[0.05, 0.15]),
    )
    (tmp_path / "elsewhere").mkdir()
    with running_generators(at, tmp_path / "elsewhere") as mark, started_kit(plan, tmp_path / "run") as kit:
        rows = tmp_path / "run/cells/known-5users-1/generator.csv"
        kit.wait_until(lambda: rows.is_file() and _generators_in(rows) == {1, 2}, "both generators send")
        _worker(mark, 0).kill()
        ended = kit.wait()
    first, second = ended.figures().cells
    (reason,) = first.reasons
    assert reason.code == "generator_lost"
    assert reason.endswith("of 2 sent nothing for 10 s in mid-load")
    assert faults_of(second) == []


@pytest.mark.long
def test_generators_that_do_not_come_are_told_with_what_to_run(tmp_path: Path) -> None:
    at = f"127.0.0.1:{free_port()}"
    targets = [known_target("known", free_port())]
    plan = write_plan(tmp_path / "plan.yaml", targets, generators=2, generators_at=at, warmup={"duration_s": 0})
    ended = run_kit(plan, tmp_path / "run")
    assert ended.exit_code == 1
    told = "only 0 of 2 load generators came within 45 s: run "
    assert f"{told}`python -m loadtest generator --master {at}` on their machines, or see there" in ended.stdout


@contextmanager
def running_generators(master: str, folder: Path) -> Iterator[str]:
    """Run two generators for the run at `master`, and see that they end when told to, and leave nothing.

    Yields the mark of their processes.
    """
    mark = f"{folder} {time.monotonic_ns()}"
    with (folder / "printed.txt").open("wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "loadtest", "generator", "--master", master, "--processes", "2"],
            cwd=folder,
            env={**os.environ, MARK: mark, "PYTHONPATH": str(ROOT)},
            stdout=printed,
            stderr=subprocess.STDOUT,
        )
    try:
        with keep_on_failure("generators", lambda: [folder]):
            yield mark
            assert process.poll() is None, (folder / "printed.txt").read_text()
            process.terminate()
            assert process.wait(STOP_S) == 0
            assert_nothing_left(mark)
    finally:
        for left in processes_of(mark):
            left.kill()
        process.wait(STOP_S)


def _generators_in(rows: Path) -> set[int | None]:
    return {row.generator for row in read_rows(rows, GeneratorRow)}


def _worker(mark: str, number: int) -> psutil.Process:
    """Return the process of a generator, or one of those whose numbers the master chooses, which have 0."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        for process in processes_of(mark):
            words = process.cmdline()
            if "loadtest.load.worker" in words and words[words.index("loadtest.load.worker") + 1] == str(number):
                return process
    raise AssertionError(f"no generator {number}")
