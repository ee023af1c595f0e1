"""The kit measures right: whole runs of it against a target whose every answer, time and rate is known.

Each run is shared by the claims that can be read from it.
"""

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.run_folder import Cell, RunFolder
from tests.kit import (
    Ended,
    arrived,
    known_target,
    make_report,
    run_kit,
    target_metrics,
    undisturbed,
    workload,
    write_plan,
)
from tests.ports import free_port

DELAYS_MS = {"quick": 20.0, "slow": 100.0}
SERIAL_RPS = 50
# So many that 0.8 s of their requests wait: the server stays busy even when the machine stalls the users that long.
SERIAL_USERS = 40
FAIL_EVERY = 10
FAILING_DELAY_MS = 40.0


@pytest.fixture(scope="module")
def usual_plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two targets with a fixed delay, two repetitions, objectives that they meet."""
    port = free_port()
    targets = [
        known_target(name, port, f"--delay-ms {delay_ms}", about=["/about"]) for name, delay_ms in DELAYS_MS.items()
    ]
    return write_plan(
        tmp_path_factory.mktemp("usual") / "plan.yaml",
        targets,
        repetitions=2,
        seed=7,
        metrics=target_metrics(port),
        limits=["failures_percent <= 0", "fixed.median_ms < 200"],
    )


@pytest.fixture(scope="module")
def usual(usual_plan: Path) -> Ended:
    return undisturbed(lambda name: run_kit(usual_plan, usual_plan.parent / name))


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A target whose every tenth answer is a 503 without delay; the objective is none."""
    folder, port = tmp_path_factory.mktemp("failing"), free_port()
    target = known_target("failing", port, f"--delay-ms {FAILING_DELAY_MS:g} --fail-every {FAIL_EVERY}")
    plan = write_plan(
        folder / "plan.yaml",
        [target],
        users=[20],
        duration_s=4,
        workload=workload("fixed", wait_s=[0, 0]),
        metrics=target_metrics(port),
        limits=["failures_percent <= 0", "fixed.median_ms <= 200"],
    )
    return undisturbed(lambda name: run_kit(plan, folder / name))


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Two targets of which one lacks a replica; the other is saturated by users who do not think."""
    folder, port = tmp_path_factory.mktemp("serial"), free_port()
    replicas = {"role": "replica", "count": 2}
    targets = [
        known_target("short", port, "--workers 1", replicas=replicas),
        known_target("saturated", port, f"--workers 2 --serial-rate {SERIAL_RPS}", replicas=replicas),
    ]
    plan = write_plan(
        folder / "plan.yaml",
        targets,
        users=[SERIAL_USERS],
        duration_s=8,
        workload=workload("serial", wait_s=[0, 0]),
        roles=[{"name": "replica", "command": r"known_target --replica$"}],
    )
    return undisturbed(lambda name: run_kit(plan, folder / name))


def test_a_run_whose_cells_are_valid_and_meet_their_limits_ends_with_0(usual: Ended) -> None:
    assert usual.exit_code == 0, usual.output
    figures = usual.figures()
    assert figures.all_valid
    assert figures.all_limits_met
    assert {limit.limit for cell in figures.cells for limit in cell.limits} == {
        "failures_percent <= 0",
        "fixed.median_ms < 200",
    }


@pytest.mark.parametrize(("target", "delay_ms"), DELAYS_MS.items())
def test_a_fixed_delay_is_measured_to_2_ms_and_2_percent(usual: Ended, target: str, delay_ms: float) -> None:
    (endpoint,) = usual.point(target).endpoints
    for traffic in (endpoint.steady, endpoint.whole_run):
        assert traffic.median_ms is not None
        assert delay_ms <= traffic.median_ms <= delay_ms * 1.02 + 2


@pytest.mark.parametrize(("target", "delay_ms"), DELAYS_MS.items())
def test_a_stage_is_what_the_target_stated_and_the_rest_is_unexplained(
    usual: Ended, target: str, delay_ms: float
) -> None:
    (endpoint,) = usual.point(target).endpoints
    assert [(stage.name, stage.avg_ms) for stage in endpoint.stages] == [("work", delay_ms)]
    assert endpoint.steady.avg_ms is not None
    assert endpoint.unexplained_ms == pytest.approx(endpoint.steady.avg_ms - delay_ms, abs=0.01)


def test_every_request_that_reached_the_target_has_one_row(usual: Ended, failing: Ended) -> None:
    for run in (usual, failing):
        for cell in run.folder.read_record().order:
            counts = arrived(run.cell(cell.target, cell.repetition))
            rows = run.rows(cell)
            assert len(rows) > 50
            assert len(rows) == counts.total()
            assert {status: [row.status for row in rows].count(status) for status in counts} == counts


def test_the_load_lasts_as_long_as_the_plan_says(usual: Ended, failing: Ended, serial: Ended) -> None:
    for run in (usual, failing, serial):
        duration_s = run.folder.read_plan().duration_s
        for cell in run.folder.read_record().order:
            record = run.folder.read_cell(cell)
            if record and record.moments:
                lasted_s = record.moments.stopping_unix_s - record.moments.started_unix_s
                # The load cannot end while a stall of the machine holds the generator; that one is on record.
                stalled_s = max(row.lag_ms for row in run.seconds(cell)) / 1000
                assert duration_s - 0.05 <= lasted_s <= duration_s + 0.05 + stalled_s


def test_pooled_repetitions_are_all_their_requests(usual: Ended) -> None:
    for target in DELAYS_MS:
        cells = [usual.cell(target, repetition).whole_run for repetition in (1, 2)]
        pooled = usual.point(target).whole_run
        assert pooled
        assert pooled.requests == sum(cell.requests for cell in cells if cell)


def test_cells_run_a_b_b_a_and_the_order_and_seeds_are_recorded(usual: Ended) -> None:
    record = usual.folder.read_record()
    order = [(cell.target, cell.repetition) for cell in record.order]
    assert order == [("quick", 1), ("slow", 1), ("slow", 2), ("quick", 2)]
    assert record.seed == usual.figures().test["seed"] == 7
    cells = [usual.folder.read_cell(cell) for cell in record.order]
    times_s = [time_s for cell in cells if cell for time_s in (cell.began_unix_s, cell.ended_unix_s)]
    assert len(times_s) == 8
    assert times_s == sorted(times_s)
    seeds = {(cell.cell.target, cell.cell.repetition): cell.seed for cell in cells if cell}
    assert seeds["quick", 1] == seeds["slow", 1] != seeds["quick", 2] == seeds["slow", 2]


def test_what_the_target_says_of_itself_is_recorded(usual: Ended) -> None:
    for target, delay_ms in DELAYS_MS.items():
        assert usual.record(target).about["/about"]["delay_ms"] == delay_ms


def test_only_a_cell_without_a_record_is_run_again(usual: Ended, usual_plan: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(usual.folder.path, tmp_path / "run"))
    record = folder.read_record()
    again, *others = record.order
    (folder.cell_path(again) / "cell.json").unlink()
    before = {cell.id: _fingerprint(folder, cell) for cell in record.order}
    ended = run_kit(usual_plan, folder.path)
    assert ended.record(again.target).status == "finished", ended.output
    assert _fingerprint(folder, again) != before[again.id]
    assert {cell.id: _fingerprint(folder, cell) for cell in others} == {cell.id: before[cell.id] for cell in others}
    assert len(folder.read_record().sessions) == 2
    assert len(ended.rows(again)) == arrived(ended.cell(again.target, again.repetition)).total() > 50


def test_another_plan_in_the_same_folder_is_refused(usual: Ended, usual_plan: Path) -> None:
    ended = run_kit(usual_plan, usual.folder.path, "--duration", "5")
    assert ended.exit_code == 2
    assert "duration_s" in ended.stderr
    assert "--out" in ended.stderr


def test_a_report_made_again_from_raw_data_is_the_same_to_the_byte(usual: Ended, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(usual.folder.path, copy, ignore=shutil.ignore_patterns("report.*", "plots"))
    ended = make_report(copy)
    assert ended.exit_code == 0, ended.output
    first, second = _report_files(usual.folder.path), _report_files(copy)
    assert {"report.md", "report.html", "report.json"} < set(first)
    assert any(name.startswith("plots/") for name in first)
    assert [name for name in first if first[name] != second.get(name)] == []
    assert first.keys() == second.keys()


def test_every_tenth_answer_failing_is_10_percent_failures(failing: Ended) -> None:
    point = failing.point("failing")
    assert point.whole_run
    assert point.steady
    # The load is an unbroken part of the target's count, in which every tenth request fails.
    assert abs(point.whole_run.failures - point.whole_run.requests / FAIL_EVERY) < 1
    # Requests that are under way together may arrive in another order than they were sent, so that one tenth request
    # more or less may fall inside either end of the steady window.
    assert abs(point.steady.failures - point.steady.requests / FAIL_EVERY) < 3
    assert point.steady.failures_percent == pytest.approx(10, abs=100 * 3 / point.steady.requests)


def test_failures_are_not_in_the_latencies(failing: Ended) -> None:
    steady = failing.point("failing").steady
    assert steady
    assert steady.avg_ms is not None
    # The refusals take no time: with them the average would be 36 ms.
    assert steady.avg_ms >= FAILING_DELAY_MS


def test_a_missed_limit_is_named_and_ends_with_1(failing: Ended) -> None:
    assert failing.exit_code == 1
    assert re.search(r"failures_percent <= 0: (9|10)(\.\d+)?\b", failing.output), failing.output
    assert "fixed.median_ms" not in failing.output
    figures = failing.figures()
    assert (figures.all_valid, figures.all_limits_met) == (True, False)
    assert [limit.limit for limit in figures.cells[0].limits if not limit.met] == ["failures_percent <= 0"]


def test_a_saturated_server_is_measured_at_its_rate_within_1_percent(serial: Ended) -> None:
    point = serial.point("saturated")
    assert point.steady
    assert point.steady.rps == pytest.approx(SERIAL_RPS, rel=0.01)
    cell = serial.cell("saturated")
    assert cell.whole_run
    assert cell.whole_run_s
    # At the end, one request of each user is still under way.
    assert cell.whole_run.requests == pytest.approx(SERIAL_RPS * cell.whole_run_s + SERIAL_USERS, rel=0.02)


def test_latency_under_saturation_follows_littles_law(serial: Ended) -> None:
    (endpoint,) = serial.point("saturated").endpoints
    latency_ms = SERIAL_USERS / SERIAL_RPS * 1000
    assert endpoint.steady.median_ms == pytest.approx(latency_ms, rel=0.02, abs=2)
    stages = {stage.name: stage.avg_ms for stage in endpoint.stages}
    assert stages["work"] == pytest.approx(1000 / SERIAL_RPS)
    assert stages["queue"] == pytest.approx(latency_ms - 1000 / SERIAL_RPS, rel=0.05)


def test_a_missing_replica_fails_its_cell_alone(serial: Ended) -> None:
    assert serial.exit_code == 1
    short, saturated = serial.cell("short"), serial.cell("saturated")
    assert (short.valid, short.replicas_found, short.replicas_asked) == (False, 1, 2)
    (reason,) = short.reasons
    assert "1" in reason
    assert "2" in reason
    assert "replica" in reason
    assert (saturated.valid, saturated.replicas_found, saturated.replicas_asked) == (True, 2, 2)


def test_the_replicas_of_a_role_are_sampled(serial: Ended) -> None:
    roles = {role.role: role for role in serial.point("saturated").roles}
    assert roles["replica"].processes == 2
    assert roles["replica"].cpu_percent < 5
    assert roles["load_generator"].processes == 1
    assert roles["load_generator"].cpu_percent > 1


@pytest.mark.long
def test_a_rate_beyond_the_generator_makes_the_cell_invalid(tmp_path: Path) -> None:
    target = known_target("boundless", free_port())
    plan = write_plan(tmp_path / "plan.yaml", [target], users=[50], workload=workload("fixed", rate_per_user_rps=400))
    ended = run_kit(plan, tmp_path / "run")
    assert ended.exit_code == 1
    cell = ended.cell("boundless")
    assert not cell.valid
    assert cell.steady
    assert cell.steady.rps is not None
    reason = next(reason for reason in cell.reasons if "20000" in re.sub(r"[ ,](?=\d{3})", "", reason))
    assert "generator" in reason
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", re.sub(r"[ ,](?=\d{3})", "", reason))]
    assert any(number == pytest.approx(cell.steady.rps, rel=0.02) for number in numbers), reason
    assert "INVALID" in ended.output


@pytest.mark.long
def test_other_work_on_the_machine_makes_the_cell_invalid(tmp_path: Path) -> None:
    target = known_target("beside", free_port())
    plan = write_plan(tmp_path / "plan.yaml", [target], most_other_cpu_percent=20)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            ended = run_kit(plan, tmp_path / "run")
        finally:
            other.kill()
    assert ended.exit_code == 1
    reasons = ended.cell("beside").reasons
    assert any(re.match(r"other work on this machine used \d+ % of one core, 20 % are allowed", one) for one in reasons)


def test_all_faults_of_a_plan_are_told_at_once(tmp_path: Path) -> None:
    target = known_target("one", free_port(), retries=3, url="localhost")
    plan = write_plan(tmp_path / "plan.yaml", [target], users=[5, 5], durations_s=3, limits=["p90_ms < 3"])
    ended = run_kit(plan, tmp_path / "run")
    assert ended.exit_code == 2
    lines = [line.removeprefix("error: ") for line in ended.stderr.splitlines()]
    assert all(line.startswith(f"{plan}: ") for line in lines), ended.stderr
    faults = dict(line.removeprefix(f"{plan}: ").split(": ", 1) for line in lines)
    assert faults.keys() == {"targets.0.retries", "targets.0.url", "users", "durations_s", "limits.0"}
    assert "ready_timeout_s" in faults["targets.0.retries"]
    assert "duration_s" in faults["durations_s"]
    assert "p95_ms" in faults["limits.0"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--targets", "one,two"], ["two", "it has one"]),
        (["--users", "ten"], ["--users", "ten"]),
        (["--duration", "0"], ["duration_s"]),
    ],
)
def test_bad_options_end_with_2_before_anything_is_made(tmp_path: Path, options: list[str], told: list[str]) -> None:
    plan = write_plan(tmp_path / "plan.yaml", [known_target("one", free_port())])
    ended = run_kit(plan, tmp_path / "run", *options)
    assert ended.exit_code == 2
    assert [text for text in told if text not in ended.stderr] == []
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_plan_that_is_not_there_is_named(tmp_path: Path) -> None:
    ended = run_kit(tmp_path / "nowhere.yaml", tmp_path / "run")
    assert ended.exit_code == 2
    assert f"{tmp_path / 'nowhere.yaml'}: cannot be read: No such file" in ended.stderr


def _fingerprint(folder: RunFolder, cell: Cell) -> tuple[int, bytes]:
    path = folder.cell_path(cell) / "requests.csv"
    return path.stat().st_mtime_ns, path.read_bytes()


def _report_files(folder: Path) -> dict[str, bytes]:
    files = itertools.chain(folder.glob("report.*"), folder.glob("plots/**/*"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(files) if file.is_file()}
