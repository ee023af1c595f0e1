"""One figure of two targets at one number of users: by how much it differs, and whether that is more than chance.

Called by `comparison`. The difference is the ratio of the two values, with a confidence interval on the scale of its
logarithm: the estimate ± z · standard error (the bootstrap standard interval, Efron and Tibshirani 1993, chapter 12).
The standard error is the larger one of those of the two bootstraps of `block_bootstrap`, over time and over
repetitions. The difference of two shares of failures has Newcombe's interval (`intervals`), for as many independent
requests as the requests at hand are worth (Kish 1965, design effect).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from loadtest.figures.figures import Difference, Verdict
from loadtest.figures.traffic import Requests, Window, pool_requests
from loadtest.statistics.block_bootstrap import DRAWS, Resampled, Run
from loadtest.statistics.intervals import failures_difference_interval
from loadtest.statistics.percentiles import PERCENTILES, count_least_samples

LEAST_DIFFERENCE_PERCENT = 2.0
"""The interval must lie beyond this for a winner; a smaller difference is irrelevant."""

LARGE_DIFFERENCE_PERCENT = 25.0
"""Of the smaller value. An interval without a winner that reaches beyond this is no tie either, but not enough data."""

LEAST_FAILURES_POINTS = 0.1
"""Percentage points between two shares of failures; a smaller difference is irrelevant."""

LARGE_FAILURES_POINTS = 5.0
"""Percentage points: an interval without a winner that reaches beyond this is not enough data."""

FEW_FAILURES_POINTS = 1.0
"""Percentage points: what it takes with fewer than LEAST_REPETITIONS."""

LEAST_REPETITIONS = 3
"""With fewer there is no telling how much two runs of one target differ; then it takes a large difference to win."""

FAILURES = "failures_percent"
THROUGHPUT = "rps"


@dataclass(frozen=True)
class Repetition:
    """One valid cell: the requests that were sent in its steady window."""

    window: Window
    requests: Requests


class Side:
    """One target of a pair at one number of users: its requests, and their draws."""

    def __init__(self, name: str, repetitions: Sequence[Repetition], seed: Sequence[int], draws: int = DRAWS) -> None:
        """Draw; the same seed gives the same draws."""
        self.name = name
        self.requests = pool_requests([one.requests for one in repetitions])
        self.drawn = Resampled([_run_of(one) for one in repetitions], seed, draws)
        self._right: dict[str, NDArray[np.bool_]] = {}

    def right(self, endpoint: str) -> NDArray[np.bool_]:
        """Return which requests were right answers of an endpoint, with a latency."""
        if endpoint not in self._right:
            self._right[endpoint] = (self.requests.endpoint == endpoint) & self.requests.timed
        return self._right[endpoint]

    def percentile_ms(self, endpoint: str, share: float) -> tuple[float, NDArray[np.float64]]:
        """Return a percentile of an endpoint's right answers, at least one, and that of each draw, milliseconds."""
        return self.drawn.percentile(self.requests.latency_ms, self.right(endpoint), share)


def _run_of(repetition: Repetition) -> Run:
    requests, window = repetition.requests, repetition.window
    # Latencies follow the queue, so they show how long the target remembers.
    return Run(window.length_s, requests.sent_unix_s - window.begin_unix_s, requests.latency_ms)


@dataclass(frozen=True)
class _Thresholds:
    """From where on a difference is one, with enough repetitions and with few; and from where on it is large."""

    least: float
    few: float
    large: float


_LOG_LARGE = log(1 + LARGE_DIFFERENCE_PERCENT / 100)
_RATIOS = _Thresholds(least=log(1 + LEAST_DIFFERENCE_PERCENT / 100), few=_LOG_LARGE, large=_LOG_LARGE)
_SHARES = _Thresholds(LEAST_FAILURES_POINTS / 100, FEW_FAILURES_POINTS / 100, LARGE_FAILURES_POINTS / 100)


def find_difference(metric: str, pair: tuple[Side, Side], confidence: float) -> Difference:
    """Return how the second of two targets differs from the first in `metric`, such as `rps` or `predict.p95_ms`."""
    return _failures(pair, confidence) if metric == FAILURES else _ratio(metric, pair, confidence)


def _ratio(metric: str, pair: tuple[Side, Side], confidence: float) -> Difference:
    (first, first_draws), (second, second_draws) = (_measure(metric, side, confidence) for side in pair)
    if not first or not second or min(first_draws.min(), second_draws.min()) <= 0:
        return _difference(metric, pair, (first, second), _Judgement("not enough data", because="too few samples"))
    variances = [
        side.drawn.variance(np.log(draws)) for side, draws in zip(pair, (first_draws, second_draws), strict=True)
    ]
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * sqrt(max(map(sum, zip(*variances, strict=True))))
    middle = log(second / first)
    judgement = _judge((middle - half, middle + half), _RATIOS, pair)
    percent = [100 * change for change in (second / first - 1, exp(middle - half) - 1, exp(middle + half) - 1)]
    return _difference(metric, pair, (first, second), judgement, percent)


def _failures(pair: tuple[Side, Side], confidence: float) -> Difference:
    (failures, requests), (more_failures, more_requests) = first, second = [_worth(side) for side in pair]
    low, high = failures_difference_interval(first, second, confidence)
    shares = 100 * failures / requests, 100 * more_failures / more_requests
    return _difference(
        FAILURES, pair, shares, _judge((low, high), _SHARES, pair), [shares[1] - shares[0], 100 * low, 100 * high]
    )


@dataclass(frozen=True)
class _Judgement:
    verdict: Verdict
    sign: int = 0
    """Which way a winner's difference goes; 1: the second is larger."""
    because: str = ""
    """What the data lacks."""


def _difference(
    metric: str,
    pair: tuple[Side, Side],
    values: tuple[float | None, float | None],
    judgement: _Judgement,
    percent: Sequence[float] = (),
) -> Difference:
    """Return the difference of two values; `percent` is by how much, and the ends of its interval."""
    better = judgement.sign if metric == THROUGHPUT else -judgement.sign
    rounded = [round(number, 4) for number in percent]
    return Difference(
        metric=metric,
        verdict=judgement.verdict,
        because=judgement.because,
        winner={1: pair[1].name, -1: pair[0].name, 0: None}[better],
        values={side.name: round(value, 4) for side, value in zip(pair, values, strict=True) if value is not None},
        samples={side.name: _samples(metric, side) for side in pair},
        difference_percent=rounded[0] if rounded else None,
        interval_percent=(rounded[1], rounded[2]) if rounded else None,
    )


def _worth(side: Side) -> tuple[float, float]:
    """Return the equivalent numbers of independent failures and requests: failures come in bursts, and on bad runs."""
    share, draws = side.drawn.share(side.requests.failed)
    requests = float(side.drawn.events)
    design_effect = 1.0
    if 0 < share < 1:
        design_effect = max(1.0, max(side.drawn.variance(draws)) * requests / (share * (1 - share)))
    return share * requests / design_effect, requests / design_effect


def _judge(interval: tuple[float, float], thresholds: _Thresholds, pair: tuple[Side, Side]) -> _Judgement:
    low, high = interval
    few = min(side.drawn.runs for side in pair) < LEAST_REPETITIONS
    least = thresholds.few if few else thresholds.least
    if low > least or high < -least:
        return _Judgement("winner", 1 if low > 0 else -1)
    is_sure = low > 0 or high < 0
    lacks = ""
    if few and is_sure:
        lacks = f"so small a difference takes {LEAST_REPETITIONS} repetitions"
    elif max(high, -low) > thresholds.large:
        lacks = "the interval leaves a large difference possible"
    elif few:
        lacks = f"how much runs differ by themselves takes {LEAST_REPETITIONS} repetitions to see"
    elif is_sure and max(high, -low) > thresholds.least:
        lacks = "there is a difference, perhaps too small to matter"
    return _Judgement("not enough data" if lacks else "tie", because=lacks)


def _measure(metric: str, side: Side, confidence: float) -> tuple[float | None, NDArray[np.float64]]:
    """Return a figure and its draws; None for a percentile with too few samples for bounds on both sides."""
    if metric == THROUGHPUT:
        return side.drawn.rate()
    endpoint, name = metric.rsplit(".", 1)
    if _samples(metric, side) < count_least_samples(PERCENTILES[name], 0.5 + confidence / 2):
        return None, np.zeros(1)
    return side.percentile_ms(endpoint, PERCENTILES[name])


def _samples(metric: str, side: Side) -> int:
    """Return how many requests a figure is made of: all, or an endpoint's right answers."""
    if metric in (FAILURES, THROUGHPUT):
        return side.drawn.events
    return int(side.right(metric.rsplit(".", 1)[0]).sum())
