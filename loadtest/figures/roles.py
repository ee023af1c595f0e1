"""What the processes of each role used, by the samples of one cell or of several pooled ones. Called by `summary`."""

from collections.abc import Sequence
from itertools import pairwise
from math import fsum
from statistics import median

from loadtest.figures.figures import RoleFigures
from loadtest.plan.targets import KIT_ROLES, STOLEN
from loadtest.rows.columns import ResourceRow

_MEANS = ("busy_threads", "busiest_thread_percent", "runqueue_wait_percent", "crowd_threads", "crowd_cores")
_LEAST_SPAN_S = 0.5
# Samples of several repetitions are pooled; a gap this many times the usual one is the time between two cells.
_BETWEEN_CELLS = 10


def compute_roles(named: Sequence[str], resources: Sequence[ResourceRow]) -> list[RoleFigures]:
    """Return what each role with a process used: the `named` roles of the plan first, then the kit's own names."""
    by_role: dict[str, list[ResourceRow]] = {}
    for row in resources:
        by_role.setdefault(row.role, []).append(row)
    spans_s = _spans_s({row.unix_s for row in resources})
    order = [*named, "target_other", *KIT_ROLES, *sorted(by_role)]
    return [
        RoleFigures(
            role=role,
            processes=max(row.processes for row in rows),
            cpu_percent=_mean(rows, spans_s, "cpu_percent") or 0.0,
            cpu_max_percent=_most_cpu_percent(rows, spans_s),
            rss_max_bytes=max(row.rss_bytes for row in rows),
            threads=max(row.threads for row in rows),
            **{column: _mean(rows, spans_s, column) for column in _MEANS},
        )
        for role in dict.fromkeys(order)
        if (rows := by_role.get(role)) and (role == STOLEN or any(row.processes for row in rows))
    ]


def _spans_s(samples_unix_s: set[float]) -> dict[float, float]:
    """Return what time each sample covers: since the one before it; the first of a cell, as much as is usual."""
    ordered = sorted(samples_unix_s)
    gaps_s = [later - earlier for earlier, later in pairwise(ordered)]
    usual_s = median(gaps_s) if gaps_s else 1.0
    within_s = [gap_s if gap_s < _BETWEEN_CELLS * usual_s else usual_s for gap_s in gaps_s]
    return dict(zip(ordered, [usual_s, *within_s], strict=False))


def _mean(rows: list[ResourceRow], spans_s: dict[float, float], column: str) -> float | None:
    """Return the mean over time: a kit that was held up reads several seconds at once. None if it is unknown.

    In a sample without a row the role had no process, which used nothing.
    """
    known = [(value, spans_s[row.unix_s]) for row in rows if (value := getattr(row, column)) is not None]
    covered_s = fsum(span_s for _, span_s in known)
    if column != "crowd_cores":  # None, and not 0, where no thread is busy
        covered_s += fsum(spans_s[unix_s] for unix_s in spans_s.keys() - {row.unix_s for row in rows})
    return round(fsum(value * span_s for value, span_s in known) / covered_s, 2) if known else None


def _most_cpu_percent(rows: list[ResourceRow], spans_s: dict[float, float]) -> float:
    """Return the most in a sample, leaving out those too short for CPU times, which come in steps of 10 ms."""
    long = [row.cpu_percent for row in rows if spans_s[row.unix_s] >= _LEAST_SPAN_S]
    return max(long or [row.cpu_percent for row in rows])
