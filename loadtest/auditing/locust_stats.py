"""Reads the `_stats.csv` of a plain Locust run for `audit`, with what the command line says of the run."""

import csv
import re
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from loadtest.auditing.finding import show, show_range
from loadtest.auditing.interval import exact, locust_percentile
from loadtest.auditing.table import LOCUST_SPAWN_RATE_PER_S, Printed, Row, Table, Window
from loadtest.errors import BadInputError

TOTAL = "Aggregated"
_TEXTS = ("Type", "Name")
_COUNTS = ("Request Count", "Failure Count")
_NUMBERS = (
    *("Median Response Time", "Average Response Time", "Min Response Time", "Max Response Time"),
    "Requests/s",
)
_PERCENTILE = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass(frozen=True)
class RunFacts:
    """What a `_stats.csv` does not say of its run; None where nobody knows."""

    users: int | None = None
    duration_s: float | None = None
    wait_s: tuple[float, float] | None = None
    spawn_rate_per_s: float | None = None

    def check(self) -> None:
        """Raise BadInputError for options that cannot be."""
        faults = []
        if self.users is not None and self.users < 1:
            faults.append(f"--users: {self.users} is no number of users; at least 1")
        for option, value in (("--duration", self.duration_s), ("--spawn-rate", self.spawn_rate_per_s)):
            if value is not None and not (isfinite(value) and value > 0):
                faults.append(f"{option}: {value:g} is not a number above 0")
        if self.wait_s is not None and not 0 <= self.wait_s[0] <= self.wait_s[1] < float("inf"):
            least, most = self.wait_s
            faults.append(f"--wait: {least:g} and {most:g} are not the least and the most seconds of a think time")
        if faults:
            raise BadInputError("\n".join(faults))


def read_locust_stats(path: Path, facts: RunFacts) -> Table:
    """Return the table of one Locust run. Raises BadInputError with the line and column of what cannot be read."""
    facts.check()
    lines = _read_lines(path)
    _check_once(path, lines)
    names = _names([line for _, line in lines])
    kinds = {name: _printed(path, number, line) for name, (number, line) in zip(names, lines, strict=True)}
    if TOTAL not in kinds:
        raise BadInputError(f"{path}: there is no line {TOTAL}; is it whole, and the `_stats.csv` of `locust --csv`?")
    ramp_s = (facts.users or 0) / (facts.spawn_rate_per_s or LOCUST_SPAWN_RATE_PER_S)
    stated_s = None if facts.duration_s is None else exact(facts.duration_s)
    row = Row(
        name="run" if facts.users is None else f"run, {facts.users} users",
        target="run",
        users=facts.users or 0,
        all=kinds[TOTAL],
        parts={name: figures for name, figures in kinds.items() if name != TOTAL},
        parts_are_all=len(kinds) > 1,
        window=Window(stated_s=stated_s, ramp_s=ramp_s),
        wait_s=facts.wait_s if facts.users else None,
        may_lack_times=True,
    )
    return Table(
        title=path.name.removesuffix(".csv"),
        rows=[row],
        stated=_stated(facts),
        names={"run": "run"},
        notes=_notes(facts),
    )


def _read_lines(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    """Return the lines by column, each with its number in the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            lines = [(reader.line_num, dict(line)) for line in reader]
    except OSError as exc:
        raise BadInputError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (csv.Error, UnicodeDecodeError) as exc:
        raise BadInputError(f"{path}: is not CSV: {exc}") from exc
    missing = [column for column in (*_TEXTS, *_COUNTS, *_NUMBERS) if column not in header]
    if missing:
        raise BadInputError(
            f"{path}: has no column {', '.join(missing)}; give the `_stats.csv` that `locust --csv PREFIX` writes"
        )
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise BadInputError(f"{path}: the column {', '.join(repeated)} stands there twice")
    return lines


def _check_once(path: Path, lines: list[tuple[int, dict[str, str | None]]]) -> None:
    first: dict[tuple[str | None, str | None], int] = {}
    for number, line in lines:
        known = first.setdefault((line["Type"], line["Name"]), number)
        if known != number:
            raise BadInputError(f"{path}: line {number}: {_name(line)} stands there twice, first in line {known}")


def _names(lines: list[dict[str, str | None]]) -> list[str]:
    """Return what to call each line; two kinds of requests never have one name."""
    names = [_name(line) for line in lines]
    return [
        name if names.count(name) == 1 else f"type {line['Type']!r}, name {line['Name']!r}"
        for name, line in zip(names, lines, strict=True)
    ]


def _name(line: dict[str, str | None]) -> str:
    kind, name = line["Type"] or "", line["Name"] or ""
    if name == TOTAL and kind in {"", "None"}:
        return TOTAL
    return f"{kind} {name}".strip()


def _printed(path: Path, number: int, line: dict[str, str | None]) -> Printed:
    requests, failures = (_count(path, number, column, line[column]) for column in _COUNTS)
    if not requests:
        return Printed(requests=requests, failures=failures, timed=0)
    median, average, least, most, rps = (_number(path, number, column, line[column]) for column in _NUMBERS)
    shares = {column: found for column in line if column and (found := _PERCENTILE.fullmatch(column))}
    percentiles = [
        (float(found[1]) / 100, _number(path, number, column, line[column])) for column, found in shares.items()
    ]
    return Printed(
        requests=requests,
        failures=failures,
        rps=exact(rps),
        avg_ms=exact(average),
        percentiles_ms=[
            (share, locust_percentile(value))
            for share, value in sorted([(0.5, median), *percentiles], key=lambda one: one[0])
        ],
        min_ms=exact(least),
        max_ms=exact(most),
        timed=requests,
    )


def _count(path: Path, number: int, column: str, text: str | None) -> int:
    value = _number(path, number, column, text)
    if value != int(value):
        raise BadInputError(f"{path}: line {number}, column {column}: {text!r} is not a whole number")
    return int(value)


def _number(path: Path, number: int, column: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not isfinite(value) or value < 0:
        raise BadInputError(f"{path}: line {number}, column {column}: {text!r} is not a number from 0 on")
    return value


def _stated(facts: RunFacts) -> list[str]:
    lines = []
    if facts.users is not None:
        lines.append(f"users: {facts.users}")
    if facts.duration_s is not None:
        lines.append(f"duration: {show(facts.duration_s)} s")
    if facts.spawn_rate_per_s is not None:
        lines.append(f"users come at {show(facts.spawn_rate_per_s)} per s")
    if facts.wait_s is not None:
        lines.append(f"each user waits {show_range(*facts.wait_s)} s between requests")
    return lines


def _notes(facts: RunFacts) -> list[str]:
    notes = []
    if facts.duration_s is None:
        notes.append("without --duration, requests ÷ RPS is compared with nothing but itself")
    if facts.users is None or facts.wait_s is None:
        notes.append("without --users and --wait, nothing can be said of think time and of hidden time")
    elif facts.spawn_rate_per_s is None:
        notes.append(
            f"without --spawn-rate, users are taken to come as Locust lets them: {LOCUST_SPAWN_RATE_PER_S:g} per s"
        )
    return notes
