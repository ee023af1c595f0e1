"""The report as Markdown: the layout stands in templates/report.md.j2, its tables are made here.

Called by `report`. Every number comes from the figures; nothing is computed here but how it is written.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from loadtest.reporting.caching import DISTINCT, OFF
from loadtest.reporting.choice import Data, decides
from loadtest.reporting.differences import (
    FEW_FAILURES_POINTS,
    LARGE_DIFFERENCE_PERCENT,
    LARGE_FAILURES_POINTS,
    LEAST_DIFFERENCE_PERCENT,
    LEAST_FAILURES_POINTS,
    LEAST_REPETITIONS,
)
from loadtest.reporting.figures import (
    NO_FIGURE,
    BaselinePoint,
    Bottleneck,
    CellFigures,
    Difference,
    EndpointFigures,
    Figures,
    LevelComparison,
    LimitResult,
    PointFigures,
    RoleFigures,
    Traffic,
    name_metric,
    show_bytes,
    show_count,
    show_difference,
    show_ms,
    show_percent,
    show_rps,
    show_value,
)
from loadtest.reporting.intervals import LEAST_SAMPLES
from loadtest.reporting.markdown import escape, make_aligned_table

PICTURES = {
    "distinct": "Every picture is a different file, so no cache of answers can help.",
    "repeated": "The same picture files are sent again and again, so a cache may answer.",
}
"""What the workload's option `pictures` means to a reader."""

_OPEN_LOOP = (
    "Latency from the scheduled time, as whoever arrived then waits, and from the moment of sending, as a closed loop "
    "counts it; what the second lacks is coordinated omission:"
)


@dataclass(frozen=True)
class _Part:
    """A table and what stands above it."""

    heading: str
    table: str


@dataclass(frozen=True)
class _Result:
    """The tables of one target."""

    title: str
    parts: Sequence[_Part]


@dataclass(frozen=True)
class _Evidence:
    """What a verdict rests on, and the level or cell that it is of."""

    heading: str
    sentences: Sequence[str]


@dataclass(frozen=True)
class _Picture:
    """A picture's file name without its ending, and what it shows."""

    name: str
    title: str


def render_markdown(figures: Figures, plots: Sequence[str] = ()) -> str:
    """Return the report, with links to those of the `plots` (file names without `.svg`) that were drawn."""
    # Markdown, not HTML: what needs escaping is escaped by `escape`, and the page lets no HTML through.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("loadtest.reporting"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["text"] = escape
    return environment.get_template("report.md.j2").render(figures=figures, **_content(figures, plots))


def _content(figures: Figures, plots: Sequence[str]) -> dict[str, Any]:
    test = figures.test
    return {
        "verdict": _verdict(figures),
        "system": _system(figures.machine or {}),
        "baseline_machine": _system(figures.baseline.machine) if figures.baseline else "",
        "test": _test(figures),
        "workload": _endpoints(test.get("workload") or {}),
        "pictures": PICTURES.get(str(_options(figures).get("pictures")), ""),
        "random_weights": " and ".join(facts.title for facts in figures.targets if _has_random_weights(facts.about)),
        "caches": list(_caches(figures)),
        "about": _about(figures),
        "order": ", ".join(test.get("order") or []),
        "results": [_result(figures, facts.name, facts.title) for facts in figures.targets],
        "comparison": _comparison(figures),
        "differences": _differences(figures),
        "thresholds": {
            "least_percent": f"{LEAST_DIFFERENCE_PERCENT:g}",
            "large_percent": f"{LARGE_DIFFERENCE_PERCENT:g}",
            "least_points": f"{LEAST_FAILURES_POINTS:g}",
            "few_points": f"{FEW_FAILURES_POINTS:g}",
            "large_points": f"{LARGE_FAILURES_POINTS:g}",
            "repetitions": LEAST_REPETITIONS,
        },
        "least_samples": [str(least) for least in LEAST_SAMPLES.values()],
        "unknown_limits": any(result.value is None for cell in figures.cells for result in cell.limits),
        "pictures_drawn": [_Picture(name, _picture_title(name)) for name in plots],
        "bottlenecks": _bottlenecks(figures),
        "bottleneck_evidence": list(_bottleneck_evidence(figures)),
        "stages": _stages(figures),
        "roles": list(_roles(figures)),
        "counters": list(_counters(figures)),
        "metrics_after": _metrics_after(figures),
        "limits": _limits(figures),
        "validity": _validity(figures),
        "cells": _cells(figures),
        "notes": _notes(figures),
        "think_time": any(point.think_time_limit_rps for point in figures.points),
        "settle_s": f"{test.get('settle_s', 0):g}",
    }


def _verdict(figures: Figures) -> str:
    invalid = sum(not cell.valid for cell in figures.cells)
    told = [f"{len(figures.cells)} cells, {f'{invalid} INVALID' if invalid else 'all VALID'}"]
    if _has_limits(figures):
        told.append("all objectives met" if figures.all_limits_met else "objectives missed")
    if figures.dates:
        told.append(f"measured on {' and '.join(figures.dates)} (UTC)")
    return "; ".join(told) + "."


def _system(machine: Mapping[str, Any]) -> str:
    names = {
        "cpu_model": "CPU",
        "cpu": "CPU",
        "cores": "cores",
        "usable_cores": "cores that the test may use",
        "ram_bytes": "memory",
        "os": "operating system",
        "python": "Python",
        "tool": "tool",
    }
    if machine.get("usable_cores") == machine.get("cores"):
        machine = {**machine, "usable_cores": None}
    rows = [
        [title, show_bytes(machine[key]) if key == "ram_bytes" else str(machine[key])]
        for key, title in names.items()
        if machine.get(key) is not None
    ]
    rows += [[name, version or "not installed"] for name, version in (machine.get("packages") or {}).items()]
    if machine.get("git_commit"):
        changed = ", with changed files" if machine.get("git_changed") else ""
        rows.append(["git commit", f"{machine['git_commit']}{changed}"])
    return make_aligned_table(["what", "value"], rows)


def _test(figures: Figures) -> str:
    return make_aligned_table(["what", "value"], [[name, value] for name, value in _test_rows(figures) if value])


def _test_rows(figures: Figures) -> Iterator[tuple[str, str]]:
    test, workload = figures.test, figures.test.get("workload") or {}
    yield "targets", ", ".join(facts.title for facts in figures.targets)
    for name, start in (test.get("start") or {}).items():
        yield f"started by ({name})", f"`{start.replace('{python}', 'python')}`" if start else "ran already"
    yield "users", ", ".join(str(users) for users in test.get("users") or [])
    yield "spawn rate", _with_unit(test.get("spawn_rate_per_s"), "users per second")
    yield "duration of a cell", _with_unit(test.get("duration_s"), "s, ramp included")
    yield "steady window begins", _with_unit(test.get("settle_s"), "s after the last user has come")
    yield "wait for answers due", _with_unit(test.get("drain_s"), "s at most, after the load")
    yield "other work allowed", _with_unit(test.get("most_other_cpu_percent"), "% of one core at most")
    yield (
        "stolen CPU allowed",
        _with_unit(test.get("most_stolen_cpu_percent"), "% of one core at most"),
    )
    yield "late generator allowed", _with_unit(test.get("most_generator_late_percent"), "% of the time at most")
    yield "think time", _think_time(workload)
    yield "arrivals", _arrivals(workload)
    yield "rate of a user", _with_unit(workload.get("rate_per_user_rps"), "requests per second")
    yield "warm-up", _warm_up(test.get("warmup") or {})
    yield "repetitions", str(test.get("repetitions", ""))
    yield "seed", str(test.get("seed", ""))
    yield "workload", f"`{workload['locustfile']}`" if "locustfile" in workload else ""
    yield "its options", ", ".join(f"{name}: {value}" for name, value in _options(figures).items())


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:g} {unit}"


def _think_time(workload: Mapping[str, Any]) -> str:
    wait_s = workload.get("wait_s")
    return f"{wait_s[0]:g} to {wait_s[1]:g} s between two requests of a user, uniform" if wait_s else ""


def _arrivals(workload: Mapping[str, Any]) -> str:
    if workload.get("rate_rps") is None:
        return ""
    how = "at random (Poisson)" if workload.get("arrivals") == "poisson" else "evenly"
    return f"open loop: {workload['rate_rps']:g} requests per second, {how}; at most as many under way as users"


def _warm_up(warmup: Mapping[str, Any]) -> str:
    if not warmup.get("duration_s"):
        return "none" if warmup else ""
    return f"{warmup['users']} users for {warmup['duration_s']:g} s, in no figure"


def _endpoints(workload: Mapping[str, Any]) -> str:
    endpoints = workload.get("endpoints") or {}
    total = sum(endpoint["weight"] for endpoint in endpoints.values())
    rows = [
        [name, f"`{endpoint['request']}`", f"{show_percent(100 * endpoint['weight'] / total)} %"]
        for name, endpoint in endpoints.items()
    ]
    return make_aligned_table(["endpoint", "request", "share of the users' choices"], rows)


def _options(figures: Figures) -> Mapping[str, Any]:
    return (figures.test.get("workload") or {}).get("options") or {}


def _has_random_weights(about: object) -> bool:
    if isinstance(about, dict):
        return about.get("weights") == "random" or any(_has_random_weights(part) for part in about.values())
    return isinstance(about, list) and any(_has_random_weights(part) for part in about)


def _caches(figures: Figures) -> Iterator[_Part]:
    """Yield, for each target whose cache was on, what it is called and what that makes of the figures."""
    for facts in figures.targets:
        if facts.cache in (None, OFF):
            continue
        if facts.cached:
            meaning = "this plan measures it, and its latencies and throughput hold for pictures that were sent before."
        elif _options(figures).get("pictures") == DISTINCT:
            meaning = "it had no answer, as every picture was another one; the time for looking is in the figures."
        else:
            meaning = "the figures may be those of the cache instead of the work; see the validity of the cells."
        shares = [
            f"{show_percent(round(cell.hit_percent, 1))} % at {cell.users} users"
            for cell in figures.cells
            if cell.target == facts.name and cell.hit_percent is not None
        ]
        told = f" Of the answers that it counted, from the cache: {', '.join(shares)}." if shares else ""
        yield _Part(f"Prediction cache on ({facts.cache})", f"{facts.title}: {meaning}{told}")


def _about(figures: Figures) -> str:
    """Return what each target says of itself, beside each other."""
    told: dict[tuple[str, str], dict[str, str]] = {}
    for facts in figures.targets:
        for path, answer in facts.about.items():
            for name, value in answer.items() if isinstance(answer, dict) else [("", answer)]:
                told.setdefault((path, name), {})[facts.name] = _plain(value)
    rows = [
        [f"`{path}`", name, *(values.get(facts.name, NO_FIGURE) for facts in figures.targets)]
        for (path, name), values in told.items()
    ]
    return make_aligned_table(["path", "key", *(facts.title for facts in figures.targets)], rows)


def _plain(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(part) for part in value)
    return NO_FIGURE if value is None else str(value)


def _result(figures: Figures, target: str, title: str) -> _Result:
    points = [point for point in figures.points if point.target == target]
    rows = figures.baseline.points if figures.baseline else []
    levels = {point.users for point in points}
    published = {row.users: row for row in rows if row.target == target and row.users in levels}
    several = any(point.repetitions > 1 for point in points)
    parts = []
    if any(point.steady for point in points):
        seconds = ", ".join(f"{point.steady_window_s:,.0f} s" for point in points if point.steady_window_s is not None)
        repeated = ", repetitions pooled" if several else ""
        parts.append(_Part(f"All endpoints, steady window ({seconds}{repeated}):", _steady(points, published)))
        parts += [
            _Part(f"{endpoint}, steady window:", _endpoint(points, published, endpoint))
            for endpoint in figures.endpoints
        ]
    if any(point.scheduled for point in points):
        parts.append(_Part(_OPEN_LOOP, _open_loop(figures, points)))
    parts.append(_Part("Whole runs, ramp included:", _whole_runs(figures, points, published)))
    return _Result(title, parts)


def _steady(points: list[PointFigures], published: Mapping[int, BaselinePoint]) -> str:
    header = ["users", "requests", "failures %", "interval", "median ms", "p95 ms", "p99 ms", "RPS"]
    header += ["think-time limit RPS"] if points[0].think_time_limit_rps else []
    header += ["published failures %", "published median ms", "published RPS"] if published else []
    rows = []
    for point in points:
        row = [_users(point), *_traffic(point.steady, "requests failures_percent median_ms p95_ms p99_ms rps")]
        row.insert(3, _interval(point.steady))
        row += [show_rps(point.think_time_limit_rps)] if points[0].think_time_limit_rps else []
        beside = published.get(point.users)
        given = [getattr(beside, name, None) for name in ("failures_percent", "median_ms", "rps")]
        rows.append(row + [_as_given(value) for value in given] if published else row)
    return make_aligned_table(header, rows)


def _endpoint(points: list[PointFigures], published: Mapping[int, BaselinePoint], endpoint: str) -> str:
    header = ["users", "requests", "failures %", "median ms", "avg ms", "p95 ms", "p99 ms"]
    header += ["published median ms", "published avg ms"] if published else []
    rows = []
    for point in points:
        part = _part_of(point, endpoint)
        metrics = "requests failures_percent median_ms avg_ms p95_ms p99_ms"
        row = [str(point.users), *_traffic(part.steady if part else None, metrics)]
        beside = published[point.users].endpoints.get(endpoint, {}) if point.users in published else {}
        rows.append(row + [_as_given(beside.get(name)) for name in ("median_ms", "avg_ms")] if published else row)
    return make_aligned_table(header, rows)


def _open_loop(figures: Figures, points: list[PointFigures]) -> str:
    """Return the latencies from the scheduled time beside those from the moment of sending."""
    metrics = "median_ms p95_ms p99_ms max_ms"
    header = ["users", "endpoint", *(f"{name} ms, scheduled" for name in ("median", "p95", "p99", "max"))]
    header += [f"{name} ms, sent" for name in ("median", "p95", "p99", "max")]
    rows = []
    for point in points:
        rows.append([str(point.users), "all", *_traffic(point.scheduled, metrics), *_traffic(point.steady, metrics)])
        for part in point.endpoints if len(figures.endpoints) > 1 else []:
            beside = [*_traffic(part.scheduled, metrics), *_traffic(part.steady, metrics)]
            rows.append([str(point.users), part.endpoint, *beside])
    return make_aligned_table(header, rows)


def _whole_runs(figures: Figures, points: list[PointFigures], published: Mapping[int, BaselinePoint]) -> str:
    header = ["users", "endpoint", "requests", "failures", "failures %", "median ms", "avg ms", "p95 ms", "p99 ms"]
    header += ["max ms", "RPS", *(["published requests"] if published else [])]
    metrics = "requests failures failures_percent median_ms avg_ms p95_ms p99_ms max_ms rps"
    rows = []
    for point in points:
        beside = [show_count(published[point.users].requests if point.users in published else None)]
        rows.append([str(point.users), "all", *_traffic(point.whole_run, metrics), *(beside if published else [])])
        for endpoint in figures.endpoints:
            part = _part_of(point, endpoint)
            row = [str(point.users), endpoint, *_traffic(part.whole_run if part else None, metrics)]
            rows.append([*row, *([NO_FIGURE] if published else [])])
    return make_aligned_table(header, rows)


def _users(point: PointFigures) -> str:
    if point.steady is None:
        return f"{point.users} (no valid cell)"
    return f"{point.users} ({point.repetitions}×)" if point.repetitions > 1 else str(point.users)


def _as_given(value: float | None) -> str:
    """Return a published figure with as many digits as it was published with."""
    return NO_FIGURE if value is None else f"{value:,.10g}"


def _traffic(traffic: Traffic | None, metrics: str) -> list[str]:
    return [_show(metric, getattr(traffic, metric, None)) for metric in metrics.split()]


def _show(metric: str, value: float | None) -> str:
    """Return a metric's value for a table whose header has the unit."""
    if metric.endswith("_ms"):
        return show_ms(value)
    if metric.endswith("_percent"):
        return show_percent(value)
    return show_rps(value) if metric == "rps" else show_count(value)


def _interval(traffic: Traffic | None) -> str:
    """Return the interval of a share of failures, in percent."""
    if traffic is None or traffic.failures_interval_percent is None:
        return NO_FIGURE
    return " to ".join(f"{end:.2g}" if end < 99.5 else "100" for end in traffic.failures_interval_percent)  # noqa: PLR2004


def _part_of(point: PointFigures, endpoint: str) -> EndpointFigures | None:
    return next((part for part in point.endpoints if part.endpoint == endpoint), None)


def _comparison(figures: Figures) -> str:
    rows = [[str(level.users), _verdict_at(figures, level), level.because] for level in figures.comparisons]
    return make_aligned_table(["users", "verdict", "why"], rows)


def _verdict_at(figures: Figures, level: LevelComparison) -> str:
    if level.winner is None or decides(Data(figures), level):
        return _verdict_on(figures, level)
    return f"{_title(figures, level.winner)} is ahead"


def _verdict_on(figures: Figures, judged: LevelComparison | Difference) -> str:
    return judged.verdict if judged.winner is None else f"**{_title(figures, judged.winner)}**"


def _differences(figures: Figures) -> list[_Part]:
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
        _Part(
            f"{titles[1]} beside {titles[0]}:",
            make_aligned_table(["users", "figure", *titles, "difference (interval)", "samples", "verdict"], found),
        )
        for names, found in rows.items()
        if (titles := [_title(figures, name) for name in names])
    ]


def _picture_title(name: str) -> str:
    titles = {
        "throughput": "Throughput, by number of users",
        "failures": "Failed requests, by number of users",
        "cpu": "CPU in use, by role",
        "stages": "Where the time of a right answer goes",
    }
    return titles.get(name, f"Latency of {name.removeprefix('latency_')}, by number of users")


def _limited(figures: Figures) -> Iterator[tuple[str, Bottleneck]]:
    """Yield what limits each point and each INVALID cell, with its name."""
    for point in figures.points:
        if point.bottleneck:
            yield f"{_title(figures, point.target)}, {point.users} users", point.bottleneck
    for cell in figures.cells:
        if cell.bottleneck and not cell.valid:
            yield f"{_cell(figures, cell)} (INVALID)", cell.bottleneck


def _bottlenecks(figures: Figures) -> str:
    rows = [
        [name, found.sentence, *(_share(percent) for percent in (found.queue_percent, found.unexplained_percent))]
        for name, found in _limited(figures)
    ]
    return make_aligned_table(["level", "what limits it", "in queues", "in no stage"], rows)


def _share(percent: float | None) -> str:
    return NO_FIGURE if percent is None else f"{show_percent(round(percent, 1))} %"


def _bottleneck_evidence(figures: Figures) -> Iterator[_Evidence]:
    for name, found in _limited(figures):
        yield _Evidence(name, found.evidence)


def _stages(figures: Figures) -> str:
    parts = [(point, part) for point in figures.points for part in point.endpoints if part.stages]
    names = list(dict.fromkeys(stage.name for _, part in parts for stage in part.stages))
    rows = []
    for point, part in parts:
        spent_ms = {stage.name: stage.avg_ms for stage in part.stages}
        share = NO_FIGURE
        if part.unexplained_ms is not None and part.steady.avg_ms:
            share = f"{show_percent(100 * part.unexplained_ms / part.steady.avg_ms)} %"
        stages = [show_ms(spent_ms.get(name)) for name in names]
        row = [_title(figures, point.target), str(point.users), part.endpoint, *stages]
        rows.append([*row, show_ms(part.unexplained_ms), show_ms(part.steady.avg_ms), share])
    return make_aligned_table(["target", "users", "endpoint", *names, "outside", "whole", "outside %"], rows)


def _notes(figures: Figures) -> list[str]:
    """Return each note once, with the cells that it is of."""
    cells: dict[str, list[str]] = {}
    for cell in figures.cells:
        for note in cell.notes:
            cells.setdefault(note, []).append(_cell(figures, cell))
    every = len(figures.cells)
    return [
        f"{'all cells' if len(named) == every > 1 else ' and '.join(named)}: {note}" for note, named in cells.items()
    ]


def _roles(figures: Figures) -> Iterator[_Part]:
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
            rows.append([_title(figures, point.target), str(point.users), *values])
        yield _Part(heading, make_aligned_table(["target", "users", *names], rows))


def _processes(role: RoleFigures) -> str:
    if not role.processes:
        return NO_FIGURE
    return f"{role.processes:,} · {role.threads:,}" if role.threads else f"{role.processes:,}"


def _counters(figures: Figures) -> Iterator[_Part]:
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
            yield _Part(f"{facts.title}:", make_aligned_table(["counter", "labels", *header], rows))


def _metrics_after(figures: Figures) -> str:
    times_s = [cell.metrics_after_s for cell in figures.cells if cell.metrics_after_s is not None]
    if not times_s:
        return "some time"
    first_s, last_s = f"{min(times_s):.0f}", f"{max(times_s):.0f}"
    return f"{first_s} s" if first_s == last_s else f"{first_s} to {last_s} s"


def _limits(figures: Figures) -> str:
    names = list(dict.fromkeys(result.limit for cell in figures.cells for result in cell.limits))
    rows = []
    for cell in figures.cells:
        results = {result.limit: result for result in cell.limits}
        rows.append([_cell(figures, cell), *(_met(results.get(name)) for name in names)])
    return make_aligned_table(["cell", *(f"`{name}`" for name in names)], rows) if names else ""


def _met(result: LimitResult | None) -> str:
    if result is None:
        return NO_FIGURE
    value = show_value(result.limit.split(maxsplit=1)[0], result.value)
    return value if result.met else f"{value} **missed**"


def _has_limits(figures: Figures) -> bool:
    return any(cell.limits for cell in figures.cells)


def _validity(figures: Figures) -> str:
    rows = [
        [_cell(figures, cell), "VALID" if cell.valid else "**INVALID**", "; ".join(cell.reasons) or NO_FIGURE]
        for cell in figures.cells
    ]
    return make_aligned_table(["cell", "verdict", "why"], rows)


def _cells(figures: Figures) -> str:
    metrics = "requests failures_percent median_ms p95_ms p99_ms rps"
    rows = [
        [
            _cell(figures, cell),
            _with_unit(cell.steady_window_s and round(cell.steady_window_s, 1), "s") or NO_FIGURE,
            *_traffic(cell.steady, metrics)[:2],
            _interval(cell.steady),
            *_traffic(cell.steady, metrics)[2:],
            _replicas(cell),
            _with_unit(cell.ready_after_s and round(cell.ready_after_s, 1), "s") or NO_FIGURE,
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


def _cell(figures: Figures, cell: CellFigures) -> str:
    repetition = f", repetition {cell.repetition}" if _repeated(figures) else ""
    return f"{_title(figures, cell.target)}, {cell.users} users{repetition}"


def _repeated(figures: Figures) -> bool:
    return any(cell.repetition > 1 for cell in figures.cells)


def _title(figures: Figures, target: str) -> str:
    return next((facts.title for facts in figures.targets if facts.name == target), target)
