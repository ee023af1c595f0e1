"""The rule on our own report.json: each figure that follows from others is calculated again from those as printed.

It checks the file, not the code that wrote it. Called by `audit`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum

from loadtest.audit.finding import Checked, Finding, Rule, show_exact
from loadtest.audit.own_report import DECIMALS_MARGIN, OwnReport
from loadtest.audit.rates import CLOCK_S
from loadtest.figures.caching import answers_unasked
from loadtest.figures.figures import CellFigures, Difference, EndpointFigures, LevelComparison, PointFigures, Traffic
from loadtest.statistics.percentiles import PERCENTILES

DURATION_SHARE = 0.05
"""By which the load may last longer or shorter than the plan asks before it is another test."""

DERIVED = Rule(
    name="derived figure",
    formula=(
        "think-time limit = users ÷ mean wait; a point pools its valid cells; a cell is valid if it has no reasons "
        "against it; an objective is met if its figure is; a difference is second ÷ first − 1, of shares of failures "
        "second − first, and its winner has the better figure; mean latency − stages = unexplained; a valid load lasts"
        " as long as planned"
    ),
    source="the meaning of each figure in report.json",
    tolerance="The four decimals of report.json; the length of the load by 5 %, or by 1 s if that is more.",
)


def check_derived(report: OwnReport) -> Checked:
    """Calculate every figure that follows from others, and compare it with the printed one."""
    figures = report.figures
    findings = [
        *(finding for cell in figures.cells for finding in _check_cell(report, cell)),
        *(finding for point in figures.points for finding in _check_point(report, point)),
        *(finding for level in figures.comparisons for finding in _check_level(report, level)),
        *_check_flags(report),
    ]
    differences = sum(len(level.differences) for level in figures.comparisons)
    return Checked(DERIVED, findings, len(figures.cells) + len(figures.points) + differences)


def _finding(row: str, says: str, instead: str) -> Finding:
    return DERIVED.finding(row, says, [says], instead)


@dataclass(frozen=True)
class _Derived:
    """A figure that follows from others."""

    what: str
    how: str
    value: float | None
    margin: float = DECIMALS_MARGIN
    """By how much rounding lets the printed one differ."""

    def compare(self, row: str, printed: float | None) -> Iterator[Finding]:
        """Yield a finding where it is not as printed."""
        if self.value == printed:
            return
        if self.value is None or printed is None or abs(self.value - printed) > self.margin + 1e-9 * abs(self.value):
            says = f"{self.what} is {_told(printed)}, but {self.how} = {_told(self.value)}"
            yield _finding(row, says, f"By that, {self.what} is {_told(self.value)}.")


def _check_cell(report: OwnReport, cell: CellFigures) -> Iterator[Finding]:
    name = report.name(cell)
    if cell.valid == bool(cell.reasons):
        says = f"valid is {cell.valid} with {len(cell.reasons)} reason(s) against it"
        yield _finding(name, says, "A valid cell has none.")
    yield from _check_length(report, cell)
    facts = next((facts for facts in report.figures.targets if facts.name == cell.target), None)
    options = report.test.workload.options
    if cell.valid and facts is not None and answers_unasked(facts.cache, options, cached=facts.cached):
        yield _finding(
            name,
            f"it is valid, while its target's cache was on ({facts.cache}) and its pictures were sent again and again",
            "Its figures are those of the cache, which the plan does not say it measures: it is not valid.",
        )
    yield from _check_subset(name, cell)
    yield from (finding for part in cell.endpoints for finding in _check_stages(name, part))
    yield from _check_limits(name, cell)


def _check_length(report: OwnReport, cell: CellFigures) -> Iterator[Finding]:
    planned_s, lasted_s = report.test.duration_s, cell.whole_run_s
    if not cell.valid or not planned_s or lasted_s is None:
        return
    if abs(lasted_s - planned_s) > max(CLOCK_S, DURATION_SHARE * planned_s):
        says = f"the load lasted {show_exact(lasted_s)} s, planned were {show_exact(planned_s)} s"
        instead = "The load of a valid cell lasts as long as planned, or the plan says another number."
        yield _finding(report.name(cell), says, instead)


def _check_subset(name: str, cell: CellFigures) -> Iterator[Finding]:
    """Check that the steady window, a part of the whole run, has no more than that."""
    for what in ("requests", "failures", "max_ms"):
        steady, whole = getattr(cell.steady, what, None), getattr(cell.whole_run, what, None)
        if steady is not None and whole is not None and steady > whole + DECIMALS_MARGIN:
            says = f"{what} of the steady window is {show_exact(steady)}, above {show_exact(whole)} of the whole run"
            yield _finding(name, says, "The steady window is a part of the whole run, so it cannot have more.")


def _check_stages(name: str, part: EndpointFigures) -> Iterator[Finding]:
    mean_ms = part.steady.avg_ms
    if part.unexplained_ms is not None and mean_ms is not None:
        rest_ms = mean_ms - fsum(stage.avg_ms for stage in part.stages)
        margin, how = DECIMALS_MARGIN * (2 + len(part.stages)), f"{show_exact(mean_ms)} ms − stages"
        derived = _Derived("unexplained_ms", how, rest_ms, margin)
        yield from derived.compare(f"{name}, {part.endpoint}", part.unexplained_ms)


def _check_limits(name: str, cell: CellFigures) -> Iterator[Finding]:
    for result in cell.limits:
        limit = result.limit
        traffic = _traffic(cell, limit.endpoint)
        value: float | None = getattr(traffic, limit.metric, None)
        yield from _Derived(f"the figure of `{limit}`", "that of its cell", value, 0).compare(name, result.value)
        # A percentile with too few samples is judged by the largest of them.
        judged = traffic.max_ms if value is None and traffic and limit.metric in PERCENTILES else result.value
        met = judged is not None and limit.holds_for(judged)
        if met != result.met:
            says = f"`{limit}` with {_told(result.value)} is printed as {'met' if result.met else 'missed'}"
            yield _finding(name, says, f"It is {'met' if met else 'missed'}.")


def _check_point(report: OwnReport, point: PointFigures) -> Iterator[Finding]:
    name, cells, wait_s = report.name(point), report.pooled_cells(point), report.test.workload.wait_s
    if wait_s and sum(wait_s) > 0 and point.think_time_limit_rps is not None:
        mean_wait_s = sum(wait_s) / 2
        how, limit_rps = f"{point.users} users ÷ {show_exact(mean_wait_s)} s", point.users / mean_wait_s
        yield from _Derived("think_time_limit_rps", how, limit_rps).compare(name, point.think_time_limit_rps)
    yield from _Derived("repetitions", "the number of its valid cells", len(cells)).compare(name, point.repetitions)
    if point.steady_window_s is not None:
        lengths = [cell.steady_window_s for cell in cells if cell.steady_window_s is not None]
        margin, how = DECIMALS_MARGIN * (1 + len(lengths)), "the sum over its cells"
        yield from _Derived("steady_window_s", how, fsum(lengths), margin).compare(name, point.steady_window_s)
    most = [cell.steady.max_ms for cell in cells if cell.steady and cell.steady.max_ms is not None]
    if point.steady and point.steady.max_ms is not None and most:
        yield from _Derived("max_ms", "the maximum of its cells", max(most), 0).compare(name, point.steady.max_ms)


def _check_level(report: OwnReport, level: LevelComparison) -> Iterator[Finding]:
    for difference in level.differences:
        name = f"comparison at {level.users} users, {difference.metric}"
        for target, value in difference.values.items():
            known = _metric(report, target, level.users, difference.metric)
            yield from _Derived(f"the value of {target}", "that of its point", known, 0).compare(name, value)
        yield from _check_winner(name, difference)
        yield from _check_percent(name, difference)
    if level.winner is not None and level.winner not in [difference.winner for difference in level.differences]:
        yield _finding(
            f"comparison at {level.users} users",
            f"{level.winner} is the winner, and wins no single figure",
            "The winner of a level wins at least one of its figures.",
        )


def _check_winner(name: str, difference: Difference) -> Iterator[Finding]:
    values, winner = difference.values, difference.winner
    if (winner is not None) != (difference.verdict == "winner"):
        says = f"the verdict is {difference.verdict}, and the winner {winner or 'none'}"
        yield _finding(name, says, "There is a winner if that is the verdict, and only then.")
    if len(values) < 2 and difference.verdict != "not enough data":  # noqa: PLR2004 # it takes two
        says = f"the verdict on {len(values)} figure(s) is {difference.verdict}"
        yield _finding(name, says, "It takes two figures to compare.")
    if len(values) > 1 and winner is not None:
        best = (max if difference.metric == "rps" else min)(values.values())
        if values.get(winner) != best:
            says = f"{winner} wins with {_told(values.get(winner))}; the best is {show_exact(best)}"
            yield _finding(name, says, "The better figure wins.")


def _check_percent(name: str, difference: Difference) -> Iterator[Finding]:
    printed = difference.difference_percent
    if printed is None or len(difference.values) < 2:  # noqa: PLR2004 # it takes two
        return
    first, second = difference.values.values()
    # The printed figures are rounded; so is the difference, which was made of unrounded ones.
    margin = DECIMALS_MARGIN * (1 + 200 * max(1.0, second / first) / first if first > 0 else 3)
    if difference.metric == "failures_percent":
        how, percent = f"{show_exact(second)} − {show_exact(first)}", second - first
    elif first > 0:
        how, percent = f"100 × ({show_exact(second)} ÷ {show_exact(first)} − 1)", 100 * (second / first - 1)
    else:
        return
    yield from _Derived("difference_percent", how, percent, margin).compare(name, printed)
    if difference.interval_percent is None:
        return
    low, high = difference.interval_percent
    told = f"the interval is {show_exact(low)} to {show_exact(high)} %"
    if difference.winner is not None and low <= 0 <= high:
        yield _finding(name, f"{difference.winner} wins, and {told}", "Where the interval contains 0, no target wins.")
    if not low - DECIMALS_MARGIN <= printed <= high + DECIMALS_MARGIN:
        yield _finding(
            name, f"the difference is {show_exact(printed)} %, and {told}", "A difference lies in its interval."
        )


def _metric(report: OwnReport, target: str, users: int, metric: str) -> float | None:
    point = next((one for one in report.figures.points if (one.target, one.users) == (target, users)), None)
    *endpoint, name = metric.split(".")
    traffic = _traffic(point, endpoint[0] if endpoint else None) if point else None
    value: float | None = getattr(traffic, name, None)
    return value


def _traffic(source: CellFigures | PointFigures, endpoint: str | None) -> Traffic | None:
    """Return what objectives and comparisons look at: in an open loop, latencies from the scheduled time."""
    if endpoint is None:
        return source.scheduled or source.steady
    return next((part.judged for part in source.endpoints if part.endpoint == endpoint), None)


def _check_flags(report: OwnReport) -> Iterator[Finding]:
    figures = report.figures
    invalid = sum(not cell.valid for cell in figures.cells)
    if figures.all_valid != (not invalid):
        says = f"all_valid is {figures.all_valid}, but {invalid} cell(s) are not"
        yield _finding("report", says, f"all_valid is {not invalid}.")
    missed = sum(not result.met for cell in figures.cells for result in cell.limits)
    if figures.all_limits_met and missed:
        says = f"all_limits_met is true, but {missed} objective(s) are missed"
        yield _finding("report", says, "all_limits_met is false.")


def _told(value: float | None) -> str:
    return "no figure" if value is None else show_exact(value)
