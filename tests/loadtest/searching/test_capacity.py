"""Open loop and capacity, measured on a target whose capacity and stalls are known."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadtest.__main__ import main
from loadtest.plan import Plan
from loadtest.run_folder import RunFolder
from tests.kit import (
    STOP_S,
    Ended,
    Kit,
    assert_nothing_left,
    known_target,
    processes_of,
    run_kit,
    undisturbed,
    workload,
    write_plan,
)
from tests.ports import free_port

SERIAL_RPS = 50
# Users who do not think wait for one another: n of them for n ÷ 50 s. So 3 wait for 60 ms, and 4 for 80 ms.
OBJECTIVE = "serial.median_ms<=70"
CAPACITY_USERS = 3
OPEN_RPS = 100
IN_FLIGHT = {"steady": 50, "stalling": 5}


@pytest.fixture(scope="module")
def open_loop(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Runs at 80 % of what a target can serve; one target stops for 0.4 s."""
    folder = tmp_path_factory.mktemp("open_loop")
    able = f"--serial-rate {OPEN_RPS / 0.8:g}"
    plan = write_plan(
        folder / "plan.yaml",
        [
            known_target("steady", free_port(), able),
            known_target("stalling", free_port(), f"{able} --stall-at 60 --stall-s 0.4"),
        ],
        settle_s=0.2,
        warmup={"duration_s": 0},
        workload=workload("serial", wait_s=[0, 0]),
    )
    options = ("--rate", str(OPEN_RPS), "--arrivals", "constant", "--in-flight")

    def run(target: str) -> Ended:
        asked = (*options, str(IN_FLIGHT[target]), "--targets", target)
        return undisturbed(lambda name: run_kit(plan, folder / f"{target}_{name}", *asked))

    return {target: run(target) for target in IN_FLIGHT}


@pytest.mark.parametrize("target", IN_FLIGHT)
def test_an_open_loop_sends_every_arrival_whatever_the_target_does(open_loop: dict[str, Ended], target: str) -> None:
    run = open_loop[target]
    assert run.exit_code == 0, run.output
    cell = run.cell(target)
    rows = run.rows(run.record(target).cell)
    assert cell.arrivals_due == len(rows) == pytest.approx(3 * OPEN_RPS, rel=0.1)
    assert cell.arrivals_unsent == 0
    assert cell.scheduled
    assert cell.scheduled.rps == pytest.approx(OPEN_RPS, rel=0.01)
    scheduled_s = sorted(row.scheduled_unix_s for row in rows if row.scheduled_unix_s is not None)
    gaps_s = [later - earlier for earlier, later in pairwise(scheduled_s)]
    assert gaps_s == [pytest.approx(1 / OPEN_RPS, abs=1e-5)] * (len(rows) - 1)
    assert all(row.start_unix_s - (row.scheduled_unix_s or 0) > -0.01 for row in rows)


def test_without_a_stall_both_latencies_are_the_same(open_loop: dict[str, Ended]) -> None:
    cell = open_loop["steady"].cell("steady")
    assert cell.scheduled
    assert cell.steady
    assert cell.scheduled.median_ms is not None
    # What is between them is how late the generator wakes up.
    assert cell.scheduled.median_ms == pytest.approx(cell.steady.median_ms, abs=5)


def test_a_stall_is_in_the_latency_from_the_scheduled_time_alone(open_loop: dict[str, Ended]) -> None:
    run = open_loop["stalling"]
    (endpoint,) = run.point("stalling").endpoints
    assert endpoint.scheduled
    scheduled_ms, sent_ms = endpoint.scheduled.p95_ms, endpoint.steady.p95_ms
    assert scheduled_ms
    assert sent_ms
    # Only five requests are under way in the stall; forty more are due in it, and wait to be sent.
    assert scheduled_ms > 3 * sent_ms
    assert scheduled_ms > 200
    cell = run.cell("stalling")
    assert cell.arrivals_queued
    assert cell.arrivals_queued > 20
    assert any(f"{cell.arrivals_queued} were sent late" in note for note in cell.notes)
    report = (run.folder.path / "report.md").read_text()
    assert "p95 ms, scheduled" in report
    assert "open loop: 100 requests per second, evenly" in report


@pytest.fixture
def serial_plan(tmp_path: Path) -> Path:
    return write_plan(
        tmp_path / "plan.yaml",
        [known_target("serial", free_port(), f"--serial-rate {SERIAL_RPS}"), known_target("other", free_port())],
        users=[2],
        settle_s=0.2,
        warmup={"duration_s": 0},
        workload=workload("serial", wait_s=[0, 0]),
    )


@contextmanager
def started_search(plan: Path, folder: Path, *options: str) -> Iterator[Kit]:
    command = ["capacity", str(plan), "--slo", OBJECTIVE, "--out", str(folder), *options]
    kit = Kit(command, folder, plan.parent)
    try:
        yield kit
    finally:
        for process in processes_of(kit.mark):
            process.kill()
        kit.process.wait(STOP_S)


def ask(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Return the exit code of a command that ends before it measures; run in this process, which is quicker."""
    monkeypatch.setattr("sys.argv", ["loadtest", *arguments])
    try:
        return main()
    except SystemExit as exc:  # as argparse ends it
        return int(exc.code or 0)


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "capacity.json").read_text())
    return found


def test_the_known_capacity_is_found_and_confirmed_after_an_interruption(
    serial_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "search"
    options = ("--target", "serial", "--window", "1", "--confirm", "1.5")
    with started_search(serial_plan, folder, *options) as kit:
        kit.wait_until((folder / "capacity.json").is_file, "the first step")
        kit.interrupt()
        stopped = kit.wait()
        assert_nothing_left(kit.mark)
    assert stopped.exit_code == 130
    assert "run the same command again" in stopped.stderr
    before = read(folder)
    assert before["result"] is None
    with started_search(serial_plan, folder, *options) as kit:
        ended = kit.wait()
        assert_nothing_left(kit.mark)
    assert ended.exit_code == 0, ended.output
    after = read(folder)
    assert after["steps"][: len(before["steps"])] == before["steps"]
    assert after["result"] == {
        "status": "confirmed",
        "capacity": CAPACITY_USERS,
        "smallest_failed": CAPACITY_USERS + 1,
        "because": "",
    }
    assert "serial: 3 users hold serial.median_ms <= 70; 4 users do not; confirmed by a longer run" in ended.stdout
    assert [step["level"] for step in after["steps"]][-1] == CAPACITY_USERS
    for step in after["steps"]:
        assert RunFolder(folder / step["folder"]).read_plan().users == [step["level"]]
    assert ask(monkeypatch, "capacity", str(serial_plan), "--slo", OBJECTIVE, "--out", str(folder), *options[:2]) == 2
    assert "differing: question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], ["--target", "serial, other"]),
        (["--target", "third"], ["third", "serial, other"]),
        (["--target", "serial", "--slo", "p95_ms>=3"], ["<= or <"]),
        (["--target", "serial", "--slo", "p90_ms<=3"], ["p95_ms"]),
        (["--target", "serial", "--slo", "fixed.p95_ms<=3"], ["'fixed' is not one of serial"]),
        (["--target", "serial", "--rate", "0"], ["--rate", "above 0"]),
        (["--target", "serial", "--arrivals", "poisson"], ["--arrivals", "only together with --rate"]),
    ],
)
def test_bad_options_of_a_search_end_with_2(
    serial_plan: Path,
    options: list[str],
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = serial_plan.parent / "search"
    arguments = ["capacity", str(serial_plan), "--slo", OBJECTIVE, "--out", str(out), *options]
    assert ask(monkeypatch, *arguments) == 2
    printed = capsys.readouterr().err
    assert [text for text in told if text not in printed] == []
    assert not out.exists()


def test_users_and_a_rate_are_not_given_together(
    serial_plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = serial_plan.parent / "run"
    assert ask(monkeypatch, "run", str(serial_plan), "--rate", "5", "--users", "3", "--out", str(out)) == 2
    assert "--in-flight" in capsys.readouterr().err
    assert not out.exists()


def test_a_plan_has_one_pace() -> None:
    both = workload("serial", wait_s=[0, 0], rate_rps=3)
    plan = {"title": "", "targets": [known_target("one", 1)], "users": [1], "spawn_rate_per_s": 1, "duration_s": 60}
    with pytest.raises(ValueError, match=r"wait_s .* or rate_per_user_rps or rate_rps"):
        Plan.model_validate({**plan, "workload": both})
