"""The kit fails well: whatever goes wrong is told, leaves no process, and spoils no other cell.

Real faults: processes are killed, ports taken, files cut off. Each run is shared by several claims.
"""

import os
import pty
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from loadtest.run_folder import Cell, RunFolder
from tests.kit import (
    DISTURBED,
    MARK,
    ROOT,
    Ended,
    assert_nothing_left,
    known_target,
    make_report,
    processes_of,
    run_kit,
    started_kit,
    undisturbed,
    workload,
    write_plan,
)
from tests.ports import free_port

BROKEN = ["unready", "missing", "quitter", "occupied", "killed", "unloaded"]
FILE_SIZE_BYTES = 2_000_000


@pytest.fixture(scope="module")
def broken_targets(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One plan in which most targets fail, each in its own way, and three can be measured."""
    folder, port, killed_port = tmp_path_factory.mktemp("broken"), free_port(), free_port()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        targets = [
            known_target("unready", port, "--never-ready", ready_timeout_s=1),
            known_target("missing", port, start="no-such-command --serve"),
            known_target("quitter", port, "--exit-after-s 0"),
            known_target("occupied", listener.getsockname()[1]),
            known_target("deserting", port, "--delay-ms 20 --spawn-orphan --workers 1"),
            known_target("stubborn", port, "--delay-ms 20 --ignore-sigterm", stop_timeout_s=1),
            known_target("killed", killed_port, "--delay-ms 20 --workers 1"),
            known_target("unloaded", port, "--delay-ms 20"),
            known_target("sound", port, "--delay-ms 20"),
        ]
        plan = write_plan(folder / "plan.yaml", targets, warmup={"duration_s": 0}, duration_s=3)

        def run(name: str) -> Ended:
            with started_kit(plan, folder / name) as kit:
                kit.wait_until_loaded("killed")
                _process(kit.mark, f"--port {killed_port} ").kill()
                kit.wait_until_loaded("unloaded")
                _process(kit.mark, "loadtest.recorder").kill()
                ended = kit.wait()
                assert_nothing_left(kit.mark)
            return ended

        return undisturbed(run)


@dataclass(frozen=True)
class Interrupted:
    """A run of two cells that was stopped three times in its second one, and then resumed."""

    by_ctrl_c: Ended
    report: Ended
    by_sigterm: Ended
    by_sigkill: Ended
    resumed: Ended
    first_cell_written: set[int]
    """When, by the file's own time, after each of the runs."""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder, port = tmp_path_factory.mktemp("interrupted"), free_port()
    targets = [known_target(name, port, "--delay-ms 20 --workers 1") for name in ("first", "second")]
    plan = write_plan(folder / "plan.yaml", targets, warmup={"duration_s": 0}, duration_s=3)
    run = folder / "run"
    first_cell = RunFolder(run).cell_path(Cell(target="first", users=5, repetition=1)) / "cell.json"
    written: set[int] = set()

    def stop_by(number: signal.Signals, within_s: float = 0) -> Ended:
        with started_kit(plan, run) as kit:
            kit.wait_until_loaded("second")
            written.add(first_cell.stat().st_mtime_ns)
            if number == signal.SIGINT:
                kit.interrupt()
            else:
                kit.process.send_signal(number)
            ended = kit.wait()
            assert_nothing_left(kit.mark, within_s)
        return ended

    by_ctrl_c = stop_by(signal.SIGINT)
    report = make_report(run)
    by_sigterm = stop_by(signal.SIGTERM)
    by_sigkill = stop_by(signal.SIGKILL, within_s=5)
    resumed = run_kit(plan, run)
    written.add(first_cell.stat().st_mtime_ns)
    return Interrupted(by_ctrl_c, report, by_sigterm, by_sigkill, resumed, written)


def test_a_plan_of_broken_targets_runs_to_its_end_with_1(broken_targets: Ended) -> None:
    assert broken_targets.exit_code == 1, broken_targets.output
    statuses = {cell.target: broken_targets.record(cell.target).status for cell in _order(broken_targets)}
    assert [target for target, status in statuses.items() if status == "failed"] == BROKEN
    assert "Traceback" not in broken_targets.output


@pytest.mark.parametrize("target", ["deserting", "stubborn", "sound"])
def test_the_other_cells_are_valid(broken_targets: Ended, target: str) -> None:
    cell = broken_targets.cell(target)
    assert [reason for reason in cell.reasons if not reason.startswith(DISTURBED)] == []
    assert cell.steady
    assert cell.steady.failures == 0
    assert cell.steady.median_ms == pytest.approx(20, abs=2.4)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("unready", ["not ready within 1 s", "/ready", "status 503", "ready_timeout_s"]),
        ("missing", ["no-such-command --serve", "cannot be started", "No such file"]),
        ("quitter", ["ended with code 3", "ends with 3 as --exit-after-s says"]),
        ("occupied", ["already listens on 127.0.0.1:"]),
        ("killed", ["the target was killed by signal 9"]),
        ("unloaded", ["the load generator ended with code -9"]),
    ],
)
def test_the_reason_of_a_failed_cell_is_told_everywhere(broken_targets: Ended, target: str, told: list[str]) -> None:
    reason = broken_targets.record(target).reason
    assert reason
    assert [text for text in told if text not in reason] == [], reason
    assert "Traceback" not in reason
    first_line = reason.splitlines()[0]
    assert first_line in broken_targets.output
    assert any(first_line in text for text in broken_targets.cell(target).reasons)
    assert not broken_targets.cell(target).valid


def test_what_a_target_left_behind_is_killed_and_noted(broken_targets: Ended) -> None:
    notes = " ".join(broken_targets.cell("deserting").notes)
    assert "left behind" in notes
    assert "tests.known_target --orphan" in notes
    assert "tests.known_target --replica" not in notes
    assert "tests.known_target --replica" in " ".join(broken_targets.cell("killed").notes)


def test_a_target_that_ignores_sigterm_is_killed_and_noted(broken_targets: Ended) -> None:
    record = broken_targets.record("stubborn")
    assert any("did not stop within 1 s and was killed" in note for note in record.notes), record.notes
    assert record.stopped_after_s is not None
    assert 1 <= record.stopped_after_s < 3


def test_a_run_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.yaml", [known_target("one", free_port())])
    (tmp_path / "file").touch()
    for folder in (Path("/proc/run"), tmp_path / "file" / "run"):
        ended = run_kit(plan, folder)
        assert ended.exit_code == 2
        assert str(folder) in ended.stderr
        assert "--out" in ended.stderr
        assert "Traceback" not in ended.output


@pytest.mark.long
def test_rows_that_cannot_be_written_fail_their_cell_alone(tmp_path: Path) -> None:
    port = free_port()
    targets = [
        known_target("verbose", port, "--delay-ms 20 --padding-bytes 30000"),
        known_target("terse", port, "--delay-ms 20"),
    ]
    plan = write_plan(tmp_path / "plan.yaml", targets, warmup={"duration_s": 0})
    ended = undisturbed(lambda name: run_kit(plan, tmp_path / name, file_size_bytes=FILE_SIZE_BYTES))
    assert ended.exit_code == 1, ended.output
    reason = ended.record("verbose").reason
    assert reason
    assert "File too large" in reason
    assert "could not be written" in reason
    assert not ended.cell("verbose").valid
    assert ended.cell("terse").valid, ended.cell("terse").reasons


def test_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.yaml", [known_target("one", free_port())])
    with started_kit(plan, tmp_path / "run") as kit:
        kit.wait_until((tmp_path / "run" / "run.json").is_file, "the run folder")
        second = run_kit(plan, tmp_path / "run")
        kit.interrupt()
        first = kit.wait()
        assert_nothing_left(kit.mark)
    assert second.exit_code == 2
    assert "another run uses" in second.stderr
    assert first.exit_code == 130


@pytest.mark.long
def test_ctrl_c_on_a_terminal_does_not_cut_the_taking_down_short(tmp_path: Path) -> None:
    """The live display has a thread of its own, through which a held back signal must not arrive."""
    options = "--delay-ms 20 --ignore-sigterm --workers 1"
    plan = write_plan(
        tmp_path / "plan.yaml", [known_target("one", free_port(), options, stop_timeout_s=3)], duration_s=4
    )
    printed, mark = b"", f"{tmp_path} terminal"
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "loadtest", "run", str(plan), "--out", str(tmp_path / "run")]
        os.chdir(ROOT)
        os.execve(sys.executable, command, {**os.environ, MARK: mark, "TERM": "xterm-256color", "COLUMNS": "120"})
    try:
        interrupted = False
        while chunk := _read(terminal):
            printed += chunk
            if b"stopping" in printed and not interrupted:
                interrupted = True
                time.sleep(0.5)
                os.write(terminal, b"\x03")
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert_nothing_left(mark)
    assert os.waitstatus_to_exitcode(status) == 130, printed.decode(errors="replace")
    assert b"requests/s" in printed


def test_what_the_stop_command_stops_is_stopped_even_when_the_target_has_ended(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    target = known_target("one", free_port(), "--exit-after-s 0", stop=f"touch {stopped}")
    ended = run_kit(write_plan(tmp_path / "plan.yaml", [target]), tmp_path / "run")
    assert ended.record("one").status == "failed"
    assert stopped.is_file()


@pytest.mark.long
def test_answers_that_never_came_make_the_cell_invalid(tmp_path: Path) -> None:
    target = known_target("slow", free_port(), "--serial-rate 2")
    plan = write_plan(
        tmp_path / "plan.yaml",
        [target],
        users=[10],
        duration_s=3,
        drain_s=1,
        warmup={"duration_s": 0},
        workload=workload("serial", wait_s=[0, 0]),
    )
    ended = run_kit(plan, tmp_path / "run")
    assert ended.exit_code == 1
    assert any("answers were still due" in reason and "drain_s" in reason for reason in ended.cell("slow").reasons)


def test_no_name_of_the_machine_is_in_the_reason_of_a_failed_cell(tmp_path: Path) -> None:
    start = "{python} -c \"import os, sys; sys.exit(f'no {sys.prefix} in {os.getcwd()}')\""
    ended = run_kit(
        write_plan(tmp_path / "plan.yaml", [known_target("one", free_port(), start=start)]), tmp_path / "run"
    )
    reason = ended.record("one").reason
    assert reason
    assert "no … in …" in reason
    for name in ("report.md", "report.html", "report.json"):
        assert str(ROOT) not in (tmp_path / "run" / name).read_text()


def test_files_that_a_plan_names_and_that_are_missing_are_told_at_once(tmp_path: Path) -> None:
    target = known_target("one", free_port(), files=["nix.yaml"])
    plan = write_plan(tmp_path / "plan.yaml", [target], baseline="nix_either.yaml")
    ended = run_kit(plan, tmp_path / "run")
    assert ended.exit_code == 2
    assert "targets.one.files: nix.yaml is not a file" in ended.stderr
    assert "nix_either.yaml is not a file" in ended.stderr


def test_ctrl_c_and_sigterm_end_with_their_codes_and_say_how_to_go_on(interrupted: Interrupted) -> None:
    assert interrupted.by_ctrl_c.exit_code == 130
    assert interrupted.by_sigterm.exit_code == 143
    for ended in (interrupted.by_ctrl_c, interrupted.by_sigterm):
        assert "run the same command again to go on" in ended.stderr
        assert "Traceback" not in ended.output


def test_a_killed_kit_takes_target_and_locust_with_it(interrupted: Interrupted) -> None:
    # That nothing was left was checked where it was killed.
    assert interrupted.by_sigkill.exit_code == -signal.SIGKILL


def test_the_report_of_an_interrupted_run_says_what_was_not_measured(interrupted: Interrupted) -> None:
    assert interrupted.report.exit_code == 1
    assert "INVALID second, 5 users, repetition 1" in interrupted.report.stdout
    assert "INVALID first" not in interrupted.report.stdout


def test_an_interrupted_run_is_resumed_where_it_stopped(interrupted: Interrupted) -> None:
    resumed = interrupted.resumed
    assert resumed.exit_code == (0 if resumed.figures().all_valid else 1), resumed.output
    assert len(interrupted.first_cell_written) == 1
    assert len(resumed.folder.read_record().sessions) == 4
    assert [resumed.record(cell.target).status for cell in _order(resumed)] == ["finished", "finished"]
    assert "1 of 2 cells" in resumed.output


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def _order(ended: Ended) -> Iterator[Cell]:
    return iter(ended.folder.read_record().order)


def _process(mark: str, command: str) -> psutil.Process:
    """Return the process of a run whose command line has `command` in it."""
    (process,) = [process for process in processes_of(mark) if command in " ".join(process.cmdline())]
    return process
