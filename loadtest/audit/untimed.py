"""Requests without a response time: Locust counts them, and leaves them out of means, medians and percentiles.

Its CSV does not say how many there were. A mean of all that its endpoints' means and counts do not make is no fault if
whole numbers of timed requests make it exactly. Called by `latencies` and `audit`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum

import numpy as np
from numpy.typing import NDArray

from loadtest.audit.finding import show_exact
from loadtest.audit.table import Row, Table

_SUM_SHARE = 1e-11
"""By how much sums of the same latencies in another order may differ."""

_MOST_TRIED = 20_000
"""Numbers for three endpoints at once: of more of them, some would fit any mean."""


@dataclass(frozen=True)
class _Kind:
    """Endpoints of the same mean."""

    mean_ms: float
    requests: int


def find_untimed(row: Row) -> int | None:
    """Return with how few requests without a response time the mean of all is as printed; None if with no number.

    With t timed requests of each endpoint the mean of all M is Σ t × mean ÷ Σ t, so that Σ t × (mean − M) = 0. Up to
    three endpoints may have fewer than they count. Few whole numbers solve that as exactly as Locust prints its means,
    so a mean that was changed hardly ever passes.
    """
    whole = row.all.avg_ms
    if whole is None or not row.may_lack_times:
        return None
    kinds = _kinds(row)
    means = [whole, *(part.avg_ms for part in row.parts.values() if part.avg_ms is not None)]
    rounded_ms = max(((mean.high - mean.low) / 2 for mean in means if mean.is_rounded), default=0.0)
    margin_ms = max(2 * rounded_ms, _SUM_SHARE * whole.value)
    found = [
        untimed
        for size in range(1, 4)
        for free in combinations(kinds, size)
        if (untimed := _solve(free, [kind for kind in kinds if kind not in free], whole.value, margin_ms)) is not None
    ]
    return min(found, default=None)


def list_untimed(table: Table) -> Iterator[str]:
    """Yield a note for each row whose mean only requests without a response time explain."""
    for row in table.rows:
        mixed, whole = row.mixed_avg_ms(), row.all.avg_ms
        if mixed is None or whole is None or mixed.overlaps(whole):
            continue
        untimed = find_untimed(row)
        if untimed is not None:
            yield (
                f"{row.name}: the endpoints' means and counts make a mean of {show_exact(mixed.value)} ms, printed is "
                f"{show_exact(whole.value)} ms; that fits if {untimed} of the {row.all.requests} requests had no "
                "response time, for Locust counts those and leaves them out of its latencies"
            )


def _kinds(row: Row) -> list[_Kind]:
    counts: Counter[float] = Counter()
    for part in row.parts.values():
        if part.avg_ms is not None and part.requests:
            counts[part.avg_ms.value] += part.requests
    return [_Kind(mean_ms, requests) for mean_ms, requests in counts.items()]


def _solve(free: Sequence[_Kind], fixed: Sequence[_Kind], mean_ms: float, margin_ms: float) -> int | None:
    """Return the fewest untimed requests of the endpoints in `free` that give the mean; all others are timed."""
    last, *others = sorted(free, key=lambda kind: kind.requests, reverse=True)
    counts = [kind.requests for kind in others]
    if last.mean_ms == mean_ms or (len(free) > 2 and np.prod([count + 1 for count in counts]) > _MOST_TRIED):  # noqa: PLR2004
        return None
    tried = _all_numbers(counts)
    means_ms = np.array([kind.mean_ms for kind in others])
    fixed_timed = sum(kind.requests for kind in fixed)
    excess = tried @ (means_ms - mean_ms) + fsum(kind.requests * (kind.mean_ms - mean_ms) for kind in fixed)
    exactly = excess / (mean_ms - last.mean_ms)
    needed = np.rint(exactly)
    timed = tried.sum(axis=1) + fixed_timed + needed
    allowed = timed * margin_ms / abs(mean_ms - last.mean_ms)
    fits = (abs(exactly - needed) <= allowed) & (needed >= 0) & (needed <= last.requests) & (timed > 0)
    total = fixed_timed + sum(kind.requests for kind in free)
    return int(total - timed[fits].max()) if fits.any() else None


def _all_numbers(counts: Sequence[int]) -> NDArray[np.float64]:
    """Return every combination of numbers from 0 to each of the counts, a row each; an empty row without counts."""
    grids = np.meshgrid(*(np.arange(count + 1, dtype=np.float64) for count in counts), indexing="ij")
    return np.stack([grid.ravel() for grid in grids], axis=1) if counts else np.zeros((1, 0))
