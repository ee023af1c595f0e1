"""Runs the stress kit as a user would, as a process of its own, and tells what came of it."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from loadtest.reporting.figures import CellFigures, Figures, PointFigures
from loadtest.rows import GeneratorRow, RequestRow, read_rows
from loadtest.run_folder import Cell, CellRecord, RunFolder
from tests.failures import keep_on_failure

ROOT = Path(__file__).parents[1]
MARK = "LOADTEST_TEST_RUN"
RUN_S = 120
START_S = 90
STOP_S = 10
DISTURBED = tuple(f"the load generator {what}" for what in ("held back", "was late", "was short of CPU"))


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
        return Figures.model_validate_json(report.read_text())

    def point(self, target: str) -> PointFigures:
        (point,) = [point for point in self.figures().points if point.target == target]
        return point

    def cell(self, target: str, repetition: int = 1) -> CellFigures:
        """Return the report's figures of a cell; a plan of these tests has one number of users."""
        cells = self.figures().cells
        (cell,) = [cell for cell in cells if (cell.target, cell.repetition) == (target, repetition)]
        return cell

    def record(self, target: str) -> CellRecord:
        """Return how the first cell of a target went."""
        (cell, *_) = [cell for cell in self.folder.read_record().order if cell.target == target]
        record = self.folder.read_cell(cell)
        assert record, f"{cell} was never finished\n{self.output}"
        return record

    def rows(self, cell: Cell) -> list[RequestRow]:
        return list(read_rows(self.folder.cell_path(cell) / "requests.csv", RequestRow))

    def seconds(self, cell: Cell) -> list[GeneratorRow]:
        return list(read_rows(self.folder.cell_path(cell) / "generator.csv", GeneratorRow))


class Kit:
    """A command of the kit that runs."""

    def __init__(self, command: list[str], folder: Path, printed: Path, file_size_bytes: int | None = None) -> None:
        """Start it; what it prints goes into files in the folder `printed`."""
        self.folder = RunFolder(folder)
        self.mark = f"{folder} {time.monotonic_ns()}"
        self._stdout = printed / f"{time.monotonic_ns()}.stdout"
        self._stderr = self._stdout.with_suffix(".stderr")
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loadtest", *command],
                cwd=ROOT,
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

    def wait_until_loaded(self, target: str) -> None:
        """Return when requests of the target's first cell are being recorded, about a second after the first."""
        cells, since_s = self.folder.path / "cells", time.time()
        self.wait_until(
            lambda: any(_has_rows(file, since_s) for file in cells.glob(f"{target}-*-1/requests.csv")),
            f"requests to {target}",
        )

    def interrupt(self) -> None:
        """Do what Ctrl-C in a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def printed(self) -> str:
        return self._stdout.read_text() + self._stderr.read_text()

    @property
    def outputs(self) -> list[Path]:
        return [self._stdout, self._stderr]


@contextmanager
def started_kit(plan: Path, folder: Path, *options: str, file_size_bytes: int | None = None) -> Iterator[Kit]:
    """Start a run of `plan` into `folder`; at the end kill what is left of it."""
    command = ["run", str(plan), "--out", str(folder), *options]
    kit = Kit(command, folder, plan.parent, file_size_bytes)
    try:
        with keep_on_failure("loadtest", lambda: [*kit.outputs, folder]):
            yield kit
    finally:
        for process in processes_of(kit.mark):
            process.kill()
        kit.process.wait(STOP_S)


def run_kit(plan: Path, folder: Path, *options: str, file_size_bytes: int | None = None) -> Ended:
    """Run `plan` to its end, which must leave no process."""
    with started_kit(plan, folder, *options, file_size_bytes=file_size_bytes) as kit:
        ended = kit.wait()
        assert_nothing_left(kit.mark)
    return ended


def undisturbed(run: Callable[[str], Ended]) -> Ended:
    """Return what `run` returns for a new name, the third time at the latest without a cell that was disturbed.

    Other work on a shared machine may stall the load generator for half a second. Then the kit rightly calls the cell
    invalid, and whoever wants to know measures again.
    """
    for name in ("run", "second_run"):
        ended = run(name)
        reasons = [reason for cell in ended.figures().cells for reason in cell.reasons]
        if not any(reason.startswith(DISTURBED) for reason in reasons):
            return ended
    return run("third_run")


def make_report(folder: Path) -> Ended:
    """Make the report of a run folder again."""
    return Kit(["report", str(folder)], folder, folder.parent).wait()


def known_target(name: str, port: int, options: str = "", **keys: object) -> dict[str, Any]:
    """Return a plan's target: tests/known_target.py with `options`, and `keys` over the usual ones."""
    return {
        "name": name,
        "start": f"{{python}} -m tests.known_target --port {port} {options}",
        "url": f"http://127.0.0.1:{port}",
        "ready": ["/ready"],
        "ready_timeout_s": 20,
        "stop_timeout_s": 5,
        **keys,
    }


def write_plan(path: Path, targets: list[dict[str, Any]], **keys: object) -> Path:
    """Write a plan of short cells in which 5 users ask GET /fixed some 100 ms after each answer, `keys` over it."""
    plan = {
        "title": "Known answers",
        "targets": targets,
        "users": [5],
        "spawn_rate_per_s": 100,
        "duration_s": 3,
        "settle_s": 0.5,
        "drain_s": 5,
        "warmup": {"users": 2, "duration_s": 1},
        # The claims of these tests hold on a machine that does other work as well.
        "most_other_cpu_percent": 10000,
        "most_stolen_cpu_percent": 10000,
        "workload": workload("fixed", wait_s=[0.05, 0.15]),
        **keys,
    }
    path.write_text(yaml.safe_dump(plan))
    return path


def workload(endpoint: str, **pace: object) -> dict[str, Any]:
    """Return a plan's workload: one request of tests/known_locustfile.py."""
    locustfile = str(ROOT / "tests" / "known_locustfile.py")
    return {"locustfile": locustfile, "endpoints": {endpoint: {"request": f"GET /{endpoint}"}}, **pace}


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
    """Fail if processes of a run still live after `within_s`."""
    deadline = time.monotonic() + within_s
    while left := processes_of(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def _has_rows(requests: Path, since_s: float) -> bool:
    """Return whether a file written since then has more than its header; the kit may be removing an older one."""
    try:
        return requests.stat().st_mtime > since_s and requests.read_bytes().count(b"\n") > 1
    except FileNotFoundError:
        return False
