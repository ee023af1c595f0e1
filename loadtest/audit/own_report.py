"""Reads our own report.json for `audit`: every cell and point as rows, and what must follow from them.

It checks the file, not the code that wrote it: each figure that follows from others is calculated anew from those
others as printed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import fsum, isclose
from pathlib import Path
from typing import Any

from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, ValidationError

from loadtest.audit.finding import Finding, Rule, show_exact
from loadtest.audit.interval import Interval, locust_percentile, within
from loadtest.audit.rates import CLOCK_S
from loadtest.audit.table import Printed, Row, Table, Window
from loadtest.errors import BadInputError
from loadtest.figures.caching import answers_unasked
from loadtest.figures.figures import (
    CellFigures,
    Difference,
    EndpointFigures,
    Figures,
    LevelComparison,
    PointFigures,
    Traffic,
)
from loadtest.statistics.percentiles import PERCENTILES

DECIMALS_MARGIN = 0.6e-4
"""report.json rounds to four decimals; floats may add a little."""

GENERATOR_SHARE = 0.05
"""Of the users' time: up to here a cell of ours is valid (`validity`)."""

DURATION_SHARE = 0.05
"""By which the load may last longer or shorter than the plan asks before it is another test."""

DERIVED = Rule(
    name="derived figure",
    formula=(
        "think-time limit = users ÷ mean wait; a point pools its valid cells; a cell is valid if it has no reasons "
        "against it; an objective is met if its figure is; a difference is (larger − smaller) ÷ smaller of the two "
        "best, and its winner has the better figure; mean latency − stages = unexplained; a valid load lasts as long "
        "as planned"
    ),
    source="the meaning of each figure in report.json",
    tolerance="The four decimals of report.json; the length of the load by 5 %, or by 1 s if that is more.",
)


class _Workload(BaseModel):
    wait_s: tuple[NonNegativeFloat, NonNegativeFloat] | None = None
    options: dict[str, str | int | float] = {}


class _Test(BaseModel):
    """What of a report's `test` is needed here."""

    duration_s: PositiveFloat | None = None
    workload: _Workload = _Workload()


def read_own_report(path: Path) -> Figures:
    """Return the figures in a report.json. Raises BadInputError with the first faults and their keys."""
    try:
        figures = Figures.model_validate(_read_json(path))
        _Test.model_validate(figures.test)
        return figures
    except ValidationError as exc:
        faults = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors(include_url=False)[:5]]
        lines = [f"{path}: {fault}" for fault in faults]
        raise BadInputError("\n".join([*lines, "is it a report.json of `python -m loadtest`?"])) from exc


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except OSError as exc:
        raise BadInputError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise BadInputError(f"{path}: Invalid JSON: {exc}") from exc


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; a key that stands in it twice would be read as the last one in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in an object")
    return found


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def tabulate(figures: Figures) -> Table:
    """Return a report as rows: cells in both windows, points, and each point as a pool of its cells."""
    titles = {facts.name: facts.title for facts in figures.targets}
    rows = [row for cell in figures.cells for row in _cell_rows(figures, cell, titles)]
    rows += [row for point in figures.points for row in _point_rows(figures, point, titles)]
    return Table(title=figures.title, rows=rows, names=titles, stated=_stated(figures))


def check_derived(figures: Figures) -> list[Finding]:
    """Calculate anew every figure that follows from others."""
    titles = {facts.name: facts.title for facts in figures.targets}
    faults = [
        *(fault for cell in figures.cells for fault in _cell_faults(figures, cell, titles)),
        *(fault for point in figures.points for fault in _point_faults(figures, point, titles)),
        *(fault for level in figures.comparisons for fault in _level_faults(figures, level)),
        *_flag_faults(figures),
    ]
    return [
        Finding(rule=DERIVED.name, row=row, says=says, sums=[says], numbers={}, instead=instead)
        for row, says, instead in faults
    ]


def count_derived(figures: Figures) -> int:
    """Return of how many cells, points and comparisons figures are calculated anew."""
    return len(figures.cells) + len(figures.points) + sum(len(level.differences) for level in figures.comparisons)


_Fault = tuple[str, str, str]
"""The row, what is wrong, what must be true instead."""


def _cell_rows(figures: Figures, cell: CellFigures, titles: Mapping[str, str]) -> Iterator[Row]:
    name = _cell_name(cell, titles)
    for span, length_s in (("steady", cell.steady_window_s), ("whole_run", cell.whole_run_s)):
        traffic: Traffic | None = getattr(cell, span)
        if traffic is not None:
            window = Window(stated_s=_rounded(length_s), is_exact=_is_exact(figures, span), is_steady=span == "steady")
            row = _row(figures, f"{name}, {span.replace('_', ' ')}", cell, window, traffic)
            yield row if cell.valid and window.is_steady else _without_law(row)


def _point_rows(figures: Figures, point: PointFigures, titles: Mapping[str, str]) -> Iterator[Row]:
    name = f"{titles.get(point.target, point.target)}, {point.users} users, all repetitions"
    if point.steady is None:
        return
    window = Window(
        stated_s=_rounded(point.steady_window_s),
        is_exact=_is_exact(figures, "steady"),
        is_steady=True,
        runs=max(1, point.repetitions),
    )
    yield _row(figures, f"{name}, steady", point, window, point.steady)
    cells = _pooled_cells(figures, point)
    yield _pool(figures, f"{name}, pooled", point, {_repetition(cell): cell.steady for cell in cells}, point.steady)
    for part in point.endpoints:
        parts = {
            _repetition(cell): own.steady for cell in cells for own in cell.endpoints if own.endpoint == part.endpoint
        }
        yield _pool(figures, f"{name}, {part.endpoint} pooled", point, parts, part.steady)


def _row(figures: Figures, name: str, source: CellFigures | PointFigures, window: Window, traffic: Traffic) -> Row:
    span = "steady" if window.is_steady else "whole_run"
    parts = {part.endpoint: _printed(figures, getattr(part, span)) for part in source.endpoints}
    wait_s = _Test.model_validate(figures.test).workload.wait_s
    return Row(
        name=name,
        target=source.target,
        users=source.users,
        all=_printed(figures, traffic),
        parts=parts,
        parts_are_all=_is_whole(figures, source, traffic, parts),
        window=window,
        wait_s=wait_s,
        covers_failures=_is_locust(figures),
        may_lack_times=_is_locust(figures),
        generator_share=GENERATOR_SHARE,
    )


def _pool(
    figures: Figures, name: str, point: PointFigures, parts: Mapping[str, Traffic | None], traffic: Traffic
) -> Row:
    return Row(
        name=name,
        target=point.target,
        users=point.users,
        all=_printed(figures, traffic),
        parts={key: _printed(figures, part) for key, part in parts.items() if part is not None},
        parts_are_all=True,
        parts_share_window=False,
        covers_failures=_is_locust(figures),
    )


def _without_law(row: Row) -> Row:
    """Return the row without think time: a cell that is not valid, or of which the ramp is a part, promises none."""
    return replace(row, wait_s=None)


def _printed(figures: Figures, traffic: Traffic) -> Printed:
    percentile = locust_percentile if _is_locust(figures) else _four_decimals
    known = [(0.5, traffic.median_ms), (0.95, traffic.p95_ms), (0.99, traffic.p99_ms)]
    untimed = 0 if _is_locust(figures) else traffic.failures + traffic.untimed
    return Printed(
        requests=traffic.requests,
        failures=traffic.failures,
        failures_percent=_rounded(traffic.failures_percent),
        rps=_rounded(traffic.rps),
        avg_ms=_rounded(traffic.avg_ms),
        percentiles_ms=[(share, percentile(value)) for share, value in known if value is not None],
        max_ms=_rounded(traffic.max_ms),
        timed=traffic.requests - untimed,
    )


def _is_whole(
    figures: Figures, source: CellFigures | PointFigures, traffic: Traffic, parts: Mapping[str, Printed]
) -> bool:
    """Return whether the endpoints should add up to all: requests that the plan does not name are told in a note."""
    added = sum(part.requests or 0 for part in parts.values())
    if added == traffic.requests:
        return bool(parts)
    cells = [source] if isinstance(source, CellFigures) else _pooled_cells(figures, source)
    return bool(parts) and not any(cell.notes for cell in cells)


def _is_locust(figures: Figures) -> bool:
    return figures.source == "Locust CSV"


def _is_exact(figures: Figures, span: str) -> bool:
    """Return whether RPS is requests ÷ the printed length; Locust's own RPS of a run is of its own clock."""
    return span == "steady" or not _is_locust(figures)


def _four_decimals(value: float) -> Interval:
    return within(value, DECIMALS_MARGIN)


def _rounded(value: float | None) -> Interval | None:
    return None if value is None else _four_decimals(value)


def _pooled_cells(figures: Figures, point: PointFigures) -> list[CellFigures]:
    return [cell for cell in figures.cells if cell.valid and (cell.target, cell.users) == (point.target, point.users)]


def _repetition(cell: CellFigures) -> str:
    return f"repetition {cell.repetition}"


def _cell_name(cell: CellFigures, titles: Mapping[str, str]) -> str:
    return f"{titles.get(cell.target, cell.target)}, {cell.users} users, {_repetition(cell)}"


def _stated(figures: Figures) -> list[str]:
    told = {"users": "users", "spawn_rate_per_s": "users come per s", "duration_s": "duration in s"}
    return [f"{words}: {figures.test[key]}" for key, words in told.items() if key in figures.test]


def _cell_faults(figures: Figures, cell: CellFigures, titles: Mapping[str, str]) -> Iterator[_Fault]:
    name = _cell_name(cell, titles)
    if cell.valid == bool(cell.reasons):
        yield name, f"valid is {cell.valid} with {len(cell.reasons)} reason(s) against it", "A valid cell has none."
    planned_s = _Test.model_validate(figures.test).duration_s
    if cell.valid and planned_s and cell.whole_run_s is not None and _is_other_length(cell.whole_run_s, planned_s):
        says = f"the load lasted {show_exact(cell.whole_run_s)} s, planned were {show_exact(planned_s)} s"
        yield name, says, "The load of a valid cell lasts as long as planned, or the plan says another number."
    yield from _cache_faults(figures, name, cell)
    yield from _subset_faults(name, cell)
    yield from (fault for part in cell.endpoints for fault in _stage_faults(name, part))
    yield from _limit_faults(name, cell)


def _cache_faults(figures: Figures, name: str, cell: CellFigures) -> Iterator[_Fault]:
    facts = next((facts for facts in figures.targets if facts.name == cell.target), None)
    options = _Test.model_validate(figures.test).workload.options
    if not cell.valid or facts is None or not answers_unasked(facts.cache, options, cached=facts.cached):
        return
    says = f"it is valid, while its target's cache was on ({facts.cache}) and its pictures were sent again and again"
    yield name, says, "Its figures are those of the cache, which the plan does not say it measures: it is not valid."


def _is_other_length(lasted_s: float, planned_s: float) -> bool:
    return abs(lasted_s - planned_s) > max(CLOCK_S, DURATION_SHARE * planned_s)


def _subset_faults(name: str, cell: CellFigures) -> Iterator[_Fault]:
    """Check that the steady window, a part of the whole run, has no more than that."""
    if cell.steady is None or cell.whole_run is None:
        return
    for what in ("requests", "failures", "max_ms"):
        steady, whole = getattr(cell.steady, what), getattr(cell.whole_run, what)
        if steady is not None and whole is not None and steady > whole + DECIMALS_MARGIN:
            says = f"{what} of the steady window is {show_exact(steady)}, above {show_exact(whole)} of the whole run"
            yield name, says, "The steady window is a part of the whole run, so it cannot have more."


def _stage_faults(name: str, part: EndpointFigures) -> Iterator[_Fault]:
    if part.unexplained_ms is None or part.steady.avg_ms is None:
        return
    rest_ms = part.steady.avg_ms - fsum(stage.avg_ms for stage in part.stages)
    if abs(rest_ms - part.unexplained_ms) > DECIMALS_MARGIN * (2 + len(part.stages)):
        yield (
            f"{name}, {part.endpoint}",
            (
                f"{show_exact(part.steady.avg_ms)} ms − stages = {show_exact(rest_ms)} ms, printed as unexplained: "
                f"{show_exact(part.unexplained_ms)} ms"
            ),
            f"Unexplained are {show_exact(rest_ms)} ms.",
        )


def _limit_faults(name: str, cell: CellFigures) -> Iterator[_Fault]:
    for result in cell.limits:
        limit = result.limit
        traffic = _traffic(cell, limit.endpoint)
        value: float | None = getattr(traffic, limit.metric, None)
        if value != result.value:
            says = f"`{limit}` is judged by {_told(result.value)}, but the cell has {_told(value)}"
            yield name, says, "An objective is judged by the figure of its cell."
        # A percentile with too few samples is judged by the largest of them.
        judged = traffic.max_ms if value is None and traffic and limit.metric in PERCENTILES else result.value
        met = judged is not None and limit.holds_for(judged)
        if met != result.met:
            says = f"`{limit}` with {_told(result.value)} is printed as {'met' if result.met else 'missed'}"
            yield name, says, f"It is {'met' if met else 'missed'}."


def _point_faults(figures: Figures, point: PointFigures, titles: Mapping[str, str]) -> Iterator[_Fault]:
    name = f"{titles.get(point.target, point.target)}, {point.users} users, all repetitions"
    wait_s = _Test.model_validate(figures.test).workload.wait_s
    if wait_s and sum(wait_s) > 0 and point.think_time_limit_rps is not None:
        mean_wait_s = sum(wait_s) / 2
        limit_rps = point.users / mean_wait_s
        if abs(limit_rps - point.think_time_limit_rps) > DECIMALS_MARGIN:
            yield (
                name,
                (
                    f"{point.users} users ÷ {show_exact(mean_wait_s)} s = {show_exact(limit_rps)} requests/s, printed "
                    f"as think-time limit: {show_exact(point.think_time_limit_rps)}"
                ),
                f"The think-time limit is {show_exact(limit_rps)} requests/s.",
            )
    cells = _pooled_cells(figures, point)
    if point.repetitions != len(cells):
        says = f"{point.repetitions} repetition(s) are counted, but {len(cells)} cell(s) are valid"
        yield name, says, "A point pools its valid cells, and no other."
    lengths = [cell.steady_window_s for cell in cells if cell.steady_window_s is not None]
    length_s = fsum(lengths)
    if point.steady_window_s is not None and not _is_close(length_s, point.steady_window_s, 1 + len(lengths)):
        says = f"its cells' steady windows are {show_exact(length_s)} s, its own {show_exact(point.steady_window_s)} s"
        yield name, says, f"The steady window of the point is {show_exact(length_s)} s."
    most = [cell.steady.max_ms for cell in cells if cell.steady and cell.steady.max_ms is not None]
    if point.steady and point.steady.max_ms is not None and most and max(most) != point.steady.max_ms:
        says = f"its maximum is {show_exact(point.steady.max_ms)} ms, that of its cells {show_exact(max(most))} ms"
        yield name, says, f"The maximum of the point is {show_exact(max(most))} ms."


def _is_close(one: float, other: float, terms: int) -> bool:
    return isclose(one, other, rel_tol=1e-9, abs_tol=DECIMALS_MARGIN * terms)


def _level_faults(figures: Figures, level: LevelComparison) -> Iterator[_Fault]:
    name = f"comparison at {level.users} users"
    for difference in level.differences:
        yield from _difference_faults(figures, level, difference)
    won = [difference.winner for difference in level.differences]
    if level.winner is not None and level.winner not in won:
        says = f"{level.winner} is the winner, and wins no single figure"
        yield name, says, "The winner of a level wins at least one of its figures."


def _difference_faults(figures: Figures, level: LevelComparison, difference: Difference) -> Iterator[_Fault]:
    name = f"comparison at {level.users} users, {difference.metric}"
    for target, value in difference.values.items():
        known = _metric(figures, target, level.users, difference.metric)
        if known != value:
            says = f"{target} is compared by {show_exact(value)}, but its point has {_told(known)}"
            yield name, says, f"The figure of {target} is {_told(known)}."
    if (difference.winner is not None) != (difference.verdict == "winner"):
        says = f"the verdict is {difference.verdict}, and the winner {difference.winner or 'nobody'}"
        yield name, says, "There is a winner if that is the verdict, and only then."
    if len(difference.values) < 2:  # noqa: PLR2004 # it takes two
        if difference.verdict != "not enough data":
            says = f"the verdict on {len(difference.values)} figure(s) is {difference.verdict}"
            yield name, says, "It takes two figures to compare."
        return
    best = (max if difference.metric == "rps" else min)(difference.values.values())
    if difference.winner is not None and difference.values.get(difference.winner) != best:
        says = f"{difference.winner} wins with {_told(difference.values.get(difference.winner))}; the best is "
        yield name, says + show_exact(best), "The better figure wins."
    yield from _percent_faults(name, difference)


def _percent_faults(name: str, difference: Difference) -> Iterator[_Fault]:
    first, second = difference.values.values()
    if difference.difference_percent is None:
        return
    if difference.metric == "failures_percent":
        percent, told = second - first, f"{show_exact(second)} − {show_exact(first)}"
    elif first > 0:
        percent, told = 100 * (second / first - 1), f"{show_exact(second)} ÷ {show_exact(first)} − 1"
    else:
        return
    # The printed figures are rounded; so is the difference, which was made of unrounded ones.
    margin = DECIMALS_MARGIN * (1 + 200 * max(1.0, second / first) / first if first > 0 else 3)
    if abs(percent - difference.difference_percent) > margin:
        says = f"{told} = {show_exact(percent)} %, printed: {show_exact(difference.difference_percent)} %"
        yield name, says, f"The difference is {show_exact(percent)} %."
    yield from _interval_faults(name, difference)


def _interval_faults(name: str, difference: Difference) -> Iterator[_Fault]:
    if difference.interval_percent is None or difference.difference_percent is None:
        return
    low, high = difference.interval_percent
    told = f"the interval is {show_exact(low)} to {show_exact(high)} %"
    if difference.winner is not None and low <= 0 <= high:
        yield name, f"{difference.winner} wins, and {told}", "Where the interval holds 0, nobody wins."
    if not low - DECIMALS_MARGIN <= difference.difference_percent <= high + DECIMALS_MARGIN:
        says = f"the difference is {show_exact(difference.difference_percent)} %, and {told}"
        yield name, says, "A difference lies in its interval."


def _metric(figures: Figures, target: str, users: int, metric: str) -> float | None:
    point = next((one for one in figures.points if (one.target, one.users) == (target, users)), None)
    *endpoint, name = metric.split(".")
    traffic = _traffic(point, endpoint[0] if endpoint else None) if point else None
    value: float | None = getattr(traffic, name, None)
    return value


def _traffic(source: CellFigures | PointFigures, endpoint: str | None) -> Traffic | None:
    """Return what objectives and comparisons look at: in an open loop, latencies from the scheduled time."""
    if endpoint is None:
        return source.scheduled or source.steady
    return next((part.judged for part in source.endpoints if part.endpoint == endpoint), None)


def _flag_faults(figures: Figures) -> Iterator[_Fault]:
    all_valid = all(cell.valid for cell in figures.cells)
    if figures.all_valid != all_valid:
        says = f"all_valid is {figures.all_valid}, but {sum(not cell.valid for cell in figures.cells)} cell(s) are not"
        yield "report", says, f"all_valid is {all_valid}."
    missed = sum(not result.met for cell in figures.cells for result in cell.limits)
    if figures.all_limits_met and missed:
        says = f"all_limits_met is true, but {missed} objective(s) are missed"
        yield "report", says, "all_limits_met is false."


def _told(value: float | None) -> str:
    return "no figure" if value is None else show_exact(value)
