"""What a benchmark found: progress lines, tables of medians with their spread, the machine it ran on, a JSON file."""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import psutil

ROOT = Path(__file__).parents[2]
PACKAGES = ("ray", "tensorflow")
# Above this much CPU use by others, in percent of one core, the numbers say little about the service.
BUSY_PERCENT = 10.0
# Roles in a CPU reading besides those of the service: what drives the load, and everything that is not ours.
GENERATOR = "load generator"
OTHERS = "other processes"

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
    environment: dict[str, object]
    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def append(self, table: str, row: str, column: str, unit: str, value: float) -> None:
        """Add one more round's value to a cell."""
        found = self._find(table, row, column)
        if found is None:
            found = Measurement(table, row, column, unit, [])
            self.measurements.append(found)
        found.values.append(float(value))

    def append_cpu(self, table: str, column: str, usage: dict[str, float]) -> None:
        """Add each role's CPU use in percent of one core; much use by others is a fault."""
        for role, percent in usage.items():
            self.append(table, role, column, "%", percent)
        if usage[OTHERS] > BUSY_PERCENT:
            self.faults.append(f"{column}: other processes took {usage[OTHERS]:.0f} % of one core")

    def append_ratios(self, table: str, above: str, below: str, column: str) -> None:
        """Add the ratio of two rows, round by round: values of one round were measured right after each other."""
        over, under = self._find(table, above, column), self._find(table, below, column)
        assert over is not None
        assert under is not None
        for value, other in zip(over.values, under.values, strict=True):
            self.append(f"{table}, ratio", f"{above} / {below}", column, "ratio", value / other)

    def _find(self, table: str, row: str, column: str) -> Measurement | None:
        wanted = (table, row, column)
        return next((found for found in self.measurements if (found.table, found.row, found.column) == wanted), None)


def interleave(sides: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield each side `rounds` times, every other round in reverse (A B B A …), so that a drift hits all alike."""
    for number in range(rounds):
        yield from sides if number % 2 == 0 else reversed(sides)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a benchmark and exit. Ctrl-C and SIGTERM end it after everything it started has been stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except RuntimeError as exc:
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
    report = Report(benchmark, settings, describe_environment())
    busy_percent = psutil.cpu_percent(interval=2) * (os.cpu_count() or 1)
    report.environment["cpu_busy_before_percent_of_one_core"] = busy_percent
    if busy_percent > BUSY_PERCENT:
        report.faults.append(f"{busy_percent:.0f} % of one core were in use before the benchmark began")
    return report


def finish(report: Report, json_file: Path | None) -> int:
    """Print the report, write it if asked to, and return the exit code: 1 if there are reasons not to believe it."""
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(report), indent=1, ensure_ascii=False, default=str), encoding="utf-8")
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
    return {**asdict(report), "measurements": measurements}


def describe_environment() -> dict[str, object]:
    """Return what decides the numbers besides the code, and which code it is."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
    }


def _environment_line(environment: dict[str, object]) -> str:
    known = dict(environment)
    machine = f"{known['cpu']}, {known['cores']} cores, {known['memory_gib']} GiB, {known['system']}"
    versions = ", ".join(f"{name} {known[name]}" for name in ("python", *PACKAGES))
    return f"{machine} | {versions} | commit {known['commit']} | {known['date']}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    commit, changes = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
    )
    return f"{commit or 'none'}{' with uncommitted changes' if changes else ''}"


def _render_table(name: str, measurements: list[Measurement]) -> str:
    rows = list(dict.fromkeys(found.row for found in measurements))
    columns = dict.fromkeys(found.column for found in measurements)
    units = {found.column: found.unit for found in measurements}
    cells = {(found.row, found.column): _cell(found) for found in measurements}
    lines = [["", *(column if units[column] == "ratio" else f"{column}, {units[column]}" for column in columns)]]
    lines += [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join([name, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)])


def _cell(found: Measurement) -> str:
    median, least, greatest = (_digits(value) for value in (found.median, min(found.values), max(found.values)))
    return median if least == greatest else f"{median} ({least}–{greatest})"


def _digits(value: float) -> str:
    """Return the value with about three digits that count."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{decimals}f}"
