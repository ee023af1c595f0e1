"""What a benchmark found: progress lines, tables of medians with their spread, the machine it ran on, a JSON file."""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import psutil

from loadtest.errors import BadInputError, CellFailedError
from loadtest.figures.figures import CellFigures
from loadtest.machine.environment import read_environment
from loadtest.machine.processes import adopt_orphans
from loadtest.measure.experiment import Interrupted, raising_on_signals
from loadtest.page.markdown import make_aligned_table
from loadtest.plan.targets import STOLEN
from loadtest.rows.run_folder import Environment
from serve_app.errors import SetupError

ROOT = Path(__file__).parents[2]
PACKAGES = ("ray", "tensorflow", "jax")
# Above this much CPU use by others, in percent of one core, the numbers say little about the service.
BUSY_PERCENT = 10.0
# Roles in a CPU reading besides those of the service: what drives the load, and everything that is not ours.
GENERATOR = "load generator"
OTHERS = "other processes"
FAILURES = (RuntimeError, OSError, CellFailedError, BadInputError, SetupError)
"""What ends a benchmark, or one part of it, in a line that says why."""

_began = time.monotonic()


@dataclass
class Measurement:
    """One cell of a table: the values of all rounds in their order."""

    table: str
    row: str
    column: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass
class Report:
    """All that one benchmark found. `faults` are reasons not to believe it."""

    benchmark: str
    settings: dict[str, object]
    environment: Environment
    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    failed_parts: list[str] = field(default_factory=list)
    """Those of which not everything was measured (`part_of`)."""

    def append(self, table: str, row: str, column: str, unit: str, value: float) -> None:
        """Add one more round's value to a cell."""
        found = self.find(table, row, column)
        if found is None:
            found = Measurement(table, row, column, unit, [])
            self.measurements.append(found)
        found.values.append(float(value))

    def append_cpu(self, table: str, column: str, usage: dict[str, float]) -> None:
        """Add each role's CPU use in percent of one core; much use by others is a fault."""
        for role, percent in usage.items():
            self.append(table, role, column, "%", percent)
        self.judge_others(column, usage)

    def judge_others(self, what: str, usage: dict[str, float]) -> None:
        """Add a fault if others used much CPU while `what` was measured."""
        if usage[OTHERS] > BUSY_PERCENT:
            self.faults.append(f"{what}: other processes took {usage[OTHERS]:.0f} % of one core")

    def append_cell(self, table: str, row: str, cell: CellFigures) -> float:
        """Add one round of predictions that the kit measured, and return how many a second; doubts are faults.

        Raises RuntimeError when nothing was answered.
        """
        if cell.steady is None or not cell.steady.rps:
            raise RuntimeError(f"{table}, {row}: no prediction: {'; '.join(cell.reasons)}")
        self.append(table, row, "rate", "img/s", cell.steady.rps)
        for column, value in (("p50", cell.steady.median_ms), ("p95", cell.steady.p95_ms), ("p99", cell.steady.p99_ms)):
            if value is not None:
                self.append(table, row, column, "ms", value)
        for role in cell.roles:
            if role.role not in {"machine", STOLEN}:
                self.append(f"{table}, CPU", role.role, row, "%", role.cpu_percent)
        self.faults += [f"{table}, {row}: {reason}" for reason in cell.reasons]
        if cell.steady.failures:
            self.faults.append(f"{table}, {row}: {cell.steady.failures} predictions failed")
        return cell.steady.rps

    def append_ratios(self, table: str, above: str, below: str, column: str) -> None:
        """Add the ratio of two rows, round by round: values of one round were measured right after each other."""
        over, under = self.find(table, above, column), self.find(table, below, column)
        assert over is not None
        assert under is not None
        for value, other in zip(over.values, under.values, strict=True):
            self.append(f"{table}, ratio", f"{above} / {below}", column, "ratio", value / other)

    def find(self, table: str, row: str, column: str) -> Measurement | None:
        """Return a cell, or None if it has no value."""
        wanted = (table, row, column)
        return next((found for found in self.measurements if (found.table, found.row, found.column) == wanted), None)


def interleave(sides: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield each side `rounds` times, every other round in reverse (A B B A …), so that a drift hits all alike."""
    for number in range(rounds):
        yield from sides if number % 2 == 0 else reversed(sides)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a benchmark and exit. Ctrl-C and SIGTERM end it after everything it started has been stopped."""
    adopt_orphans()
    try:
        with raising_on_signals():
            sys.exit(main())
    except Interrupted as exc:
        sys.exit(128 + exc.number)
    except FAILURES as exc:
        print(f"error: {exc}", file=sys.stderr)
        sys.exit(2)


def command_line(benchmark: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.benchmarks.{benchmark}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number to this file")
    return parser


def begin(benchmark: str, arguments: argparse.Namespace) -> Report:
    """Return an empty report of this machine as it is now, before anything of the benchmark runs."""
    settings = {name: value for name, value in vars(arguments).items() if name != "json"}
    report = Report(benchmark, settings, read_environment())
    busy_percent = psutil.cpu_percent(interval=2) * (os.cpu_count() or 1)
    if busy_percent > BUSY_PERCENT:
        report.faults.append(f"{busy_percent:.0f} % of one core were in use before the benchmark began")
    return report


@contextmanager
def part_of(report: Report, name: str, json_file: Path | None) -> Iterator[None]:
    """Let one part of a benchmark fail and keep the rest: the failure is a fault of the report.

    At its end the report is written, if asked to, so that it is there even if the benchmark is killed later.
    """
    try:
        yield
    except FAILURES as exc:
        report.faults.append(f"{name}: {exc}")
        report.failed_parts.append(name)
        progress(f"  {name} failed: {exc}")
    finally:
        write(report, json_file)


def write(report: Report, json_file: Path | None) -> None:
    """Write every number of the report, if asked to."""
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(report), indent=1, ensure_ascii=False, default=str), encoding="utf-8")


def finish(report: Report, json_file: Path | None) -> int:
    """Print the report, write it if asked to, and return the exit code: 1 if there are reasons not to believe it."""
    write(report, json_file)
    if json_file is not None:
        progress(f"written to {json_file}")
    print()
    print(render(report))
    return 1 if report.faults else 0


def progress(text: str) -> None:
    """Print a line with the seconds since the benchmark began."""
    print(f"[{time.monotonic() - _began:6.1f} s] {text}", flush=True)


def render(report: Report) -> str:
    """Return the tables, notes, faults and the environment as text."""
    tables = dict.fromkeys(measurement.table for measurement in report.measurements)
    parts = [_render_table(name, [found for found in report.measurements if found.table == name]) for name in tables]
    parts += ["\n".join(f"- {note}" for note in report.notes)] if report.notes else []
    parts += [f"NOT TO BE TRUSTED: {fault}" for fault in report.faults]
    parts += [_environment_line(report.environment)]
    return "\n\n".join(parts)


def as_json(report: Report) -> dict[str, object]:
    """Return the report for `json.dumps`: each measurement with unit, values, median, least and greatest."""
    measurements = [
        {**asdict(found), "median": found.median, "min": min(found.values), "max": max(found.values)}
        for found in report.measurements
    ]
    return {**asdict(report), "environment": report.environment.model_dump(), "measurements": measurements}


def _environment_line(environment: Environment) -> str:
    versions = ", ".join(f"{name} {found}" for name in PACKAGES if (found := environment.packages.get(name)))
    commit = f"{(environment.git_commit or 'none')[:7]}{' with changed files' if environment.git_changed else ''}"
    machine = f"{environment.cpu_model}, {environment.cores} cores, {environment.ram_bytes / 2**30:.1f} GiB"
    return f"{machine}, {environment.os} | Python {environment.python}, {versions} | commit {commit}"


def _render_table(name: str, measurements: list[Measurement]) -> str:
    rows = dict.fromkeys(found.row for found in measurements)
    columns = {found.column: found.unit for found in measurements}
    cells = {(found.row, found.column): _cell(found) for found in measurements}
    heads = ["", *(column if unit == "ratio" else f"{column}, {unit}" for column, unit in columns.items())]
    lines = [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    return f"{name}\n\n{make_aligned_table(heads, lines)}"


def _cell(found: Measurement) -> str:
    median, least, greatest = (_digits(value) for value in (found.median, min(found.values), max(found.values)))
    return median if least == greatest else f"{median} ({least}–{greatest})"


def _digits(value: float) -> str:
    """Return the value with about three digits that count."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"
