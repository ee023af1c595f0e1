"""The one definition of a percentile, and how many samples one needs before it is told."""

from collections.abc import Sequence
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

PERCENTILES = {"median_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
"""Those of every report, by the names of their figures."""


def percentile(values: NDArray[np.float64] | Sequence[float], share: float) -> float | None:
    """Return the smallest value with at least that share of all values at or below it; None of none.

    Hyndman and Fan 1996, definition 1. Values that are nan count as missing.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(np.quantile(known, share, method="inverted_cdf")) if known.size else None


def sure_percentile(values: NDArray[np.float64] | Sequence[float], share: float) -> float | None:
    """Return the same; None with fewer values than LEAST_SAMPLES asks for."""
    return percentile(values, share) if len(values) >= LEAST_SAMPLES[share] else None


def count_least_samples(share: float, confidence: float) -> int:
    """Return how many samples it takes for the largest of them to be an upper bound of a percentile.

    That all of n independent samples lie below it has the probability share^n (Wilks 1941, distribution-free bounds by
    order statistics; the early stopping of MLPerf Inference, Reddi et al. 2020, rests on the same binomial reasoning).
    """
    return ceil(log(1 - confidence) / log(share))


LEAST_SAMPLES = {share: count_least_samples(share, CONFIDENCE) for share in PERCENTILES.values()}
"""By percentile as a share: with fewer samples it is not printed. 5 for the median, 59 for p95, 299 for p99."""
