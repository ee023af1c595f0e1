"""What each of several load generators did in the steady window of a cell. Called by `summary` and `validity`."""

from collections.abc import Mapping, Sequence
from math import fsum, inf
from statistics import fmean

from loadtest.figures.figures import GeneratorFigures
from loadtest.figures.traffic import Window
from loadtest.rows.columns import GeneratorRow
from loadtest.rows.run_folder import ClockRecord

FORGIVEN_MS = 1000.0
"""Of a generator's longest lateness: an idle machine stalls now and then, and one stall is much of a short window."""


def name_generator(number: int, count: int) -> str:
    """Return what readers are told of one of several generators, such as `load generator 2 of 4`."""
    return f"load generator {number} of {count}"


def split_seconds(rows: Sequence[GeneratorRow]) -> dict[int | None, list[GeneratorRow]]:
    """Return the rows of each generator, by its number; those of the only one by None."""
    split: dict[int | None, list[GeneratorRow]] = {}
    for row in rows:
        split.setdefault(row.generator, []).append(row)
    return split


def seconds_of(rows: Sequence[GeneratorRow], window: Window) -> list[GeneratorRow]:
    """Return the rows of `window`. A row tells of the time since the one before it, so the last may end later."""
    found: list[GeneratorRow] = []
    for mine in split_seconds(rows).values():
        begin_unix_s = -inf
        for row in sorted(mine, key=lambda row: row.unix_s):
            if begin_unix_s < window.end_unix_s and row.unix_s >= window.begin_unix_s:
                found.append(row)
            begin_unix_s = row.unix_s
    return found


def compute_late_percent(rows: Sequence[GeneratorRow], window_s: float) -> float:
    """Return for how much of the time the event loop was late: each second states its longest lateness.

    Of several generators, that of the latest. Up to FORGIVEN_MS of the longest lateness are left out.
    """
    return max((_late_percent(mine, window_s) for mine in split_seconds(rows).values()), default=0.0)


def _late_percent(rows: Sequence[GeneratorRow], window_s: float) -> float:
    lags_ms = [row.lag_ms for row in rows]
    return (fsum(lags_ms) - min(max(lags_ms), FORGIVEN_MS)) / 10 / window_s


def compute_generators(
    clocks: Sequence[ClockRecord], rows: Sequence[GeneratorRow], sent: Mapping[int | None, int], window_s: float
) -> list[GeneratorFigures]:
    """Return the figures of several generators with a row in the steady window; none where one makes the load.

    `rows` are of the window, which is `window_s` long, and `sent` has the requests of each in it.
    """
    split = split_seconds(rows)
    return [
        GeneratorFigures(
            name=f"{clock.generator} of {len(clocks)}",
            requests=sent.get(clock.generator, 0),
            cpu_percent=round(fmean(row.own_cpu_percent or 0.0 for row in mine), 2),
            late_percent=round(_late_percent(mine, window_s), 4),
        )
        for clock in clocks
        if (mine := split.get(clock.generator))
    ]


def pool_generators(parts: Sequence[Sequence[GeneratorFigures]]) -> list[GeneratorFigures]:
    """Return the figures of the generators of several cells: sums of requests, means of the rest, by name."""
    by_name: dict[str, list[GeneratorFigures]] = {}
    for figures in (figures for part in parts for figures in part):
        by_name.setdefault(figures.name, []).append(figures)
    return [
        GeneratorFigures(
            name=name,
            requests=sum(figures.requests for figures in same),
            cpu_percent=round(fmean(figures.cpu_percent for figures in same), 2),
            late_percent=round(fmean(figures.late_percent for figures in same), 4),
        )
        for name, same in by_name.items()
    ]
