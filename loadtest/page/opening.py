"""The box above a report: the answer, the figures that it rests on, and what limits each level. Called by `text`."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from loadtest.figures.figures import (
    NO_FIGURE,
    Bottleneck,
    Figures,
    PointFigures,
    show_ms,
    show_percent,
    show_rps,
)
from loadtest.page.markdown import escape, make_aligned_table
from loadtest.verdict.choice import Data
from loadtest.verdict.findings import answer


def make_box(figures: Figures) -> str:
    """Return the box as a quotation in Markdown."""
    told = answer(figures)
    blocks = [f"**{escape(told.headline)}:** {escape(told.because)}.", *map(escape, told.then)]
    blocks += [table for table in [_evidence(figures)] if table]
    lines = "\n\n".join([*blocks, _state(figures)]).split("\n")
    return "\n".join(f"> {line}".rstrip() for line in lines)


def name_limit(bottleneck: Bottleneck | None) -> str:
    """Return what limits a level in a few words, such as `CPU of classifier`."""
    if bottleneck is None:
        return ""
    words = bottleneck.limit.replace("_", " ").replace("role cpu", "CPU of")
    return f"{words} {bottleneck.where}" if bottleneck.where and bottleneck.where not in words else words


def _evidence(figures: Figures) -> str:
    """Return a table with a column for each target: its figures at the most users that all have, and its limits."""
    data = Data(figures)
    targets, levels = data.targets(), data.common_users()
    if not levels or not any(point.steady for point in figures.points):
        return ""
    last = {point.target: point for point in figures.points if point.users == levels[-1]}
    columns = [_short_point(last[target], figures.endpoints) for target in targets]
    head = ["requests/s", "failed %", *(f"{endpoint} p95 ms" for endpoint in figures.endpoints)]
    known = [row for row in zip(head, *columns, strict=True) if {*row[1:]} != {NO_FIGURE}]
    rows = [*known, *_limits(figures, targets)]
    return make_aligned_table([f"at {levels[-1]} users", *map(data.title, targets)], rows)


def _short_point(point: PointFigures, endpoints: Sequence[str]) -> list[str]:
    traffic = point.shown
    p95_ms = {part.endpoint: show_ms(part.shown.p95_ms) + part.shown_of for part in point.endpoints}
    return [
        show_rps(traffic.rps),
        show_percent(traffic.failures_percent),
        *(p95_ms.get(name, NO_FIGURE) for name in endpoints),
    ]


def _limits(figures: Figures, targets: Sequence[str]) -> Iterator[list[str]]:
    """Yield what limits each target, in one row for levels that follow each other and have the same limits."""
    limits = {(point.target, point.users): name_limit(point.bottleneck) for point in figures.points}
    levels = sorted({users for _, users in limits})
    for found, same in groupby(levels, lambda users: [limits.get((target, users)) or NO_FIGURE for target in targets]):
        users = [*same]
        if any(limit != NO_FIGURE for limit in found):
            span = f"{users[0]} to {users[-1]}" if len(users) > 1 else f"{users[0]}"
            yield [f"limit, {span} users", *found]


def _state(figures: Figures) -> str:
    invalid, every = sum(not cell.valid for cell in figures.cells), len(figures.cells)
    told = [f"{every} cell{'s' * (every != 1)}, {f'{invalid} INVALID' if invalid else 'all VALID'}"]
    if any(cell.limits for cell in figures.cells):
        told.append("all objectives met" if figures.all_limits_met else "objectives missed")
    if figures.dates:
        told.append(f"measured on {' and '.join(figures.dates)} (UTC)")
    return "; ".join(told) + "."
