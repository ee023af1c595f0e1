"""Draws pictures as SVG: columns, ranges and stacked bars. The only place that imports matplotlib; it knows no figures.

Nothing is drawn over anything else: what is compared stands side by side. A picture holds two drawings, one on light
and one on dark paper, and a style sheet that shows one of them; so the same text serves as a file beside the Markdown
and within the page. The dark one is the light one in other colours.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, log10
from typing import Any
from xml.sax.saxutils import escape

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator


@dataclass(frozen=True)
class Theme:
    """The colours on one paper."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    rest: str
    series: tuple[str, ...]
    """Okabe and Ito's colours, darkened or lightened to stand out from the paper."""


LIGHT = Theme(
    "light", "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#bbbbbb",
    ("#0072b2", "#d55e00", "#007a5a", "#a3508a", "#8a6d00", "#5b5fc7"),
)  # fmt: skip
DARK = Theme(
    "dark", "#0d1117", "#e6edf3", "#9198a1", "#30363d", "#6e7681",
    ("#56b4e9", "#ff8f4a", "#2bd4a4", "#e08fc4", "#e3b341", "#a5a8ff"),
)  # fmt: skip
REST = "rest"
"""Stands for the theme's colour of what is left over."""

_WIDTH = 520  # of the viewBox: letters of 12 units can still be read when a phone makes 336 px of it
_ROOM = 440  # of it, between the axis' numbers and the right margin
_LETTER = 7.4
_LABEL_SHARE = 0.14  # of a panel's height
_WIDE_DECADES = 3
_FONT, _FONTS = "'DejaVu Sans'", "system-ui, sans-serif"
_DARK = {light: getattr(DARK, name) for name, light in vars(LIGHT).items() if name not in {"name", "series"}} | dict(
    zip(LIGHT.series, DARK.series, strict=True)
)
"""The colour on dark paper, by the one on light."""
_NOT_XML = re.compile(r"[^\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CHOICE = (
    ".plot .dark{display:none}@media screen and (prefers-color-scheme:dark)"
    "{.plot .light{display:none}.plot .dark{display:inline}}"
)
_DRAWING: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelsize": 12,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.dpi": 72,
    "figure.titlesize": 15,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",  # comes with matplotlib and is wide: what fits in it fits in the viewer's font
    "font.size": 12,
    "hatch.linewidth": 1.2,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may have dollar signs
    "xtick.major.pad": 6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Columns:
    """A panel with a group of columns for each level, one column for each series."""

    unit: str
    levels: Sequence[str]
    values: Mapping[str, Sequence[float | None]]
    """By series, one for each level."""
    marks: Sequence[float | None] = ()
    """One for each level: a line across its columns."""


@dataclass(frozen=True)
class Ranges:
    """A panel with a group of vertical lines for each level, one line for each series, with a mark at each value."""

    unit: str
    levels: Sequence[str]
    values: Mapping[str, Sequence[Mapping[str, float]]]
    """By series, for each level: the values by their names, which are keys of MARKERS."""


@dataclass(frozen=True)
class Bar:
    """A stacked bar below its label."""

    group: str
    label: str
    parts: Mapping[str, float]
    """By name, from left to right."""
    mark: float | None = None


@dataclass(frozen=True)
class Picture:
    """What is drawn: panels of columns and ranges, or of bars, below each other."""

    name: str
    title: str
    panels: Sequence[Columns | Ranges]
    series: Mapping[str, str]
    """What the series that the panels may have are called, in the order of the colours."""
    across: str = "users"
    mark_label: str = ""


@dataclass(frozen=True)
class BarPicture:
    """Bars in panels below each other; a line across all of them where `limit` says."""

    name: str
    title: str
    panels: Mapping[str, Sequence[Bar]]
    unit: str
    colours: Mapping[str, str]
    """By the name of a part; `REST` is a grey."""
    mark_label: str = ""
    limit: tuple[str, float] | None = None


MARKERS: Mapping[str, dict[str, Any]] = {
    "median": {"marker": "o", "markersize": 7},
    "p95": {"marker": "_", "markersize": 13, "markeredgewidth": 2.5},
    "p99": {"marker": "^", "markersize": 6},
}


def draw(picture: Picture | BarPicture) -> str:
    """Return SVG text that scales and follows the reader's light or dark. The same picture gives the same text."""
    light = _draw_light(picture)
    box = re.search(r'viewBox="[^"]*"', light)
    assert box
    head = f'<svg {box[0]} xmlns="http://www.w3.org/2000/svg" role="img" class="plot">'
    return "\n".join(
        [
            head,
            f"<title>{escape(shorten(picture.title, 200))}</title>",
            f"<style>{_CHOICE}</style>",
            light,
            re.sub("<[^>]*>", lambda tag: _darken(tag[0]), light),
            "</svg>",
            "",
        ]
    )


def _draw_light(picture: Picture | BarPicture) -> str:
    colours = {
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "axes.titlecolor"), LIGHT.muted),
        **dict.fromkeys(("xtick.color", "ytick.color"), LIGHT.muted),
        **dict.fromkeys(("axes.facecolor", "figure.facecolor"), LIGHT.paper),
        "grid.color": LIGHT.grid,
        "text.color": LIGHT.ink,
        "svg.hashsalt": picture.name,  # so that no two pictures share an id
    }  # fmt: skip
    with style.context(["default", {**_DRAWING, **colours}]), warnings.catch_warnings():
        # Our font only measures the text; the viewer's font draws it.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure = _column_figure(picture) if isinstance(picture, Picture) else _bar_figure(picture)
        drawn = io.BytesIO()
        unsaid = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        # savefig() would draw twice, the first time for the layout alone.
        FigureCanvasSVG(figure).print_svg(drawn, metadata=unsaid)  # type: ignore[no-untyped-call]
    text = drawn.getvalue().decode()
    text = re.sub(r'(?<=<g) id="[^"]*"', "", text[text.index("<svg") :])  # nothing refers to those
    text = text.replace("xlink:href=", "href=").replace(_FONT, _FONTS)
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg class="{LIGHT.name}" \1>', text, count=1).rstrip()


def _darken(tag: str) -> str:
    """Return a tag of the drawing on light paper as it is on dark paper, with ids of its own."""
    tag = tag.replace(f'<svg class="{LIGHT.name}"', f'<svg class="{DARK.name}"')
    tag = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{DARK.name}-", tag)
    return re.sub("#[0-9a-f]{6}", lambda colour: _DARK.get(colour[0], colour[0]), tag)


def _column_figure(picture: Picture) -> Figure:
    looks = {name: _look(number) for number, name in enumerate(picture.series)}
    drawn = [name for name in picture.series if any(name in panel.values for panel in picture.panels)]
    handles: list[tuple[str, Artist]] = [(picture.series[name], Patch(**looks[name])) for name in drawn]
    line = _dashed()
    if any(isinstance(panel, Columns) and panel.marks for panel in picture.panels):
        handles.append((picture.mark_label, Line2D([], [], **line)))
    marks = {
        mark for panel in picture.panels if isinstance(panel, Ranges)
        for values in panel.values.values() for value in values for mark in value
    }  # fmt: skip
    handles += [
        (mark, Line2D([], [], color=LIGHT.muted, linestyle="none", **look))
        for mark, look in MARKERS.items()
        if mark in marks
    ]
    height = 200 if len(picture.panels) == 1 else 150
    figure = _titled_figure(picture.title, 60 + height * len(picture.panels), handles)
    for axes, panel in zip(figure.subplots(len(picture.panels), 1, squeeze=False)[:, 0], picture.panels, strict=True):
        axes.set_title(panel.unit)
        if isinstance(panel, Columns):
            _draw_columns(axes, panel, looks, line)
        else:
            _draw_ranges(axes, panel, looks)
        _name_levels(axes, panel.levels)
    axes.set_xlabel(picture.across)
    return figure


def _dashed() -> dict[str, Any]:
    return {"color": LIGHT.ink, "linestyle": (0, (5, 3)), "linewidth": 1.2}


def _look(number: int) -> dict[str, Any]:
    """Return how a series is filled; once the colours are used up they return with hatches."""
    hatch = "///" if number >= len(LIGHT.series) else ""
    return {"facecolor": LIGHT.series[number % len(LIGHT.series)], "edgecolor": LIGHT.paper, "hatch": hatch}


def _places(panel: Columns | Ranges) -> tuple[float, dict[str, list[float]]]:
    """Return the width of a column and, by series, where its columns stand: level 0 is around 0."""
    width = 0.8 / len(panel.values)
    left = -0.4 + width / 2
    return width, {
        name: [level + left + number * width for level in range(len(panel.levels))]
        for number, name in enumerate(panel.values)
    }


def _draw_columns(axes: Axes, panel: Columns, looks: Mapping[str, dict[str, Any]], line: dict[str, Any]) -> None:
    width, places = _places(panel)
    known = [value for values in (*panel.values.values(), panel.marks) for value in values if value is not None]
    high = max(known) or 1.0
    has_labels = max(len(_show(value)) for value in known) * _LETTER <= _ROOM / len(panel.levels) * width
    marks = panel.marks or [None] * len(panel.levels)
    for name, values in panel.values.items():
        for place, value, mark in zip(places[name], values, marks, strict=True):
            if value is not None:
                axes.bar(place, value, width * 0.94, linewidth=0, **looks[name])
                above = max(value, mark or 0.0) if mark and mark - value < _LABEL_SHARE * high else value
                if has_labels:
                    axes.annotate(_show(value), (place, above), (0, 4), textcoords="offset points", ha="center")
    for level, mark in enumerate(marks):
        if mark is not None:
            axes.plot([level - 0.46, level + 0.46], [mark, mark], **line)
    axes.set_ylim(0, high * (1 + _LABEL_SHARE if has_labels else 1.05))
    axes.yaxis.set_major_formatter(FuncFormatter(_show_tick))


def _draw_ranges(axes: Axes, panel: Ranges, looks: Mapping[str, dict[str, Any]]) -> None:
    _, places = _places(panel)
    for name, values in panel.values.items():
        colour = looks[name]["facecolor"]
        known = [(place, value) for place, value in zip(places[name], values, strict=True) if value]
        lows, highs = ([end(value.values()) for _, value in known] for end in (min, max))
        axes.vlines([place for place, _ in known], lows, highs, color=colour, linewidth=1.5)
        for mark, look in MARKERS.items():
            points = [(place, value[mark]) for place, value in known if mark in value]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, linestyle="none", **look)
    _scale_values(axes, [at for values in panel.values.values() for value in values for at in value.values()])


def _scale_values(axes: Axes, values: Sequence[float]) -> None:
    """Start at zero; or put 1-2-5 ticks on a logarithmic axis, when more than a power of ten is to be seen."""
    low, high = min(values), max(values)
    if low > 0 and log10(high / low) > 1:
        axes.set_yscale("log")
        ticks = _log_ticks(low, high)
        axes.set_yticks(ticks, [_show_tick(tick) for tick in ticks])
        axes.set_ylim(ticks[0], ticks[-1])
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, high * 1.06 or 1)
        axes.yaxis.set_major_formatter(FuncFormatter(_show_tick))


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1-2-5 numbers, or powers of ten when the range is wide, from below `low` to above `high`.

    matplotlib's LogLocator may end below `high`: with 5 to 50.1 its last one is 50.
    """
    steps = (1, 2, 5) if log10(high / low) < _WIDE_DECADES else (1,)
    decades = range(floor(log10(low)), floor(log10(high)) + 2)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return [tick for tick in ticks if max(t for t in ticks if t <= low) <= tick <= min(t for t in ticks if t >= high)]


def _name_levels(axes: Axes, levels: Sequence[str]) -> None:
    """Put the name below each group, or below every second, third … where they would touch."""
    longest = _LETTER * max(map(len, levels)) + 6
    step = max(1, ceil(longest * len(levels) / _ROOM))
    axes.set_xticks(range(len(levels)), [name if number % step == 0 else "" for number, name in enumerate(levels)])
    axes.set_xlim(-0.5, len(levels) - 0.5)


def _bar_figure(picture: BarPicture) -> Figure:
    colours = {name: LIGHT.rest if colour == REST else colour for name, colour in picture.colours.items()}
    looks: dict[str, dict[str, Any]] = {
        name: {"facecolor": colour, "edgecolor": LIGHT.paper, "linewidth": 0.8} for name, colour in colours.items()
    }
    mark: dict[str, Any] = {
        "color": LIGHT.ink,
        "linestyle": "none",
        "marker": "|",
        "markersize": 20,
        "markeredgewidth": 2,
    }
    line = _dashed()
    handles: list[tuple[str, Artist]] = [(name, Patch(**look)) for name, look in looks.items()]
    if any(bar.mark is not None for bars in picture.panels.values() for bar in bars):
        handles.append((picture.mark_label, Line2D([], [], **mark)))
    if picture.limit:
        handles.append((picture.limit[0], Line2D([], [], **line)))
    heights = [44 * len(bars) + 10 * len({bar.group for bar in bars}) for bars in picture.panels.values()]
    figure = _titled_figure(picture.title, 30 + sum(heights) + 55 * len(heights), handles)
    all_axes = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, bars) in zip(all_axes, picture.panels.items(), strict=True):
        axes.set_title(title, color=LIGHT.ink, fontweight="bold")
        axes.set_xlabel(picture.unit)
        axes.grid(visible=True, axis="x")
        if picture.limit:
            axes.axvline(picture.limit[1], **line)
        _draw_bars(axes, bars, looks, mark)
    return figure


def _draw_bars(axes: Axes, bars: Sequence[Bar], looks: Mapping[str, dict[str, Any]], mark: dict[str, Any]) -> None:
    """Draw the bars from above, each below its label, with a gap before another group."""
    place, group = 0.0, bars[0].group
    for bar in bars:
        place += 1.28 if bar.group != group else 1.0
        group = bar.group
        for number, (name, part) in enumerate(bar.parts.items()):
            left = fsum([*bar.parts.values()][:number])
            axes.barh(place, part, left=left, height=0.4, clip_on=False, **looks[name])
        if bar.mark is not None:
            axes.plot(bar.mark, place, clip_on=False, **mark)
        paper = {"facecolor": axes.get_facecolor(), "edgecolor": "none", "pad": 1}
        axes.text(0, place - 0.25, bar.label, va="bottom", bbox=paper)
    axes.set_ylim(place + 0.4, 0.2)
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(FuncFormatter(_show_tick))
    axes.set_xlim(left=0)


def _titled_figure(title: str, height: float, handles: Sequence[tuple[str, Artist]]) -> Figure:
    """Return a figure with the legend below the panels, `height` being what title and panels need."""
    labels = [shorten(label, 60) for label, _ in handles]
    columns = max(1, min(3, int(_WIDTH / (_LETTER * max(map(len, labels)) + 50))))
    rows = ceil(len(labels) / columns)
    figure = Figure(figsize=(_WIDTH / 72, (height + 19 * rows) / 72))
    figure.suptitle(shorten(title, 60), x=8 / _WIDTH, ha="left")
    figure.legend([handle for _, handle in handles], labels, loc="outside lower left", ncols=columns, borderpad=0.2)
    return figure


def _show(value: float) -> str:
    """Return the number that stands above a column."""
    return f"{value:,.0f}" if abs(value) >= 99.95 or value == round(value) else f"{value:,.3g}"  # noqa: PLR2004


def _show_tick(value: float, _: object = None) -> str:
    return f"{value:,.10g}"


def shorten(text: str, most: int) -> str:
    """Return the text on one line, without characters that XML forbids; a long one loses its middle."""
    line = " ".join(_NOT_XML.sub(" ", text).split())
    return line if len(line) <= most else f"{line[: most // 2]}…{line[len(line) - (most - 1) // 2 :]}"
