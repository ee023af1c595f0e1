"""Runs the stress kit as a user would, as a process of its own, and tells what came of it.

Nothing here depends on how fast the machine is: limits in time are those that only a hang breaks, and plans let other
work, stolen CPU and a late load generator pass. What a busy machine may still do to a cell, `faults_of` leaves out.
"""

import ctypes
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from loadtest.__main__ import main
from loadtest.figures.figures import CellFigures, Figures, ReasonCode
from loadtest.machine.processes import PR_SET_CHILD_SUBREAPER
from loadtest.rows.columns import RequestRow, ResourceRow, read_rows
from loadtest.rows.run_folder import CellRecord, RunFolder
from loadtest.verdict.summary import summarize
from tests.failures import keep_on_failure

ROOT = Path(__file__).parents[1]
MARK = "LOADTEST_TEST_RUN"
RUN_S = 500
START_S = 300
STOP_S = 60
BY_THE_MACHINE: frozenset[ReasonCode] = frozenset(
    {"generator_held_back", "generator_cpu", "generator_unseen", "few_samples"}
)
"""Reasons that a machine which is busy with other things may give a short cell."""


@dataclass(frozen=True)
class Ended:
    """How a command of the kit ended, and its run folder."""

    exit_code: int
    stdout: str
    stderr: str
    folder: RunFolder

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def figures(self) -> Figures:
        report = self.folder.path / "report.json"
        assert report.is_file(), self.output
        figures = summarize(self.folder)  # a report holds the sentences of reasons, and not their codes
        assert Figures.model_validate_json(report.read_text()) == figures
        return figures

    def cell(self, target: str) -> CellFigures:
        """Return the report's figures of a target's cell; a plan of these tests has one for each."""
        (cell,) = [cell for cell in self.figures().cells if cell.target == target]
        return cell

    def record(self, target: str) -> CellRecord:
        """Return how the first cell of a target went."""
        (cell, *_) = [cell for cell in self.folder.read_record().order if cell.target == target]
        record = self.folder.read_cell(cell)
        assert record, f"{cell} was never finished\n{self.output}"
        return record

    def rows(self, target: str, name: str = "requests.csv") -> list[RequestRow]:
        """Return the rows of the first cell of a target."""
        return list(read_rows(self.folder.cell_path(self.record(target).cell) / name, RequestRow))

    def resources(self, target: str) -> list[ResourceRow]:
        return list(read_rows(self.folder.cell_path(self.record(target).cell) / "resources.csv", ResourceRow))


class Kit:
    """A command of the kit that runs."""

    def __init__(
        self, command: list[str], folder: Path, printed: Path, file_size_bytes: int | None = None, *, code: Path = ROOT
    ) -> None:
        """Start that of the folder `code`; what it prints goes into files in the folder `printed`."""
        self.folder = RunFolder(folder)
        self.mark = f"{folder} {time.monotonic_ns()}"
        self._stdout = printed / f"{time.monotonic_ns()}.stdout"
        self._stderr = self._stdout.with_suffix(".stderr")
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loadtest", *command],
                cwd=code,
                env={**os.environ, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        if file_size_bytes:
            # Python ignores SIGXFSZ, so that a write beyond the limit raises OSError (EFBIG).
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (file_size_bytes, file_size_bytes))

    def wait(self) -> Ended:
        """Return how it ended. Fails if that takes too long."""
        try:
            code = self.process.wait(RUN_S)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"the kit still runs after {RUN_S} s\n{self.printed()}") from exc
        return Ended(code, self._stdout.read_text(), self._stderr.read_text(), self.folder)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Return when the condition holds; fails at once when the kit has ended."""
        deadline = time.monotonic() + START_S
        while not condition():
            assert self.process.poll() is None, f"ended before {what}\n{self.printed()}"
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.printed()}"
            time.sleep(0.05)

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def printed(self) -> str:
        return self._stdout.read_text() + self._stderr.read_text()

    @property
    def outputs(self) -> list[Path]:
        return [self._stdout, self._stderr]


@contextmanager
def started(
    command: Sequence[object], folder: Path, printed: Path, file_size_bytes: int | None = None, *, code: Path = ROOT
) -> Iterator[Kit]:
    """Start a command of the kit in `code` that works in `folder`; at the end kill what is left of it."""
    kit = Kit([str(word) for word in command], folder, printed, file_size_bytes, code=code)
    try:
        with keep_on_failure("loadtest", lambda: [*kit.outputs, folder]):
            yield kit
    finally:
        for process in processes_of(kit.mark):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        kit.process.wait(STOP_S)


def run_command(command: Sequence[object], folder: Path, printed: Path, file_size_bytes: int | None = None) -> Ended:
    """Run a command of the kit to its end, which must leave no process."""
    with started(command, folder, printed, file_size_bytes) as kit:
        ended = kit.wait()
        assert_nothing_left(kit.mark)
    return ended


def started_kit(plan: Path, folder: Path, *options: str) -> AbstractContextManager[Kit]:
    """Start a run of `plan` into `folder`; at the end kill what is left of it."""
    return started(["run", plan, "--out", folder, *options], folder, plan.parent)


def run_kit(plan: Path, folder: Path, *options: str, file_size_bytes: int | None = None) -> Ended:
    """Run `plan` to its end, which must leave no process."""
    return run_command(["run", plan, "--out", folder, *options], folder, plan.parent, file_size_bytes)


def ask(*arguments: object, folder: Path = ROOT, cwd: Path = ROOT) -> Ended:
    """Return how a command ended in `cwd` that starts no process; run in this one, which is quicker."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr), adoption_ended():
        patch.chdir(cwd)
        patch.setattr("sys.argv", ["loadtest", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as exc:  # as argparse ends it
            code = int(exc.code or 0)
    return Ended(code, stdout.getvalue(), stderr.getvalue(), RunFolder(folder))


@contextmanager
def adoption_ended() -> Iterator[None]:
    """Undo `adopt_orphans` at the end: this process does not reap the orphans of later tests."""
    try:
        yield
    finally:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


def make_report(folder: Path) -> Ended:
    """Make the report of a run folder again."""
    return ask("report", folder, folder=folder)


def faults_of(cell: CellFigures) -> list[str]:
    """Return why a cell is invalid, apart from what a busy machine does."""
    return [reason for reason in cell.reasons if reason.code not in BY_THE_MACHINE]


def known_target(name: str, port: int, options: str = "", **keys: object) -> dict[str, Any]:
    """Return a plan's target: tests/known_target.py with `options`, and `keys` over the usual ones."""
    return {
        "name": name,
        "start": f"{{python}} -m tests.known_target --port {port} {options}",
        "url": f"http://127.0.0.1:{port}",
        "ready": ["/ready"],
        "ready_timeout_s": START_S,
        "stop_timeout_s": STOP_S,
        **keys,
    }


@contextmanager
def running_known_target(port: int, *options: str) -> Iterator[None]:
    """Run tests/known_target.py beside the kit; it listens when this begins."""
    command = [sys.executable, "-m", "tests.known_target", "--port", str(port), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_S
            while not _listens(port):
                assert process.poll() is None, f"{command} has ended"
                assert time.monotonic() < deadline, f"{command} does not listen"
                time.sleep(0.02)
            yield
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def write_plan(path: Path, targets: list[dict[str, Any]], **keys: object) -> Path:
    """Write a plan of short cells in which 5 users ask GET /fixed some 100 ms after each answer, `keys` over it."""
    plan = {
        "title": "Known answers",
        "targets": targets,
        "users": [5],
        "spawn_rate_per_s": 100,
        "duration_s": 3,
        "settle_s": 0.5,
        "drain_s": 2 * STOP_S,
        "warmup": {"users": 2, "duration_s": 1},
        "most_other_cpu_percent": 10000,
        "most_stolen_cpu_percent": 10000,
        "most_generator_late_percent": 10000,
        "workload": workload("fixed", wait_s=[0.05, 0.15]),
        **keys,
    }
    path.write_text(yaml.safe_dump(plan))
    return path


def workload(*endpoints: str, **pace: object) -> dict[str, Any]:
    """Return a plan's workload: requests of tests/locustfiles/known.py, each as often as the others."""
    locustfile = str(ROOT / "tests" / "locustfiles" / "known.py")
    return {"locustfile": locustfile, "endpoints": {name: {"request": f"GET /{name}"} for name in endpoints}, **pace}


def target_metrics(port: int) -> dict[str, Any]:
    """Return a plan's metrics: what the known target on `port` counts."""
    counters = [{"name": "known_requests_total", "by": ["path", "status"]}]
    return {"urls": [f"http://127.0.0.1:{port}/metrics"], "counters": counters}


def arrived(cell: CellFigures) -> Counter[int]:
    """Return how many requests to GET /fixed and /serial reached the target during the load, by status."""
    counts: Counter[int] = Counter()
    for counter in cell.counters:
        if counter.labels["path"] in {"/fixed", "/serial"}:
            counts[int(counter.labels["status"])] += int(counter.increase)
    return counts


def processes_of(mark: str) -> list[psutil.Process]:
    """Return the living processes that inherited the mark of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_nothing_left(mark: str, within_s: float = 0) -> None:
    """Fail if processes of a run still live after `within_s`: at once, unless the kit had no time to take them down."""
    deadline = time.monotonic() + within_s
    while left := processes_of(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
