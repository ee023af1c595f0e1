"""What a target might have measured in other runs of the same kind: its requests resampled in two ways.

Called by `comparison`. Latencies that follow each other are alike (a queue lasts), and so are those of one repetition
(a machine has good and bad minutes); an interval for independent samples would be far too narrow. So draws are made
twice. By time: of each repetition, blocks of seconds with replacement, the circular block bootstrap (Politis and
Romano 1992). By repetition: whole repetitions with replacement, the cluster bootstrap (Davison and Hinkley 1997,
section 3.8); it sees all that differs from run to run, but from few values. `differences` takes the larger spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import cbrt, ceil, log10, sqrt

import numpy as np
from numpy.typing import NDArray

from loadtest.reporting.traffic import Requests, Window, pool_requests

DRAWS = 2000
"""Of these only the spread is used, whose own standard error is then 1.6 %."""

SEED = 1992
"""The same raw rows must give the same report."""

_Numbers = NDArray[np.float64]
"""Draws are an array of two rows, by time and by repetition; with a single repetition the second has no spread."""


@dataclass(frozen=True)
class Repetition:
    """One valid cell: the requests that were sent in its steady window."""

    window: Window
    requests: Requests

    @cached_property
    def seconds(self) -> int:
        """Return the number of seconds begun in the window."""
        return max(1, ceil(self.window.length_s))

    def second_of_each(self) -> NDArray[np.int64]:
        """Return in which second of the window each request was sent, from 0."""
        since_s = self.requests.sent_unix_s - self.window.begin_unix_s
        return np.clip(since_s.astype(np.int64), 0, self.seconds - 1)


class Resampled:
    """One target at one number of users, measured in one or more repetitions, and its draws."""

    def __init__(self, repetitions: Sequence[Repetition], seed: Sequence[int], draws: int = DRAWS) -> None:
        """Draw; the same seed gives the same draws."""
        self.repetitions = len(repetitions)
        self.requests = pool_requests([repetition.requests for repetition in repetitions])
        self._right: dict[str, NDArray[np.bool_]] = {}
        begins = np.cumsum([0, *(repetition.seconds for repetition in repetitions)])
        self._second = np.concatenate(
            [begin + repetition.second_of_each() for begin, repetition in zip(begins, repetitions, strict=False)]
        )
        self._seconds = int(begins[-1])
        lengths_s = [np.full(part.seconds, part.window.length_s / part.seconds) for part in repetitions]
        self._length_s = np.concatenate(lengths_s)
        seconds = [repetition.seconds for repetition in repetitions]
        block_s = max(choose_block_s(_latency_sums(repetition)) for repetition in repetitions)
        generator = np.random.default_rng([SEED, *seed])
        # Draws × seconds: how often each second of each repetition is in each draw.
        self._by_time = _draw_seconds(seconds, block_s, draws, generator)
        self._by_repetition = np.repeat(_draw_counts(len(seconds), len(seconds), draws, generator), seconds, axis=1)

    def variance(self, draws: _Numbers) -> tuple[float, float]:
        """Return the variance of draws by time, and by repetition where there are several.

        Of R repetitions the latter is too small by (R − 1) ÷ R (Hesterberg 2015, "What teachers should know about the
        bootstrap", section 3.2), and it is itself uncertain: a ratio to it has Student's distribution with n =
        2 (R − 1) degrees of freedom for two targets, of which the variance is n ÷ (n − 2). Together that is
        R ÷ (R − 2) from R = 3 on.
        """
        by_time, by_repetition = (float(one) for one in draws.var(axis=1))
        count = self.repetitions
        if count < 3:  # noqa: PLR2004 # of two, the spread says next to nothing; `differences` asks for more then
            return by_time, by_repetition * count if count > 1 else by_time
        return by_time, by_repetition * count / (count - 2)

    def failures(self) -> tuple[float, _Numbers]:
        """Return the share of failed requests, from 0 to 1, and that of each draw."""
        failed = self.requests.failed
        return float(failed.mean()), self._drawn(failed) / self._drawn(np.ones(len(failed), np.bool_))

    def rps(self) -> tuple[float, _Numbers]:
        """Return the requests per second, and those of each draw."""
        drawn = self._drawn(np.ones(len(self.requests.failed), np.bool_))
        return len(self.requests.failed) / float(self._length_s.sum()), drawn / self._sums(self._length_s)

    def right(self, endpoint: str) -> NDArray[np.bool_]:
        """Return which requests were right answers of an endpoint, with a latency."""
        if endpoint not in self._right:
            self._right[endpoint] = (self.requests.endpoint == endpoint) & self.requests.timed
        return self._right[endpoint]

    def percentile_ms(self, endpoint: str, share: float) -> tuple[float, _Numbers]:
        """Return a percentile of an endpoint's right answers, at least one, and that of each draw, milliseconds.

        How much of a draw lies at or below the measured percentile tells how far the draw's own percentile is from
        it, read from the measured distribution (Woodruff 1952, "Confidence intervals for medians and other position
        measures").
        """
        right = self.right(endpoint)
        ordered_ms = np.sort(self.requests.latency_ms[right])
        measured_ms = float(np.percentile(ordered_ms, 100 * share, method="inverted_cdf"))
        below = right & (self.requests.latency_ms <= measured_ms)
        all_drawn = self._drawn(right)
        drawn_share = self._drawn(below) / np.where(all_drawn > 0, all_drawn, np.inf)
        moved_share = share - (drawn_share - below.sum() / right.sum()) * (all_drawn > 0)
        ranks = np.clip(np.ceil(moved_share * ordered_ms.size).astype(np.int64), 1, ordered_ms.size)
        return measured_ms, ordered_ms[ranks - 1]

    def _drawn(self, which: NDArray[np.bool_]) -> _Numbers:
        """Return how many of those requests each draw has."""
        counts: _Numbers = np.bincount(self._second[which], minlength=self._seconds).astype(np.float64)
        return self._sums(counts)

    def _sums(self, by_second: _Numbers) -> _Numbers:
        """Return the sums of each draw."""
        return np.stack([weights @ by_second for weights in (self._by_time, self._by_repetition)])


def choose_block_s(series: _Numbers) -> int:
    """Return the length of blocks, in seconds, that suits how long a series of one value a second remembers.

    Politis and White 2004, "Automatic block-length selection for the dependent bootstrap", for circular blocks, as
    corrected by Patton, Politis and White 2009; at least the cube root of the length, at most a third of it.
    """
    count = len(series)
    most = max(1, count // 3)
    least = min(most, ceil(cbrt(count)))
    deviations = series - series.mean()
    variance = float(deviations @ deviations) / count
    if variance <= 0 or least == most:
        return least
    alike = max(5, ceil(sqrt(log10(count))))
    lags = np.arange(min(count - 1, ceil(sqrt(count)) + alike) + 1)
    covariances = np.array([float(deviations[lag:] @ deviations[: count - lag]) / count for lag in lags])
    small = np.abs(covariances / variance) < 2 * sqrt(log10(count) / count)
    last = next((lag for lag in lags if small[lag + 1 : lag + 1 + alike].all()), lags[-1])
    width = max(1, min(2 * int(last), len(lags) - 1))
    kept = np.arange(1, width + 1)
    taper = np.clip(2 * (1 - kept / width), 0, 1)  # the flat-top lag window of Politis and Romano 1995
    spectrum = variance + 2 * float(taper @ covariances[kept])
    slope = 2 * float((taper * kept) @ covariances[kept])
    if spectrum <= 0:
        return most
    best = cbrt(1.5 * (slope / spectrum) ** 2 * count)
    return min(max(ceil(best), least), most)


def _latency_sums(repetition: Repetition) -> _Numbers:
    """Return the sum of latencies of each second's requests: it follows the queue."""
    latency_ms = np.nan_to_num(repetition.requests.latency_ms)
    sums_ms = np.bincount(repetition.second_of_each(), latency_ms, repetition.seconds)
    return sums_ms.astype(np.float64)


def _draw_seconds(
    lengths_s: Sequence[int], block_s: int, draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return how often each second of all repetitions is in each draw of blocks within each of them."""
    parts = []
    for length_s in lengths_s:
        began = _draw_counts(length_s, ceil(length_s / block_s), draws, generator)
        # A second is covered by the blocks that began in it or in the block_s - 1 seconds before it, around the end.
        around = np.concatenate([np.zeros((draws, 1)), began[:, length_s - block_s + 1 :], began], axis=1)
        sums = np.cumsum(around, axis=1)
        parts.append(sums[:, block_s:] - sums[:, :-block_s])
    return np.concatenate(parts, axis=1)


def _draw_counts(things: int, picks: int, draws: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return how often each of `things` is among as many `picks` with replacement; draws × things."""
    picked = generator.integers(things, size=(draws, picks)) + things * np.arange(draws)[:, None]
    return np.bincount(picked.ravel(), minlength=draws * things).reshape(draws, things).astype(np.float64)
