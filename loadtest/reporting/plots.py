"""Draws the pictures of a report as SVG. Called by `report`; the only place that imports matplotlib.

A picture has its light colours as plain attributes and a style sheet that exchanges them on a dark screen, so the
same text serves as a file beside the Markdown and inlined into the page. It knows nothing of either.
"""

import io
import re
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, pairwise
from math import ceil, floor, fsum, inf, log10
from typing import Any
from xml.etree import ElementTree as ET

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from loadtest.reporting.figures import (
    BaselinePoint,
    EndpointFigures,
    Figures,
    PointFigures,
    show_count,
    show_ms,
    show_percent,
)

PAPER, INK, MUTED, GRID, PUBLISHED = "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#818b98"
TARGETS = {"#0072b2": "#56b4e9", "#d55e00": "#ff8f4a", "#007a5a": "#2bd4a4", "#a3508a": "#e08fc4"}
"""Okabe and Ito's colours, darkened to stand out from white; on a dark screen, lightened."""
PARTS = ("#4477aa", "#ccbb44", "#aa3377", "#66ccee", "#228833", "#ee6677")
"""Paul Tol's "bright" colours, light after dark: neighbours in a bar differ on a grey print too."""
REST = "#bbbbbb"
DARK = {
    PAPER: "#0d1117",
    INK: "#e6edf3",
    MUTED: "#9198a1",
    GRID: "#30363d",
    PUBLISHED: "#7d8590",
    REST: "#6e7681",
    **TARGETS,
}
"""What a dark screen shows instead of a colour; the others serve on both."""

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
PERCENTILES = {"median": "median_ms", "p95": "p95_ms", "p99": "p99_ms"}
OUTSIDE = "outside the service's clock"
MACHINE = "machine"
STOLEN = "stolen"

_WIDTH = 520  # of the viewBox: letters of 12 units can still be read when a phone makes 336 px of it
_WIDE_DECADES = 3
_MARKERS = (("o", True), ("s", False), ("^", True), ("D", False))  # filled or hollow: one shows inside the other
_HATCHES = ("", "///", "", "\\\\\\", "---", "|||", "xx")
_DASHED: dict[str, Any] = {"color": INK, "linestyle": (0, (5, 3)), "linewidth": 1.2}
_MARK: dict[str, Any] = {"color": INK, "linestyle": "none", "marker": "|", "markersize": 20, "markeredgewidth": 2}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"#([\w-]+)")
_NOT_XML = re.compile(r"[^\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DRAWING: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": 72,
    "figure.facecolor": PAPER,
    "figure.titlesize": 15,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",  # comes with matplotlib and is wide: what fits in it fits in the viewer's font
    "font.size": 12,
    "grid.color": GRID,
    "hatch.linewidth": 1.2,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "loadtest",
    "text.color": INK,
    "text.parse_math": False,  # a name may have dollar signs
    "xtick.color": MUTED,
    "xtick.major.pad": 6,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class _Line:
    label: str
    points: list[tuple[int, float]]
    """Users and value."""
    style: dict[str, Any]


@dataclass(frozen=True)
class _Bar:
    users: int
    label: str
    parts: dict[str, float]
    """By name, from left to right."""
    mark: float | None = None
    """A value marked on the bar."""


@dataclass(frozen=True)
class _Picture:
    name: str
    title: str
    figure: Figure


def draw_plots(figures: Figures) -> dict[str, str]:
    """Return SVG text by name, in reading order, of the pictures for which there is data.

    The names, good for files: throughput, latency_ENDPOINT, failures, cpu, stages. The same figures give the same text.
    """
    with style.context(["default", _DRAWING]), warnings.catch_warnings():
        # Our font only measures the text; the viewer's font draws it.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        plots: dict[str, str] = {}
        for picture in _pictures(figures):
            name = _free_name(picture.name, plots)
            plots[name] = _as_svg(picture, name)
        return plots


def draw_overload(title: str, levels: Iterable[tuple[float, float, float]]) -> str:
    """Return SVG text: right answers and refusals a second for each (asked, right, refused) a second."""
    levels = sorted(levels)
    colours = [*TARGETS]
    lines = [
        _Line(label, [(round(level[0]), level[number]) for level in levels], {"color": colour, "marker": "o"})
        for number, (label, colour) in enumerate(zip(("right answers", "refusals"), colours, strict=False), 1)
    ]
    with style.context(["default", _DRAWING]):
        asked = [round(level[0]) for level in levels]
        figure = _line_figure(title, {"per second": lines}, asked, across="asked per second")
        return _as_svg(_Picture("overload", title, figure), "overload")


def _pictures(figures: Figures) -> Iterator[_Picture]:
    yield from _throughput(figures)
    for endpoint in figures.endpoints:
        yield from _latency(figures, endpoint)
    yield from _failures(figures)
    yield from _cpu(figures)
    yield from _stages(figures)


def _throughput(figures: Figures) -> Iterator[_Picture]:
    measured = _measured(figures, lambda point: point.steady.rps if point.steady else None)
    if measured:
        limits = {point.users: point.think_time_limit_rps for point in figures.points if point.steady}
        dashed = {**_DASHED, "marker": "_" if len(limits) == 1 else None}
        line = _Line("think-time limit N/Z", _known([*limits.items()]), dashed)
        limit = [line] if line.points else []
        published = _published(figures, lambda point: point.rps)
        title = "Throughput, by number of users"
        panels = {"requests per second": [*published, *limit, *measured]}
        yield _Picture("throughput", title, _line_figure(title, panels, _levels(figures)))


def _latency(figures: Figures, endpoint: str) -> Iterator[_Picture]:
    panels = {}
    for name, metric in PERCENTILES.items():
        measured = _measured(figures, partial(_steady_ms, endpoint, metric))
        if measured:
            published = _published(figures, partial(_published_ms, endpoint, metric))
            panels[f"{name}, ms"] = [*published, *measured]
    if panels:
        title = f"Latency of {_short(endpoint, 30)}, by number of users"
        figure = _line_figure(title, panels, _levels(figures), may_be_log=True)
        name = re.sub(r"[^A-Za-z0-9-]+", "_", endpoint).strip("_")[:80]  # for a file and a link
        yield _Picture(f"latency_{name}", title, figure)


def _failures(figures: Figures) -> Iterator[_Picture]:
    measured = _measured(figures, lambda point: point.steady.failures_percent if point.steady else None)
    if measured:
        steady = [point.steady for point in figures.points if point.steady]
        failures = show_count(sum(traffic.failures for traffic in steady))
        requests = show_count(sum(traffic.requests for traffic in steady))
        title = "Failed requests, by number of users"
        published = _published(figures, lambda point: point.failures_percent)
        unit = f"percent of requests ({'measured: ' * bool(published)}{failures} of {requests} requests failed)"
        panels = {unit: [*published, *measured]}
        yield _Picture("failures", title, _line_figure(title, panels, _levels(figures)))


def _cpu(figures: Figures) -> Iterator[_Picture]:
    bars = []
    for point in _in_reading_order(figures):
        used = {role.role: role.cpu_percent for role in point.roles}
        mark = used.pop(MACHINE, None)
        used.pop(STOLEN, None)  # not work of this machine
        if used:
            label = f"{_point_label(figures, point)}: {show_percent(fsum(used.values()))} %"
            bars.append(_Bar(point.users, label, {name.replace("_", " "): part for name, part in used.items()}, mark))
    if bars:
        title = "CPU in use, by role"
        unit = "mean of the steady window; 100 % is one core"
        yield _Picture("cpu", title, _bar_figure(title, {"": bars}, unit, _cores(figures, bars)))


def _cores(figures: Figures, bars: list[_Bar]) -> int | None:
    """Return the machine's cores, unless a line there would leave the bars less than a fifth of the width."""
    cores = (figures.machine or {}).get("cores")
    used = max(fsum(bar.parts.values()) for bar in bars)
    return cores if cores and 100 * cores <= 5 * used else None


def _stages(figures: Figures) -> Iterator[_Picture]:
    panels: dict[str, list[_Bar]] = {}
    for endpoint in figures.endpoints:
        for point in _in_reading_order(figures):
            found = _endpoint(point, endpoint)
            if found and found.stages:
                parts = {stage.name: max(0.0, stage.avg_ms) for stage in found.stages}
                parts[OUTSIDE] = max(0.0, found.unexplained_ms or 0.0)
                label = f"{_point_label(figures, point)}: {show_ms(fsum(parts.values()))} ms"
                panels.setdefault(_short(endpoint, 60), []).append(_Bar(point.users, label, parts))
    if panels:
        title = "Where the time of a right answer goes"
        yield _Picture("stages", title, _bar_figure(title, panels, "mean, ms"))


def _measured(figures: Figures, value: Callable[[PointFigures], float | None]) -> list[_Line]:
    """Return a line for each target that has a value at some number of users."""
    lines = []
    for number, target in reversed([*enumerate(_titles(figures))]):
        colour = [*TARGETS][number % len(TARGETS)]
        marker, filled = _MARKERS[number % len(_MARKERS)]
        style = {
            "color": colour,
            "linewidth": 1.8,
            "linestyle": "-" if number < len(TARGETS) else "--",
            "marker": marker,
            "markersize": 6 if filled else 9,
            "markerfacecolor": colour if filled else "none",
            "markeredgewidth": 1.5,
        }
        points = [(point.users, value(point)) for point in figures.points if point.target == target]
        lines.append(_Line(_titles(figures)[target], _known(points), style))
    return [line for line in lines if line.points]


def _published(figures: Figures, value: Callable[[BaselinePoint], float | None]) -> list[_Line]:
    """Return thin lines with the published figures, as far as our numbers of users go."""
    levels = _levels(figures)
    # By what it shares with the target beside it: threads, for one, the published report does not tell.
    replicas = {facts.name: facts.replicas for facts in figures.targets}
    given = figures.baseline.points if figures.baseline else []
    beside = [point for point in given if levels[0] <= point.users <= levels[-1]]
    lines = []
    for number, target in reversed([*enumerate(dict.fromkeys(point.target for point in beside))]):
        style = {
            "color": PUBLISHED,
            "linewidth": 1,
            "linestyle": ("-", (0, (2, 2)))[number % 2],
            "marker": ("o", "s")[number % 2],
            "markersize": 4,
            "markerfacecolor": PAPER,
        }
        points = [(point.users, value(point)) for point in beside if point.target == target]
        count = replicas.get(target) or 0
        lines.append(_Line(f"published: {count} replica{'s' * (count != 1)}", _known(points), style))
    return [line for line in lines if line.points]


def _known(points: list[tuple[int, float | None]]) -> list[tuple[int, float]]:
    return sorted((users, value) for users, value in points if value is not None)


def _levels(figures: Figures) -> list[int]:
    return sorted({point.users for point in figures.points if point.steady})


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
    return f"{users}, {_short(titles[point.target], 44)}" if len(titles) > 1 else users


def _endpoint(point: PointFigures, endpoint: str) -> EndpointFigures | None:
    return next((found for found in point.endpoints if found.endpoint == endpoint), None)


def _published_ms(endpoint: str, metric: str, point: BaselinePoint) -> float | None:
    return point.endpoints.get(endpoint, {}).get(metric)


def _steady_ms(endpoint: str, metric: str, point: PointFigures) -> float | None:
    found = _endpoint(point, endpoint)
    steady = (found.scheduled or found.steady) if found else None
    value: float | None = getattr(steady, metric) if steady else None
    return value


def _line_figure(
    title: str, panels: dict[str, list[_Line]], levels: list[int], *, may_be_log: bool = False, across: str = "users"
) -> Figure:
    """Return a picture with a panel for each key, side by side on the same scale."""
    # Drawn first is below; the legend begins with what is on top.
    lines = {line.label: line for panel in panels.values() for line in reversed(panel)}
    figure = _titled_figure(title, 270, {label: Line2D([], [], **line.style) for label, line in lines.items()})
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (panel_title, panel) in zip(all_axes, panels.items(), strict=True):
        axes.set_title(panel_title)
        axes.set_xlabel(across)
        axes.grid(visible=False, axis="x")
        for line in panel:
            axes.plot(*zip(*line.points, strict=True), clip_on=False, **line.style)
        _scale_users(axes, levels, width=0.88 * (_WIDTH - 60) / len(panels))  # without the margins
    values = [value for panel in panels.values() for line in panel for _, value in line.points]
    _scale_values(all_axes[0], values, may_be_log=may_be_log)
    return figure


def _bar_figure(title: str, panels: dict[str, list[_Bar]], unit: str, cores: int | None = None) -> Figure:
    """Return a picture with a panel of stacked bars for each key, one below the other."""
    bars = [bar for panel in panels.values() for bar in panel]
    styles = _part_styles(dict.fromkeys(name for bar in bars for name in bar.parts))
    handles: dict[str, Artist] = {name: Patch(**style) for name, style in styles.items()}
    if any(bar.mark is not None for bar in bars):
        handles["whole machine"] = Line2D([], [], **_MARK)
    if cores:
        handles[f"all {cores} cores"] = Line2D([], [], **_DASHED)
    heights = [44 * len(panel) + 10 * len({bar.users for bar in panel}) for panel in panels.values()]
    figure = _titled_figure(title, 30 + sum(heights) + 55 * len(heights), handles)
    all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (panel_title, panel) in zip(all_axes, panels.items(), strict=True):
        axes.set_title(panel_title, color=INK, fontweight="bold")
        axes.set_xlabel(unit)
        if cores:
            axes.axvline(100 * cores, **_DASHED)
        _draw_bars(axes, panel, styles)
    return figure


def _titled_figure(title: str, height: float, handles: Mapping[str, Artist]) -> Figure:
    """Return a figure with the legend below the panels, `height` being what title and panels need."""
    labels = [_short(label, 60) for label in handles]
    columns = max(1, min(3, int(_WIDTH / (7.4 * max(map(len, labels)) + 50))))
    rows = ceil(len(labels) / columns)
    figure = Figure(figsize=(_WIDTH / 72, (height + 19 * rows) / 72))
    figure.suptitle(title, x=8 / _WIDTH, ha="left")
    figure.legend([*handles.values()], labels, loc="outside lower left", ncols=columns, borderpad=0.2)
    return figure


def _scale_users(axes: Axes, levels: list[int], width: float) -> None:
    """Put ticks at the levels, and their numbers where there is room; logarithmic where they would crowd."""
    span = levels[-1] - levels[0]
    if any((b - a) * width / span < (_tick_width(a) + _tick_width(b)) / 2 for a, b in pairwise(levels)):
        axes.set_xscale("log")
    places = axes.transScale.transform([(level, 1) for level in levels])[:, 0]
    places *= width / ((places[-1] - places[0]) or 1)
    numbers, free = [], inf
    for level, place in zip(reversed(levels), reversed(places), strict=True):
        fits = place + _tick_width(level) / 2 <= free
        numbers.append(f"{level:,}" if fits else "")
        free = place - _tick_width(level) / 2 if fits else free
    axes.set_xticks(levels, numbers[::-1])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06)


def _tick_width(level: int) -> float:
    return 8.0 * len(f"{level:,}") + 5


def _scale_values(axes: Axes, values: list[float], *, may_be_log: bool) -> None:
    """Start at zero; or put 1-2-5 ticks on a logarithmic axis, when more than a power of ten is to be seen."""
    low, high = min(values), max(values)
    if may_be_log and low > 0 and log10(high / low) > 1:
        axes.set_yscale("log")
        ticks = _log_ticks(low, high)
        axes.set_yticks(ticks, [_show_tick(tick) for tick in ticks])
        axes.set_ylim(ticks[0], ticks[-1])
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, high * 1.06 or 1)
        axes.yaxis.set_major_formatter(FuncFormatter(_show_tick))


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1-2-5 numbers, or powers of ten when the range is wide, from below `low` to above `high`."""
    steps = (1, 2, 5) if log10(high / low) < _WIDE_DECADES else (1,)
    decades = range(floor(log10(low)), floor(log10(high)) + 2)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return [tick for tick in ticks if max(t for t in ticks if t <= low) <= tick <= min(t for t in ticks if t >= high)]


def _show_tick(value: float, _: object = None) -> str:
    return f"{value:,.10g}"


def _draw_bars(axes: Axes, bars: list[_Bar], styles: dict[str, dict[str, Any]]) -> None:
    """Draw the bars from above, each below its label, with a gap before more users."""
    place, users = 0.0, bars[0].users
    for bar in bars:
        place += 1.28 if bar.users != users else 1.0
        users = bar.users
        left = 0.0
        for name, part in bar.parts.items():
            axes.barh(place, part, left=left, height=0.4, clip_on=False, **styles[name])
            left += part
        if bar.mark is not None:
            axes.plot(bar.mark, place, clip_on=False, **_MARK)
        axes.text(0, place - 0.25, bar.label, va="bottom", bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})
    axes.set_ylim(place + 0.4, 0.2)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(FuncFormatter(_show_tick))
    axes.set_xlim(left=0)


def _part_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return how each part of a bar is filled."""
    styles = {}
    for number, name in enumerate(name for name in names if name != OUTSIDE):
        # Once the colours are used up they come again with other hatches.
        hatch = _HATCHES[number % len(_HATCHES)]
        styles[name] = _filled(PARTS[number % len(PARTS)], hatch)
    return styles | ({OUTSIDE: _filled(REST, "")} if OUTSIDE in names else {})


def _filled(colour: str, hatch: str) -> dict[str, Any]:
    return {"facecolor": colour, "hatch": hatch, "edgecolor": PAPER, "linewidth": 0.8}


def _short(text: str, most: int) -> str:
    """Return the text on one line, without characters that XML forbids; a long one loses its middle."""
    line = " ".join(_NOT_XML.sub(" ", text).split())
    return line if len(line) <= most else f"{line[: most // 2]}…{line[len(line) - (most - 1) // 2 :]}"


def _free_name(name: str, taken: Container[str]) -> str:
    return next(free for free in chain([name], (f"{name}_{number}" for number in count(2))) if free not in taken)


def _as_svg(picture: _Picture, name: str) -> str:
    """Return the picture as text that scales, follows the reader's light or dark, and shares no id with another."""
    drawn = io.BytesIO()
    picture.figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ET.fromstring(drawn.getvalue())  # noqa: S314 # matplotlib wrote it
    for element in root.iter():
        _simplify(element)
    _rename_ids(root, name)
    for attribute in ("width", "height", "version"):
        del root.attrib[attribute]
    root.attrib |= {"xmlns": _SVG, "role": "img", "class": "plot", "font-family": FONTS, "stroke-linejoin": "round"}
    root[0] = ET.Element("style")  # was matplotlib's
    root[0].text = _style_sheet({element.get(key, "") for element in root.iter() for key in ("fill", "stroke")})
    root.insert(0, ET.Element("title"))
    root[0].text = picture.title
    return ET.tostring(root, encoding="unicode") + "\n"


def _simplify(element: ET.Element) -> None:
    """Replace style="…" by attributes: every program that shows SVG reads them, and a style sheet overrules them."""
    element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
    for declaration in filter(None, element.attrib.pop("style", "").split(";")):
        key, value = declaration.split(":", 1)
        element.set(key.strip(), value.strip())
    element.attrib.pop("font-family", None)  # the root's is inherited
    if _XLINK in element.attrib:
        element.set("href", element.attrib.pop(_XLINK))


def _rename_ids(root: ET.Element, name: str) -> None:
    """Keep only the ids that something refers to, as NAME.NUMBER: no heading of the page has an id with a dot."""
    ids = {element.attrib["id"] for element in root.iter() if "id" in element.attrib}
    values = [value for element in root.iter() for value in element.attrib.values()]
    referred = dict.fromkeys(id_ for value in values for id_ in _REFERENCE.findall(value) if id_ in ids)
    new = {old: f"{name}.{number}" for number, old in enumerate(referred, start=1)}
    for element in root.iter():
        old = element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            element.attrib[key] = _REFERENCE.sub(lambda found: "#" + new.get(found[1], found[1]), value)
        if old in new:
            element.attrib["id"] = new[old]


def _style_sheet(colours: set[str]) -> str:
    # No selector names an ancestor: the shadow tree of <use>, which is how markers are drawn, has none.
    dark = "".join(
        f"[fill='{light}']{{fill:{DARK[light]}}}[stroke='{light}']{{stroke:{DARK[light]}}}"
        for light in sorted(colours & DARK.keys())
    )
    return f"@media screen and (prefers-color-scheme:dark){{{dark}}}"
