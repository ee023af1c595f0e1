"""Reads our own report.json for `audit`: its figures, and every cell and point as rows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, NonNegativeFloat, PositiveFloat, ValidationError

from loadtest.audit.interval import Interval, locust_percentile, within
from loadtest.audit.table import Printed, Row, Table, Window
from loadtest.errors import BadInputError
from loadtest.figures.figures import CellFigures, Figures, PointFigures, Traffic

DECIMALS_MARGIN = 0.6e-4
"""report.json rounds to four decimals; floats may add a little."""

GENERATOR_SHARE = 0.05
"""Of the users' time: up to here a cell of ours is valid (`validity`)."""


class _Workload(BaseModel):
    wait_s: tuple[NonNegativeFloat, NonNegativeFloat] | None = None
    options: dict[str, str | int | float] = {}


class _Test(BaseModel):
    """What of a report's `test` is needed here."""

    duration_s: PositiveFloat | None = None
    workload: _Workload = _Workload()


@dataclass(frozen=True)
class OwnReport:
    """The figures of a report.json, with what is looked up in them."""

    figures: Figures
    test: _Test

    @property
    def is_locust(self) -> bool:
        """Return whether it was made from the CSV files of a plain Locust."""
        return self.figures.source == "Locust CSV"

    @cached_property
    def titles(self) -> dict[str, str]:
        """Return what the report calls each target."""
        return {facts.name: facts.title for facts in self.figures.targets}

    def name(self, source: CellFigures | PointFigures) -> str:
        """Return what to call a cell or a point."""
        of = _repetition(source) if isinstance(source, CellFigures) else "all repetitions"
        return f"{self.titles.get(source.target, source.target)}, {source.users} users, {of}"

    def pooled_cells(self, point: PointFigures) -> list[CellFigures]:
        """Return the valid cells of a point."""
        place = (point.target, point.users)
        return [cell for cell in self.figures.cells if cell.valid and (cell.target, cell.users) == place]

    def tabulate(self) -> Table:
        """Return the report as rows: cells in both windows, points, and each point as a pool of its cells."""
        figures = self.figures
        rows = [row for cell in figures.cells for row in self._cell_rows(cell)]
        rows += [row for point in figures.points for row in self._point_rows(point)]
        told = {"users": "users", "spawn_rate_per_s": "spawn rate in users per s", "duration_s": "duration in s"}
        stated = [f"{words}: {figures.test[key]}" for key, words in told.items() if key in figures.test]
        return Table(title=figures.title, rows=rows, names=self.titles, stated=stated)

    def _cell_rows(self, cell: CellFigures) -> Iterator[Row]:
        # A cell that is not valid, or of which the ramp is a part, promises no think time.
        if cell.steady is not None:
            window = Window(stated_s=_rounded(cell.steady_window_s), is_exact=True, is_steady=True)
            row = self._row(cell, window, cell.steady)
            yield row if cell.valid else replace(row, wait_s=None)
        if cell.whole_run is not None:
            # Locust takes the RPS of a run by its own clock.
            window = Window(stated_s=_rounded(cell.whole_run_s), is_exact=not self.is_locust)
            yield replace(self._row(cell, window, cell.whole_run), wait_s=None)

    def _point_rows(self, point: PointFigures) -> Iterator[Row]:
        if point.steady is None:
            return
        length_s, cells = _rounded(point.steady_window_s), self.pooled_cells(point)
        window = Window(stated_s=length_s, is_exact=True, is_steady=True, runs=max(1, point.repetitions))
        yield self._row(point, window, point.steady)
        yield self._pool(point, "pooled", {_repetition(cell): cell.steady for cell in cells}, point.steady)
        for part in point.endpoints:
            parts = {
                _repetition(cell): own.steady
                for cell in cells
                for own in cell.endpoints
                if own.endpoint == part.endpoint
            }
            yield self._pool(point, f"{part.endpoint} pooled", parts, part.steady)

    def _row(self, source: CellFigures | PointFigures, window: Window, traffic: Traffic) -> Row:
        span = "steady" if window.is_steady else "whole_run"
        parts = {part.endpoint: self._printed(getattr(part, span)) for part in source.endpoints}
        # Requests that the plan does not name are told in a note; then the endpoints do not add up to all.
        cells = [source] if isinstance(source, CellFigures) else self.pooled_cells(source)
        adds_up = sum(part.requests or 0 for part in parts.values()) == traffic.requests
        return Row(
            name=f"{self.name(source)}, {span.replace('_', ' ')}",
            target=source.target,
            users=source.users,
            all=self._printed(traffic),
            parts=parts,
            parts_are_all=bool(parts) and (adds_up or not any(cell.notes for cell in cells)),
            window=window,
            wait_s=self.test.workload.wait_s,
            covers_failures=self.is_locust,
            may_lack_times=self.is_locust,
            generator_share=GENERATOR_SHARE,
        )

    def _pool(self, point: PointFigures, what: str, parts: Mapping[str, Traffic | None], traffic: Traffic) -> Row:
        return Row(
            name=f"{self.name(point)}, {what}",
            target=point.target,
            users=point.users,
            all=self._printed(traffic),
            parts={key: self._printed(part) for key, part in parts.items() if part is not None},
            parts_are_all=True,
            parts_share_window=False,
            covers_failures=self.is_locust,
        )

    def _printed(self, traffic: Traffic) -> Printed:
        percentile = locust_percentile if self.is_locust else _four_decimals
        known = [(0.5, traffic.median_ms), (0.95, traffic.p95_ms), (0.99, traffic.p99_ms)]
        untimed = 0 if self.is_locust else traffic.failures + traffic.untimed
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


def read_own_report(path: Path) -> OwnReport:
    """Return the figures in a report.json. Raises BadInputError with the first faults and their keys."""
    try:
        figures = Figures.model_validate(_read_json(path))
        return OwnReport(figures, _Test.model_validate(figures.test))
    except ValidationError as exc:
        faults = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors(include_url=False)[:5]]
        lines = [f"{path}: {fault}" for fault in faults]
        raise BadInputError("\n".join([*lines, "is it a report.json of `python -m loadtest`?"])) from exc


def _read_json(path: Path) -> Any:
    """Return the JSON in a file; pydantic would read a key that stands there twice as the last one in silence."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_refuse_constant)
    except OSError as exc:
        raise BadInputError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise BadInputError(f"{path}: Invalid JSON: {exc}") from exc


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice in an object")
    return found


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _repetition(cell: CellFigures) -> str:
    return f"repetition {cell.repetition}"


def _four_decimals(value: float) -> Interval:
    return within(value, DECIMALS_MARGIN)


def _rounded(value: float | None) -> Interval | None:
    return None if value is None else _four_decimals(value)
