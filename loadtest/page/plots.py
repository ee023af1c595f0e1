"""Which pictures a report has, and what is in them. Called by `report`; `drawing` draws them."""

import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, count, cycle
from math import fsum

from loadtest.figures.figures import (
    BaselinePoint,
    Figures,
    PointFigures,
    show_ms,
    show_percent,
)
from loadtest.page.drawing import MARKERS, REST, Bar, BarPicture, Columns, Picture, Ranges, draw, shorten

TITLES = {
    "throughput": "Throughput, by number of users",
    "failures": "Failed requests, by number of users",
    "published": "The published figures, on other hardware",
    "cpu": "CPU in use, by role",
    "stages": "Where the time of a right answer goes",
}
"""Of each picture, by its name; those of latencies are named for their endpoints."""

OUTSIDE = "outside the service's clock"
MACHINE = "machine"
STOLEN = "stolen"
STAGES = (
    "#4477aa", "#ccbb44", "#aa3377", "#66ccee", "#228833", "#ee6677", "#997700", "#ee99aa", "#44aa99", "#994455",
)  # fmt: skip
"""Paul Tol's "bright" colours and some of his others, light after dark: neighbours differ on a grey print too."""
ROLES = ("#77aadd", "#ee8866", "#44bb99", "#eedd88", "#ffaabb", "#aaaa00", "#99ddff", "#bbcc33")
"""Paul Tol's "light" colours: no role has the colour of a stage."""
_KNOWN_STAGES = ("upload", "decode", "queue", "inference", "answer", "cache")
_KNOWN_ROLES = ("classifier", "users", "ingress", "ray_system", "load_generator", "kit", "database", "redis")


def draw_plots(figures: Figures) -> dict[str, str]:
    """Return SVG text by name, in reading order, of the pictures for which there is data.

    The names, good for files: throughput, latency_ENDPOINT, failures, published, cpu, stages. The same figures give
    the same text. No picture of failures is made where nothing failed.
    """
    plots: dict[str, str] = {}
    for make in (_throughput, _latencies, _failures, _published, _cpu, _stages):
        for picture in make(figures):
            name = _free_name(picture.name, plots)
            plots[name] = draw(replace(picture, name=name))
    return plots


def title_latency(endpoint: str) -> str:
    """Return the title of the picture of an endpoint's latencies."""
    return f"Latency of {endpoint}, by number of users"


def _throughput(figures: Figures) -> Iterator[Picture]:
    levels = _levels(figures)
    measured = _measured(figures, "rps")
    if measured:
        limits = {point.users: point.think_time_limit_rps for point in figures.points if point.steady}
        marks = [limits.get(users) for users in levels] if any(limits.values()) else []
        panel = Columns("requests per second", _names(levels), measured, marks)
        yield Picture("throughput", TITLES["throughput"], [panel], _titles(figures), mark_label="think-time limit N/Z")


def _latencies(figures: Figures) -> Iterator[Picture]:
    for endpoint in figures.endpoints:
        measured = {
            target: found
            for target, points in _points_by_target(figures).items()
            if any(found := [_steady_ms(points.get(users), endpoint) for users in _levels(figures)])
        }
        if measured:
            panel = Ranges("ms", _names(_levels(figures)), measured)
            name = re.sub(r"[^A-Za-z0-9-]+", "_", endpoint).strip("_")[:80]  # for a file and a link
            yield Picture(f"latency_{name}", title_latency(shorten(endpoint, 30)), [panel], _titles(figures))


def _failures(figures: Figures) -> Iterator[Picture]:
    measured = _measured(figures, "failures_percent")
    if any(any(values) for values in measured.values()):
        panel = Columns("percent of requests", _names(_levels(figures)), measured)
        yield Picture("failures", TITLES["failures"], [panel], _titles(figures))


def _published(figures: Figures) -> Iterator[Picture]:
    """Yield the published figures, as far as our numbers of users go: in a picture of their own."""
    ours = _levels(figures)
    rows = figures.baseline.points if figures.baseline and ours else []
    beside = {(row.target, row.users): row for row in rows if ours[0] <= row.users <= ours[-1]}
    levels = sorted({users for _, users in beside})
    values: dict[str, Callable[[BaselinePoint], float | None]] = {
        "requests per second": lambda row: row.rps,
        "failures, percent of requests": lambda row: row.failures_percent,
    }
    values |= {f"{endpoint} median, ms": partial(_published_ms, endpoint) for endpoint in figures.endpoints}
    panels = []
    for unit, value in values.items():
        found = {
            target: [value(row) if (row := beside.get((target, users))) else None for users in levels]
            for target in (facts.name for facts in figures.targets)
        }
        known = {target: numbers for target, numbers in found.items() if _is_known(numbers)}
        panels += [Columns(unit, _names(levels), known)] if known else []
    if panels:
        # By what it shares with the target beside it: threads, for one, the published report does not tell.
        replicas = {facts.name: facts.replicas or 0 for facts in figures.targets}
        names = {name: f"published: {count} replica{'s' * (count != 1)}" for name, count in replicas.items()}
        yield Picture("published", TITLES["published"], panels, names)


def _cpu(figures: Figures) -> Iterator[BarPicture]:
    bars = []
    for point in _in_reading_order(figures):
        used = {role.role: role.cpu_percent for role in point.roles}
        mark = used.pop(MACHINE, None)
        used.pop(STOLEN, None)  # not work of this machine
        if used:
            label = f"{_point_label(figures, point)}: {show_percent(fsum(used.values()))} %"
            bars.append(Bar(str(point.users), label, used, mark))
    if bars:
        colours = _colours(dict.fromkeys(name for bar in bars for name in bar.parts), _KNOWN_ROLES, ROLES)
        plain = {name: name.replace("_", " ") for name in colours}
        bars = [replace(bar, parts={plain[name]: part for name, part in bar.parts.items()}) for bar in bars]
        yield BarPicture(
            "cpu", TITLES["cpu"], {"": bars}, "mean of the steady window; 100 % is one core",
            {plain[name]: colour for name, colour in colours.items()}, "whole machine", _all_cores(figures, bars),
        )  # fmt: skip


def _all_cores(figures: Figures, bars: Sequence[Bar]) -> tuple[str, float] | None:
    """Return where all cores are in use, unless a line there would leave the bars less than a fifth of the width."""
    cores = (figures.machine or {}).get("cores")
    used = max(fsum(bar.parts.values()) for bar in bars)
    return (f"all {cores} cores", 100 * cores) if cores and 100 * cores <= 5 * used else None


def _stages(figures: Figures) -> Iterator[BarPicture]:
    panels: dict[str, list[Bar]] = {}
    for endpoint in figures.endpoints:
        for point in _in_reading_order(figures):
            found = point.part(endpoint)
            if found and found.stages:
                parts = {stage.name: max(0.0, stage.avg_ms) for stage in found.stages}
                parts[OUTSIDE] = max(0.0, found.unexplained_ms or 0.0)
                label = f"{_point_label(figures, point)}: {show_ms(fsum(parts.values()))} ms"
                panels.setdefault(shorten(endpoint, 60), []).append(Bar(str(point.users), label, parts))
    if panels:
        names = dict.fromkeys(name for bars in panels.values() for bar in bars for name in bar.parts)
        del names[OUTSIDE]
        colours = _colours(names, _KNOWN_STAGES, STAGES) | {OUTSIDE: REST}
        yield BarPicture("stages", TITLES["stages"], panels, "mean, ms", colours)


def _colours(names: Iterable[str], known: Sequence[str], colours: Sequence[str]) -> dict[str, str]:
    """Return a colour by name: a known name has the same one in every report, others have it in every picture."""
    names = [*names]
    fixed = {name: colour for name, colour in zip(known, colours, strict=False) if name in names}
    free = [colour for colour in colours if colour not in fixed.values()]
    others = dict(zip(sorted({*names} - fixed.keys()), cycle(free or colours), strict=False))
    return {name: (fixed | others)[name] for name in names}


def _measured(figures: Figures, metric: str) -> dict[str, list[float | None]]:
    """Return the value in the steady window at each level, for each target that has one."""
    found = {
        target: [getattr(points[users].steady, metric, None) if users in points else None for users in _levels(figures)]
        for target, points in _points_by_target(figures).items()
    }
    return {target: numbers for target, numbers in found.items() if _is_known(numbers)}


def _is_known(values: Sequence[float | None]) -> bool:
    return any(value is not None for value in values)


def _points_by_target(figures: Figures) -> dict[str, dict[int, PointFigures]]:
    """Return the points of each target by users."""
    return {
        target: {point.users: point for point in figures.points if point.target == target}
        for target in _titles(figures)
    }


def _levels(figures: Figures) -> list[int]:
    return sorted({point.users for point in figures.points if point.steady})


def _names(levels: Sequence[int]) -> list[str]:
    return [f"{users:,}" for users in levels]


def _titles(figures: Figures) -> dict[str, str]:
    """Return what each target is called, in the order in which the report introduces them."""
    titles = {target.name: target.title for target in figures.targets}
    return titles | {point.target: point.target for point in figures.points if point.target not in titles}


def _in_reading_order(figures: Figures) -> list[PointFigures]:
    order = [*_titles(figures)]
    return sorted(figures.points, key=lambda point: (point.users, order.index(point.target)))


def _point_label(figures: Figures, point: PointFigures) -> str:
    users = f"{point.users:,} user{'s' * (point.users != 1)}"
    titles = _titles(figures)
    return f"{users}, {shorten(titles[point.target], 44)}" if len(titles) > 1 else users


def _published_ms(endpoint: str, row: BaselinePoint) -> float | None:
    return row.endpoints.get(endpoint, {}).get("median_ms")


def _steady_ms(point: PointFigures | None, endpoint: str) -> dict[str, float]:
    """Return the percentiles that are known."""
    found = point.part(endpoint) if point else None
    values = {name: getattr(found.judged, f"{name}_ms", None) if found else None for name in MARKERS}
    return {name: value for name, value in values.items() if value is not None}


def _free_name(name: str, taken: Container[str]) -> str:
    return next(free for free in chain([name], (f"{name}_{number}" for number in count(2))) if free not in taken)
