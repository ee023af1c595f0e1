"""The points of a report as a table on the terminal. Called by the command line after the report has been written."""

from loadtest.figures.figures import (
    Figures,
    LevelComparison,
    PointFigures,
    show_count,
    show_ms,
    show_percent,
    show_rps,
)
from loadtest.page.opening import name_limit
from loadtest.page.terminal import Column, columns_of, print_table
from loadtest.verdict.choice import Data, decides
from loadtest.verdict.comparison import name_verdict

_INVALID = "yellow"
_FAILED = "red"


def print_overview(figures: Figures) -> None:
    """Print one row for each target at each number of users: what it did, who won, what limited it."""
    columns = columns_of(("target", "users", "valid", "requests/s", "failed %"), words=1)
    columns += columns_of(f"{endpoint} p50, p95 ms" for endpoint in figures.endpoints)
    columns += [Column("beside the others", is_number=False), Column("limited by", is_number=False)]
    levels = {level.users: level for level in figures.comparisons}
    points = sorted(figures.points, key=lambda point: point.users)
    rows = [_row(figures, point, levels.get(point.users)) for point in points]
    print_table(figures.title, columns, rows, [_style(point) for point in points])


def _row(figures: Figures, point: PointFigures, level: LevelComparison | None) -> list[str]:
    latencies = {
        part.endpoint: f"{show_ms(part.shown.median_ms)}, {show_ms(part.shown.p95_ms)}{part.shown_of}"
        for part in point.endpoints
    }
    measured = sum((cell.target, cell.users) == (point.target, point.users) for cell in figures.cells)
    return [
        figures.title_of(point.target),
        show_count(point.users),
        f"{point.repetitions} of {measured}" if measured else "",
        show_rps(point.shown.rps) + point.shown_of,
        show_percent(point.shown.failures_percent) + point.shown_of,
        *(latencies.get(name, "") for name in figures.endpoints),
        _verdict(figures, point, level),
        name_limit(point.bottleneck),
    ]


def _verdict(figures: Figures, point: PointFigures, level: LevelComparison | None) -> str:
    if level is None:
        return ""
    if level.winner is None:
        return name_verdict(level)
    return ("winner" if decides(Data(figures), level) else "ahead") if level.winner == point.target else ""


def _style(point: PointFigures) -> str:
    if not point.repetitions:
        return _INVALID
    return _FAILED if point.shown.failures else ""
