"""Reads the `_stats.csv` of a plain Locust run for `audit`, with what the command line says of the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from loadtest.audit.finding import show, show_range
from loadtest.audit.interval import Interval, exact, locust_percentile, within
from loadtest.audit.table import LOCUST_SPAWN_RATE_PER_S, Printed, Row, Table, Window
from loadtest.errors import BadInputError
from loadtest.figures.locust_files import (
    FAILED,
    LEAST,
    MEAN,
    MEDIAN,
    MOST,
    REQUESTS,
    RPS,
    TOTAL,
    Line,
    find_option_faults,
    read_lines,
)

_OLD_RPS_STEP = 0.01
"""Of requests/s, as Locust before 1.0 writes them."""


@dataclass(frozen=True)
class RunFacts:
    """What a `_stats.csv` does not say of its run; None where it is unknown."""

    users: int | None = None
    duration_s: float | None = None
    wait_s: tuple[float, float] | None = None
    spawn_rate_per_s: float | None = None

    def check(self) -> None:
        """Raise BadInputError for options that cannot be."""
        faults = find_option_faults(self.users, self.wait_s)
        for option, value in (("--duration", self.duration_s), ("--spawn-rate", self.spawn_rate_per_s)):
            if value is not None and not (isfinite(value) and value > 0):
                faults.append(f"{option}: {value:g} is not a number above 0")
        if faults:
            raise BadInputError("\n".join(faults))


def read_locust_stats(path: Path, facts: RunFacts) -> Table:
    """Return the table of one Locust run. Raises BadInputError with the line and column of what cannot be read."""
    facts.check()
    notes: list[str] = []
    lines = read_lines(path, ("Type", "Name"), (REQUESTS, FAILED, MEDIAN, MEAN, LEAST, MOST, RPS), notes)
    _check_once(path, lines)
    kinds = {name: _printed(line) for name, line in zip(_names(lines), lines, strict=True)}
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
        notes=[*notes, *_notes(facts)],
    )


def _check_once(path: Path, lines: Sequence[Line]) -> None:
    first: dict[tuple[str, ...], int] = {}
    for line in lines:
        known = first.setdefault(tuple(line.text.values()), line.at)
        if known != line.at:
            raise BadInputError(f"{path}: line {line.at}: {line.name} stands there twice, first in line {known}")


def _names(lines: Sequence[Line]) -> list[str]:
    """Return what to call each line; two kinds of requests never have one name."""
    names = [line.name or TOTAL for line in lines]
    return [
        name if names.count(name) == 1 else f"type {line.text['Type']!r}, name {line.text['Name']!r}"
        for name, line in zip(names, lines, strict=True)
    ]


def _printed(line: Line) -> Printed:
    numbers, requests, failures = line.numbers, int(line.numbers[REQUESTS]), int(line.numbers[FAILED])
    if not requests:
        return Printed(requests=requests, failures=failures, timed=0)
    percentiles = sorted([(0.5, numbers[MEDIAN]), *line.percentiles], key=lambda one: one[0])
    return Printed(
        requests=requests,
        failures=failures,
        rps=within(numbers[RPS], _OLD_RPS_STEP / 2) if line.is_old else exact(numbers[RPS]),
        avg_ms=_ms(line, MEAN),
        percentiles_ms=[(share, locust_percentile(value)) for share, value in percentiles],
        min_ms=_ms(line, LEAST),
        # Between Locust's steps: a cut maximum may be below a percentile, which was rounded.
        max_ms=within(numbers[MOST] + 0.5, 0.5) if line.is_old else exact(numbers[MOST]),
        timed=requests,
    )


def _ms(line: Line, column: str) -> Interval:
    """Return a mean or the minimum; where it was cut, 57 stands for 57 to 58."""
    value = line.numbers[column]
    return Interval(value, value, value + 1) if line.is_old else exact(value)


def _stated(facts: RunFacts) -> list[str]:
    lines = []
    if facts.users is not None:
        lines.append(f"users: {facts.users}")
    if facts.duration_s is not None:
        lines.append(f"duration: {show(facts.duration_s)} s")
    if facts.spawn_rate_per_s is not None:
        lines.append(f"spawn rate: {show(facts.spawn_rate_per_s)} users per s")
    if facts.wait_s is not None:
        lines.append(f"each user waits {show_range(*facts.wait_s)} s between requests")
    return lines


def _notes(facts: RunFacts) -> list[str]:
    notes = []
    if facts.duration_s is None:
        notes.append("without --duration, requests ÷ RPS is compared only between endpoints")
    if facts.users is None or facts.wait_s is None:
        notes.append("without --users and --wait, think time and hidden time are not checked")
    elif facts.spawn_rate_per_s is None:
        notes.append(f"without --spawn-rate, Locust's default is assumed: {LOCUST_SPAWN_RATE_PER_S:g} user per s")
    return notes
