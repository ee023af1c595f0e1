"""The kit fails well: whatever goes wrong is told, leaves no process, and spoils no other cell.

Real faults: processes are killed, ports taken, files cut off. Each run is shared by several claims. A fault comes with
a request of a certain number, or while the target holds its answers back, so never too early or too late.
"""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import pytest

from loadtest.errors import CellFailedError, FailureCode
from loadtest.measure.follower import check_warm_up
from loadtest.plan.plan import load_plan
from loadtest.rows.columns import RequestRow
from loadtest.rows.run_folder import Cell, RunFolder
from tests.failures import keep_on_failure
from tests.kit import (
    MARK,
    ROOT,
    RUN_S,
    START_S,
    STOP_S,
    Ended,
    ask,
    assert_nothing_left,
    faults_of,
    known_target,
    make_report,
    processes_of,
    run_kit,
    running_known_target,
    started_kit,
    workload,
    write_plan,
)
from tests.known_target import FileGate
from tests.made_run import write_made_run
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

BROKEN = ["unready", "missing", "quitter", "named", "killed", "unloaded", "verbose"]
FILE_SIZE_BYTES = 2_000_000
DELAY_MS = 20.0
NO_WARM_UP = {"duration_s": 0}
ON_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C is a signal to this session
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Program that becomes Python with its own arguments, in control of the terminal that is its standard input."""

WAIT_AT_GATE = """
import sys, time
from pathlib import Path
from tests.known_target import FileGate
gate = FileGate(Path(sys.argv[1]))
while not gate.lets_through():
    time.sleep(0.05)
"""
"""Program that ends when the gate at the path in its argument is open."""


@pytest.fixture(scope="module")
def broken_targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """One plan in which most targets fail, each in its own way, and the last can be measured."""
    folder, port = tmp_path_factory.mktemp("broken"), free_port()
    names_places = "{python} -c \"import os, sys; sys.exit(f'no {sys.prefix} in {os.getcwd()}')\""
    unready_port = free_port()
    with running_known_target(unready_port, "--never-ready"):
        targets = [
            known_target("unready", unready_port, start=None, ready_timeout_s=1),
            known_target("missing", port, start="no-such-command --serve"),
            known_target("quitter", port, "--exit-after-s 0", stop=f"touch {quote(str(folder))}/stopped"),
            known_target("named", port, start=names_places),
            known_target("killed", port, "--die-at 5"),
            known_target("unloaded", port, "--kill-client-at 5"),
            known_target("verbose", port, "--padding-bytes 30000"),
            known_target(
                "stubborn",
                port,
                f"--delay-ms {DELAY_MS:g} --ignore-sigterm --spawn-orphan --workers 1",
                stop_timeout_s=1,
            ),
        ]
        plan = write_plan(
            folder / "plan.yaml", targets, warmup=NO_WARM_UP, duration_s=2, workload=workload("fixed", wait_s=[0, 0])
        )
        ended = run_kit(plan, folder / "run", file_size_bytes=FILE_SIZE_BYTES)
    with keep_on_failure("broken targets", lambda: [ended.folder.path]):
        yield ended


@dataclass(frozen=True)
class Interrupted:
    """A run of two cells, the first of them over, that was stopped twice in its second one, and then resumed."""

    second: Ended
    """Of the same command while the first one ran."""
    by_ctrl_c: Ended
    report: Ended
    by_sigkill: Ended
    resumed: Ended
    first_cells: set[tuple[int, bytes]]
    """What its rows were, and when they were written, before and after the runs."""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interrupted]:
    folder, port = tmp_path_factory.mktemp("interrupted"), free_port()
    gate = FileGate(folder / "gate")
    second = known_target("second", port, f"--delay-ms 20 --workers 1 --hold-at 10 --gate {quote(str(folder))}/gate")
    plan = write_plan(
        folder / "plan.yaml", [known_target("first", port), second], warmup=NO_WARM_UP, seed=3, duration_s=2
    )
    run = write_made_run(folder / "run", load_plan(plan))
    cells = [RunFolder(run).cell_path(Cell(target=name, users=5, repetition=1)) for name in ("first", "second")]
    (cells[1] / "cell.json").unlink()
    first_cells = {fingerprint(cells[0])}
    beside: list[Ended] = []

    def stop_by(number: signal.Signals, within_s: float = 0) -> Ended:
        gate.shut()
        with started_kit(plan, run) as kit:
            kit.wait_until(gate.reached.is_file, "the load on second")
            beside.append(ask("run", plan, "--out", run))
            if number == signal.SIGINT:
                kit.interrupt()
            else:
                kit.process.send_signal(number)
            gate.open()  # the signal is there already; Locust would wait for its answers
            ended = kit.wait()
            assert_nothing_left(kit.mark, within_s)
        return ended

    by_ctrl_c = stop_by(signal.SIGINT)
    report = make_report(run)
    by_sigkill = stop_by(signal.SIGKILL, within_s=STOP_S)
    resumed = run_kit(plan, run)
    with keep_on_failure("interrupted", lambda: [run]):
        first_cells.add(fingerprint(cells[0]))
        yield Interrupted(beside[0], by_ctrl_c, report, by_sigkill, resumed, first_cells)


def test_a_plan_of_broken_targets_runs_to_its_end_with_1(broken_targets: Ended) -> None:
    assert broken_targets.exit_code == 1, broken_targets.output
    order = broken_targets.folder.read_record().order
    statuses = {cell.target: broken_targets.record(cell.target).status for cell in order}
    assert [target for target, status in statuses.items() if status == "failed"] == BROKEN
    assert "Traceback" not in broken_targets.output


def test_a_cell_after_broken_ones_is_measured(broken_targets: Ended) -> None:
    cell, rows = broken_targets.cell("stubborn"), broken_targets.rows("stubborn")
    assert faults_of(cell) == []
    assert cell.steady
    assert cell.steady.failures == 0
    assert rows
    assert {row.status for row in rows} == {200}
    assert min(row.latency_ms for row in rows) >= DELAY_MS


@pytest.mark.parametrize(
    ("target", "failure", "told"),
    [
        ("unready", "target_failed", ["not ready within 1 s", "/ready", "status 503", "ready_timeout_s"]),
        ("missing", "failed", ["no-such-command --serve", "cannot be started", "No such file"]),
        ("quitter", "target_failed", ["ended with code 3", "ends with 3 as --exit-after-s says"]),
        ("named", "target_failed", ["no … in …"]),
        ("killed", "target_failed", ["the target was killed by signal 9"]),
        ("unloaded", "failed", ["the load generator ended with code -9"]),
        ("verbose", "failed", ["File too large", "could not be written"]),
    ],
)
def test_the_reason_of_a_failed_cell_is_told_everywhere(
    broken_targets: Ended, target: str, failure: FailureCode, told: list[str]
) -> None:
    record = broken_targets.record(target)
    reason = record.reason
    assert reason
    assert record.failure == failure
    assert [text for text in told if text not in reason] == [], reason
    assert "Traceback" not in reason
    first_line = reason.splitlines()[0]
    assert first_line in broken_targets.output
    assert any(first_line in text for text in broken_targets.cell(target).reasons)
    assert not broken_targets.cell(target).valid


@pytest.mark.parametrize(
    ("statuses", "failure"),
    [([0, 0], "target_failed"), ([503, 401], "target_failed"), ([401, 401], "failed"), ([], "failed")],
)
def test_a_target_that_answers_nothing_of_the_warm_up_right_is_told_from_a_wrong_request(
    statuses: list[int], failure: FailureCode
) -> None:
    rows = [RequestRow(1.0, "fixed", status, 1.0, 0, f"status {status}", "") for status in statuses]
    with pytest.raises(CellFailedError, match=f"^none of {len(rows)} requests of the warm-up") as failed:
        check_warm_up(rows)
    assert failed.value.code == failure


def test_what_a_target_left_behind_is_killed_and_noted(broken_targets: Ended) -> None:
    notes = " ".join(broken_targets.cell("stubborn").notes)
    assert "left behind" in notes
    assert "tests.known_target --orphan" in notes
    assert "tests.known_target --replica" in notes


def test_a_target_that_ignores_sigterm_is_killed_and_noted(broken_targets: Ended) -> None:
    record = broken_targets.record("stubborn")
    assert any("did not stop within 1 s and was killed" in note for note in record.notes), record.notes
    assert record.stopped_after_s is not None
    assert 1 <= record.stopped_after_s < START_S


def test_what_the_stop_command_stops_is_stopped_even_when_the_target_has_ended(broken_targets: Ended) -> None:
    assert (broken_targets.folder.path.parent / "stopped").is_file()


def test_no_name_of_the_machine_is_in_the_report_of_failed_cells(broken_targets: Ended) -> None:
    for name in ("report.md", "report.html", "report.json"):
        assert str(ROOT) not in (broken_targets.folder.path / name).read_text()


def test_a_run_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.yaml", [known_target("one", free_port())])
    (tmp_path / "file").touch()
    for folder in (Path("/proc/run"), tmp_path / "file" / "run"):
        ended = ask("run", plan, "--out", folder)
        assert ended.exit_code == 2
        assert str(folder) in ended.stderr
        assert "--out" in ended.stderr
        assert "Traceback" not in ended.output


def test_ctrl_c_on_a_terminal_waits_until_the_target_is_taken_down(tmp_path: Path) -> None:
    """The live display has a thread of its own, through which a signal that is held back must not arrive."""
    gate, mark = FileGate(tmp_path / "gate"), f"{tmp_path} terminal"
    stop = f"{{python}} -c {quote(WAIT_AT_GATE)} {quote(str(tmp_path))}/gate"
    target = known_target("one", free_port(), "--never-ready", ready_timeout_s=1, stop=stop, stop_timeout_s=1)
    plan = write_plan(tmp_path / "plan.yaml", [target])
    with kit_on_a_terminal(plan, tmp_path / "run", mark) as (kit, terminal):
        printed = read_until(terminal, lambda _: gate.reached.is_file())
        os.write(terminal, b"\x03")
        printed += read_until(terminal, lambda _: is_held_back(kit.pid, signal.SIGINT))
        # The thread of the display has run meanwhile, and would have taken a signal that it lets through.
        printed += read_until(terminal, lambda shown: shown.count(b"starting one") >= 2)
        assert is_held_back(kit.pid, signal.SIGINT), printed.decode(errors="replace")
        gate.open()
        printed += read_until(terminal, lambda _: False)
        code = kit.wait(STOP_S)
        assert_nothing_left(mark)
    assert code == 130, printed.decode(errors="replace")


@pytest.mark.long
def test_answers_that_never_came_make_the_cell_invalid(tmp_path: Path) -> None:
    target = known_target("slow", free_port(), f"--hold-at 1 --gate {quote(str(tmp_path))}/gate")
    plan = write_plan(tmp_path / "plan.yaml", [target], duration_s=1, drain_s=1, warmup=NO_WARM_UP)
    ended = run_kit(plan, tmp_path / "run")
    assert ended.exit_code == 1
    assert any("answers were still due" in reason and "drain_s" in reason for reason in ended.cell("slow").reasons)


def test_files_that_a_plan_names_and_that_are_missing_are_told_at_once(tmp_path: Path) -> None:
    target = known_target("one", free_port(), files=["nix.yaml"])
    plan = write_plan(tmp_path / "plan.yaml", [target], baseline="nix_either.yaml")
    ended = ask("run", plan, "--out", tmp_path / "run")
    assert ended.exit_code == 2
    assert "targets.one.files: nix.yaml is not a file" in ended.stderr
    assert "nix_either.yaml is not a file" in ended.stderr


def test_a_second_run_in_the_same_folder_is_refused(interrupted: Interrupted) -> None:
    assert interrupted.second.exit_code == 2
    assert "another run uses" in interrupted.second.stderr


def test_ctrl_c_ends_with_130_and_says_how_to_resume(interrupted: Interrupted) -> None:
    """SIGTERM: see tune/test_tune_run.py."""
    assert interrupted.by_ctrl_c.exit_code == 130
    assert "run the same command again to resume" in interrupted.by_ctrl_c.stderr
    assert "Traceback" not in interrupted.by_ctrl_c.output


def test_a_killed_kit_takes_target_and_locust_with_it(interrupted: Interrupted) -> None:
    # That nothing was left was checked where it was killed.
    assert interrupted.by_sigkill.exit_code == -signal.SIGKILL


def test_the_report_of_an_interrupted_run_says_what_was_not_measured(interrupted: Interrupted) -> None:
    assert interrupted.report.exit_code == 1
    assert "INVALID second, 5 users, repetition 1: not measured yet" in interrupted.report.stdout


def test_only_a_cell_without_a_record_is_measured_when_a_run_is_resumed(interrupted: Interrupted) -> None:
    resumed = interrupted.resumed
    assert len(interrupted.first_cells) == 1
    assert len(resumed.folder.read_record().sessions) == 4
    assert [resumed.record(target).status for target in ("first", "second")] == ["finished", "finished"]
    assert faults_of(resumed.cell("second")) == []
    assert len(resumed.rows("second")) >= 10
    assert "1 of 2 cells" in resumed.output
    assert resumed.exit_code == (0 if resumed.figures().all_valid else 1), resumed.output


def fingerprint(cell: Path) -> tuple[int, bytes]:
    path = cell / "requests.csv"
    return path.stat().st_mtime_ns, path.read_bytes()


@contextmanager
def kit_on_a_terminal(plan: Path, folder: Path, mark: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start a run on a terminal of its own; yield its process and our end of the terminal."""
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-c", ON_ITS_TERMINAL, "-m", "loadtest", "run", str(plan), "--out", str(folder)]
    environment = {**os.environ, MARK: mark, "COLUMNS": "120"}
    kit = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        yield kit, terminal
    finally:
        os.close(terminal)
        for process in processes_of(mark):
            process.kill()
        kit.wait(STOP_S)


def is_held_back(pid: int, number: signal.Signals) -> bool:
    """Return whether a signal has come to a process, all of whose threads block it."""
    with suppress(FileNotFoundError):
        pending = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        return pending is not None and bool(int(pending[1], 16) >> (number - 1) & 1)
    return False


def read_until(terminal: int, condition: Callable[[bytes], bool]) -> bytes:
    """Return what is printed until the condition holds for it, or the other end is closed."""
    printed, deadline = b"", time.monotonic() + START_S
    while not condition(printed):
        assert time.monotonic() < deadline, printed.decode(errors="replace")
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                printed += os.read(terminal, 65536)
            except OSError:  # the other end is closed
                break
    return printed
