"""The tables of a report's results. Called by `text`; nothing is computed here but how a figure is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from loadtest.figures.figures import (
    NO_FIGURE,
    BaselinePoint,
    Bottleneck,
    CellFigures,
    Difference,
    Figures,
    LevelComparison,
    LimitResult,
    PointFigures,
    RoleFigures,
    Traffic,
    name_metric,
    show_bare,
    show_bytes,
    show_count,
    show_difference,
    show_ms,
    show_percent,
    show_rps,
    show_value,
)
from loadtest.page.markdown import make_aligned_table
from loadtest.verdict.choice import Data, decides
from loadtest.verdict.comparison import name_verdict

_OPEN_LOOP = (
    "Latency from the scheduled time, as whoever arrived then waits, and from the moment of sending, as a closed loop "
    "counts it; what the second lacks is coordinated omission:"
)


class Part(NamedTuple):
    """A table, or sentences, and what stands above it."""

    heading: str
    table: str


class Result(NamedTuple):
    """The tables of one target."""

    title: str
    parts: Sequence[Part]


class Evidence(NamedTuple):
    """What a verdict rests on, and the level or cell that it is of."""

    heading: str
    sentences: Sequence[str]


def make_result(figures: Figures, target: str, title: str) -> Result:
    """Return the tables of a target, beside what was published of it at the same levels."""
    points = [point for point in figures.points if point.target == target]
    rows = figures.baseline.points if figures.baseline else []
    levels = {point.users for point in points}
    published = {row.users: row for row in rows if row.target == target and row.users in levels}
    parts = []
    if any(point.steady for point in points):
        seconds = ", ".join(f"{point.steady_window_s:,.0f} s" for point in points if point.steady_window_s is not None)
        repeated = ", repetitions pooled" if any(point.repetitions > 1 for point in points) else ""
        parts.append(Part(f"All endpoints, steady window ({seconds}{repeated}):", _steady(points, published)))
        parts += [
            Part(f"{endpoint}, steady window:", _endpoint(points, published, endpoint))
            for endpoint in figures.endpoints
        ]
    if any(point.scheduled for point in points):
        parts.append(Part(_OPEN_LOOP, _open_loop(figures, points)))
    parts.append(Part("Whole runs, ramp included:", _whole_runs(figures, points, published)))
    return Result(title, parts)


def _steady(points: list[PointFigures], published: Mapping[int, BaselinePoint]) -> str:
    metrics, given = "median_ms p95_ms p99_ms rps", "failures_percent median_ms rps" if published else ""
    has_limit = points[0].think_time_limit_rps
    header = ["users", *_head("requests failures_percent"), "interval", *_head(metrics)]
    header += ["think-time limit RPS"] if has_limit else []
    rows = []
    for point in points:
        row = [_users(point), *_traffic(point.steady, "requests failures_percent"), _interval(point.steady)]
        row += [*_traffic(point.steady, metrics), *([show_rps(point.think_time_limit_rps)] if has_limit else [])]
        beside = published.get(point.users)
        rows.append(row + [_as_given(getattr(beside, name, None)) for name in given.split()])
    return make_aligned_table([*header, *_head(given, "published ")], rows)


def _endpoint(points: list[PointFigures], published: Mapping[int, BaselinePoint], endpoint: str) -> str:
    metrics = "requests failures_percent median_ms avg_ms p95_ms p99_ms"
    given = "median_ms avg_ms" if published else ""
    rows = []
    for point in points:
        part = point.part(endpoint)
        beside = published[point.users].endpoints.get(endpoint, {}) if point.users in published else {}
        row = [str(point.users), *_traffic(part.steady if part else None, metrics)]
        rows.append(row + [_as_given(beside.get(name)) for name in given.split()])
    return make_aligned_table(["users", *_head(metrics), *_head(given, "published ")], rows)


def _open_loop(figures: Figures, points: list[PointFigures]) -> str:
    """Return the latencies from the scheduled time beside those from the moment of sending."""
    metrics = "median_ms p95_ms p99_ms max_ms"
    rows = []
    for point in points:
        parts = point.endpoints if len(figures.endpoints) > 1 else []
        counted = [("all", point.scheduled, point.steady)]
        counted += [(part.endpoint, part.scheduled, part.steady) for part in parts]
        rows += [
            [str(point.users), name, *_traffic(scheduled, metrics), *_traffic(sent, metrics)]
            for name, scheduled, sent in counted
        ]
    header = [f"{name}, {since}" for since in ("scheduled", "sent") for name in _head(metrics)]
    return make_aligned_table(["users", "endpoint", *header], rows)


def _whole_runs(figures: Figures, points: list[PointFigures], published: Mapping[int, BaselinePoint]) -> str:
    metrics = "requests failures failures_percent median_ms avg_ms p95_ms p99_ms max_ms rps"
    rows = []
    for point in points:
        beside = [show_count(published[point.users].requests if point.users in published else None)]
        rows.append([str(point.users), "all", *_traffic(point.whole_run, metrics), *(beside if published else [])])
        for endpoint in figures.endpoints:
            part = point.part(endpoint)
            row = [str(point.users), endpoint, *_traffic(part.whole_run if part else None, metrics)]
            rows.append([*row, *([NO_FIGURE] if published else [])])
    header = ["users", "endpoint", *_head(metrics), *(["published requests"] if published else [])]
    return make_aligned_table(header, rows)


def _head(metrics: str, before: str = "") -> list[str]:
    """Return the headings of metrics, with their units."""
    names = (metric.replace("failures_percent", "failures %").replace("_ms", " ms") for metric in metrics.split())
    return [before + (name.upper() if name == "rps" else name) for name in names]


def _users(point: PointFigures) -> str:
    if point.steady is None:
        return f"{point.users} (no valid cell)"
    return f"{point.users} ({point.repetitions}×)" if point.repetitions > 1 else str(point.users)


def _as_given(value: float | None) -> str:
    """Return a published figure with as many digits as it was published with."""
    return NO_FIGURE if value is None else f"{value:,.10g}"


def _traffic(traffic: Traffic | None, metrics: str) -> list[str]:
    return [show_bare(metric, getattr(traffic, metric, None)) for metric in metrics.split()]


def _interval(traffic: Traffic | None) -> str:
    """Return the interval of a share of failures, in percent."""
    if traffic is None or traffic.failures_interval_percent is None:
        return NO_FIGURE
    return " to ".join(f"{end:.2g}" if end < 99.5 else "100" for end in traffic.failures_interval_percent)  # noqa: PLR2004


def make_comparison(figures: Figures) -> str:
    """Return the table of the verdicts at each number of users."""
    rows = [[str(level.users), _verdict_at(figures, level), level.because] for level in figures.comparisons]
    return make_aligned_table(["users", "verdict", "why"], rows)


def has_divided(figures: Figures) -> bool:
    """Return whether the verdict on any level is divided."""
    return any(name_verdict(level) == "divided" for level in figures.comparisons)


def _verdict_at(figures: Figures, level: LevelComparison) -> str:
    if level.winner is None:
        return name_verdict(level)
    if decides(Data(figures), level):
        return _verdict_on(figures, level)
    return f"{figures.title_of(level.winner)} is ahead"


def _verdict_on(figures: Figures, judged: LevelComparison | Difference) -> str:
    return judged.verdict if judged.winner is None else f"**{figures.title_of(judged.winner)}**"


def make_differences(figures: Figures) -> list[Part]:
    """Return a table for each pair of targets: the second beside the first."""
    rows: dict[tuple[str, ...], list[list[str]]] = {}
    for level in figures.comparisons:
        for difference in level.differences:
            names = tuple(difference.samples)
            values = [show_value(difference.metric, difference.values.get(name)) for name in names]
            samples = " / ".join(show_count(difference.samples[name]) for name in names)
            verdict = _verdict_on(figures, difference) + (f": {difference.because}" if difference.because else "")
            row = [str(level.users), name_metric(difference.metric), *values, show_difference(difference)]
            rows.setdefault(names, []).append([*row, samples, verdict])
    return [
        Part(
            f"{titles[1]} beside {titles[0]}:",
            make_aligned_table(["users", "figure", *titles, "difference (interval)", "samples", "verdict"], found),
        )
        for names, found in rows.items()
        if (titles := [figures.title_of(name) for name in names])
    ]


def _limited(figures: Figures) -> Iterator[tuple[str, Bottleneck]]:
    """Yield what limits each point and each INVALID cell, with its name."""
    for point in figures.points:
        if point.bottleneck:
            yield f"{figures.title_of(point.target)}, {point.users} users", point.bottleneck
    for cell in figures.cells:
        if cell.bottleneck and not cell.valid:
            yield f"{name_cell(figures, cell)} (INVALID)", cell.bottleneck


def make_bottlenecks(figures: Figures) -> str:
    """Return the table of what limits each level, with the shares of the latency that queues take."""
    rows = [
        [name, found.sentence, *(_share(percent) for percent in (found.queue_percent, found.unexplained_percent))]
        for name, found in _limited(figures)
    ]
    return make_aligned_table(["level", "what limits it", "in queues", "in no stage"], rows)


def _share(percent: float | None) -> str:
    return NO_FIGURE if percent is None else f"{show_percent(round(percent, 1))} %"


def read_evidence(figures: Figures) -> Iterator[Evidence]:
    """Yield the sentences that the verdict on each level rests on."""
    for name, found in _limited(figures):
        yield Evidence(name, found.evidence)


def make_stages(figures: Figures) -> str:
    """Return the table of mean stages, with a column for each stage that any endpoint has."""
    parts = [(point, part) for point in figures.points for part in point.endpoints if part.stages]
    names = list(dict.fromkeys(stage.name for _, part in parts for stage in part.stages))
    rows = []
    for point, part in parts:
        spent_ms = {stage.name: stage.avg_ms for stage in part.stages}
        share = NO_FIGURE
        if part.unexplained_ms is not None and part.steady.avg_ms:
            share = f"{show_percent(100 * part.unexplained_ms / part.steady.avg_ms)} %"
        stages = [show_ms(spent_ms.get(name)) for name in names]
        row = [figures.title_of(point.target), str(point.users), part.endpoint, *stages]
        rows.append([*row, show_ms(part.unexplained_ms), show_ms(part.steady.avg_ms), share])
    return make_aligned_table(["target", "users", "endpoint", *names, "outside", "whole", "outside %"], rows)


def make_roles(figures: Figures) -> Iterator[Part]:
    """Yield tables with a column for each role."""
    names = list(dict.fromkeys(role.role for point in figures.points for role in point.roles))
    shown: list[tuple[str, Callable[[RoleFigures], str]]] = [
        ("CPU, mean; 100 % is one core:", lambda role: f"{role.cpu_percent:,.1f} %"),
        ("CPU in the busiest second:", lambda role: f"{role.cpu_max_percent:,.1f} %"),
        (
            "Memory at its most, as the sum of resident sets (pages that processes share count in each of them):",
            lambda role: show_bytes(role.rss_max_bytes or None),
        ),
        ("Processes, and their threads, at their most:", _processes),
    ]
    for heading, show in shown if names else []:
        rows = []
        for point in figures.points:
            by_name = {role.role: show(role) for role in point.roles}
            values = [by_name.get(name, NO_FIGURE) for name in names]
            rows.append([figures.title_of(point.target), str(point.users), *values])
        yield Part(heading, make_aligned_table(["target", "users", *names], rows))


def _processes(role: RoleFigures) -> str:
    if not role.processes:
        return NO_FIGURE
    return f"{role.processes:,} · {role.threads:,}" if role.threads else f"{role.processes:,}"


def make_counters(figures: Figures) -> Iterator[Part]:
    """Yield a table for each target, with a column for each of its cells."""
    for facts in figures.targets:
        cells = [cell for cell in figures.cells if cell.target == facts.name and cell.counters]
        grown: dict[tuple[str, str], dict[int, str]] = {}
        for number, cell in enumerate(cells):
            for counter in cell.counters:
                labels = ", ".join(f"{name}={value}" for name, value in counter.labels.items())
                grown.setdefault((counter.name, labels), {})[number] = _as_given(counter.increase)
        header = [f"{cell.users} users" + (f" ({cell.repetition})" if _repeated(figures) else "") for cell in cells]
        rows = [
            [f"`{name}`", labels or NO_FIGURE, *(values.get(number, NO_FIGURE) for number in range(len(cells)))]
            for (name, labels), values in grown.items()
        ]
        if rows:
            yield Part(f"{facts.title}:", make_aligned_table(["counter", "labels", *header], rows))


def tell_metrics_after(figures: Figures) -> str:
    """Return how long after the load the counters were read."""
    times_s = [cell.metrics_after_s for cell in figures.cells if cell.metrics_after_s is not None]
    if not times_s:
        return "some time"
    first_s, last_s = f"{min(times_s):.0f}", f"{max(times_s):.0f}"
    return f"{first_s} s" if first_s == last_s else f"{first_s} to {last_s} s"


def make_limits(figures: Figures) -> str:
    """Return the table of the objectives in each cell."""
    names = list(dict.fromkeys(result.limit for cell in figures.cells for result in cell.limits))
    rows = []
    for cell in figures.cells:
        results = {result.limit: result for result in cell.limits}
        rows.append([name_cell(figures, cell), *(_met(results.get(name)) for name in names)])
    return make_aligned_table(["cell", *(f"`{name}`" for name in names)], rows) if names else ""


def has_unknown_limits(figures: Figures) -> bool:
    """Return whether an objective is on a figure that is not printed."""
    return any(result.value is None for cell in figures.cells for result in cell.limits)


def _met(result: LimitResult | None) -> str:
    if result is None:
        return NO_FIGURE
    return result.shown if result.met else f"{result.shown} **missed**"


def make_validity(figures: Figures) -> str:
    """Return the table of which cells count, and why others do not."""
    rows = [
        [name_cell(figures, cell), "VALID" if cell.valid else "**INVALID**", "; ".join(cell.reasons) or NO_FIGURE]
        for cell in figures.cells
    ]
    return make_aligned_table(["cell", "verdict", "why"], rows)


def make_cells(figures: Figures) -> str:
    """Return the table of what each cell measured, valid or not."""
    metrics = "requests failures_percent median_ms p95_ms p99_ms rps"
    rows = [
        [
            name_cell(figures, cell),
            show_with_unit(cell.steady_window_s and round(cell.steady_window_s, 1), "s") or NO_FIGURE,
            *_traffic(cell.steady, metrics)[:2],
            _interval(cell.steady),
            *_traffic(cell.steady, metrics)[2:],
            _replicas(cell),
            show_with_unit(cell.ready_after_s and round(cell.ready_after_s, 1), "s") or NO_FIGURE,
            NO_FIGURE if cell.seed is None else str(cell.seed),
        ]
        for cell in figures.cells
    ]
    header = ["cell", "window", "requests", "failures %", "interval", "median ms", "p95 ms", "p99 ms", "RPS"]
    return make_aligned_table([*header, "replicas", "ready after", "seed"], rows)


def _replicas(cell: CellFigures) -> str:
    if cell.replicas_asked is None:
        return NO_FIGURE
    return f"{NO_FIGURE if cell.replicas_found is None else cell.replicas_found} of {cell.replicas_asked}"


def name_cell(figures: Figures, cell: CellFigures) -> str:
    """Return what a cell is called: its target, its users, and its repetition where there are several."""
    repetition = f", repetition {cell.repetition}" if _repeated(figures) else ""
    return f"{figures.title_of(cell.target)}, {cell.users} users{repetition}"


def _repeated(figures: Figures) -> bool:
    return any(cell.repetition > 1 for cell in figures.cells)


def show_with_unit(value: float | None, unit: str) -> str:
    """Return a number with its unit; nothing where there is no number."""
    return "" if value is None else f"{value:g} {unit}"
