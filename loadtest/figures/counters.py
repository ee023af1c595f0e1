"""By how much the target's own counters grew during a cell, and its cache's share of the answers. Read by `summary`."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from loadtest.figures.figures import CounterFigures
from loadtest.plan.targets import TargetMetrics

_Labels = tuple[tuple[str, str], ...]
_Series = Mapping[tuple[str, _Labels], float]


def read_counters(metrics: TargetMetrics, cell: Path, notes: list[str]) -> tuple[list[CounterFigures], float | None]:
    """Return what the plan's counters grew by in the cell in a folder, and the percentage that a cache answered.

    What cannot be read is appended to `notes`.
    """
    if not (metrics.counters or metrics.hits):
        return [], None
    before, after = (_samples(cell / name, notes) for name in ("metrics_before.prom", "metrics_after.prom"))
    if after is None:
        return [], None
    return _counters(metrics, before or {}, after, notes), _hit_percent(metrics, before or {}, after)


def _counters(metrics: TargetMetrics, before: _Series, after: _Series, notes: list[str]) -> list[CounterFigures]:
    """Return by how much the plan's counters grew, in the plan's order."""
    figures: list[CounterFigures] = []
    for counter in metrics.counters:
        grown = _grown(counter.name, counter.by, before, after)
        if not grown:
            notes.append(f"the target exported no {counter.name}, which it may never have had to count")
        figures.extend(
            CounterFigures(name=counter.name, labels=dict(labels), increase=increase)
            for labels, increase in sorted(grown.items())
        )
    return figures


def _hit_percent(metrics: TargetMetrics, before: _Series, after: _Series) -> float | None:
    """Return what share of the answers that the target counted came from its cache."""
    hits = metrics.hits
    if hits is None:
        return None
    grown = _grown(hits.name, [hits.by], before, after)
    total = sum(grown.values())
    found = sum(increase for labels, increase in grown.items() if dict(labels)[hits.by] in hits.values)
    return round(100 * found / total, 4) if total else None


def _samples(path: Path, notes: list[str]) -> dict[tuple[str, _Labels], float] | None:
    """Return value by name and labels; a series that stands there twice comes from two processes: their sum."""
    values: dict[tuple[str, _Labels], float] = {}
    try:
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                if isfinite(sample.value):
                    values[key] = values.get(key, 0.0) + sample.value
    except OSError:
        notes.append(f"{path.name} is missing, so the service's own counters are not known, or count from zero")
        return None
    except (ValueError, KeyError, IndexError) as exc:
        notes.append(f"{path.name} is not in Prometheus' text format: {exc}")
        return None
    return values


def _grown(name: str, by: list[str], before: _Series, after: _Series) -> dict[_Labels, float]:
    """Return the increase of one counter by the labels `by`; a series that is new, or was reset, counts from zero."""
    grown: dict[_Labels, float] = {}
    for (sample, labels), value in after.items():
        if sample == name:
            earlier = before.get((sample, labels), 0.0)
            kept = tuple((label, dict(labels).get(label, "")) for label in by)
            grown[kept] = grown.get(kept, 0.0) + (value - earlier if value >= earlier else value)
    return grown
