"""What other runs of the same kind might have measured: the events of runs resampled in two ways.

Values that follow each other are alike (a queue lasts), and so are those of one run (a machine has good and bad
minutes); an interval for independent samples would be far too narrow. So draws are made twice. By time: of each run,
blocks of seconds with replacement, the circular block bootstrap (Politis and Romano 1992). By run: whole runs with
replacement, the cluster bootstrap (Davison and Hinkley 1997, section 3.8); it sees all that differs from run to run,
but from few values. `differences` takes the larger spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import cbrt, ceil, fsum, log10, sqrt

import numpy as np
from numpy.typing import NDArray

from loadtest.statistics.percentiles import percentile

DRAWS = 2000
"""Of these only the spread is used, whose own standard error is then 1.6 %."""

SEED = 1992
"""The same raw rows must give the same report."""

_Numbers = NDArray[np.float64]
"""Draws are an array of two rows, by time and by run; with a single run the second has no spread."""


@dataclass(frozen=True)
class Run:
    """Events of one run of an experiment, each with its moment and a value."""

    length_s: float
    at_s: _Numbers
    """From the begin of the run."""
    values: _Numbers
    """Whose sums by second show how long the run remembers, such as latencies."""

    @cached_property
    def seconds(self) -> int:
        """Return the number of seconds begun in the run."""
        return max(1, ceil(self.length_s))

    def second_of_each(self) -> NDArray[np.int64]:
        """Return in which second of the run each event was, from 0."""
        return np.clip(self.at_s.astype(np.int64), 0, self.seconds - 1)


class Resampled:
    """The events of one or more runs together, in the order of the runs, and their draws."""

    def __init__(self, runs: Sequence[Run], seed: Sequence[int], draws: int = DRAWS) -> None:
        """Draw; the same seed gives the same draws."""
        self.runs = len(runs)
        self.events = sum(len(run.at_s) for run in runs)
        self._measured_s = fsum(run.length_s for run in runs)
        seconds = [run.seconds for run in runs]
        begins = np.cumsum([0, *seconds])
        self._second = np.concatenate([begin + run.second_of_each() for begin, run in zip(begins, runs, strict=False)])
        self._seconds = int(begins[-1])
        self._length_s = np.concatenate([np.full(run.seconds, run.length_s / run.seconds) for run in runs])
        block_s = max(choose_block_s(_sums_by_second(run)) for run in runs)
        generator = np.random.default_rng([SEED, *seed])
        # Draws × seconds: how often each second of each run is in each draw.
        self._by_time = _draw_seconds(seconds, block_s, draws, generator)
        self._by_run = np.repeat(_draw_counts(len(seconds), len(seconds), draws, generator), seconds, axis=1)

    def variance(self, draws: _Numbers) -> tuple[float, float]:
        """Return the variance of draws by time, and by run where there are several.

        Of R runs the latter is too small by (R − 1) ÷ R (Hesterberg 2015, "What teachers should know about the
        bootstrap", section 3.2), and it is itself uncertain: a ratio to it has Student's distribution with n =
        2 (R − 1) degrees of freedom for two targets, of which the variance is n ÷ (n − 2). Together that is
        R ÷ (R − 2) from R = 3 on.
        """
        by_time, by_run = (float(one) for one in draws.var(axis=1))
        if self.runs < 3:  # noqa: PLR2004 # of two, the spread says next to nothing; `differences` asks for more then
            return by_time, by_run * self.runs if self.runs > 1 else by_time
        return by_time, by_run * self.runs / (self.runs - 2)

    def share(self, which: NDArray[np.bool_]) -> tuple[float, _Numbers]:
        """Return the share of those events, from 0 to 1, and that of each draw: of one without events, the measured."""
        measured, drawn = float(which.mean()), self._drawn(np.ones(self.events, np.bool_))
        return measured, np.divide(self._drawn(which), drawn, out=np.full_like(drawn, measured), where=drawn > 0)

    def rate(self) -> tuple[float, _Numbers]:
        """Return the events per second, and those of each draw."""
        drawn = self._drawn(np.ones(self.events, np.bool_))
        return self.events / self._measured_s, drawn / self._sums(self._length_s)

    def percentile(self, values: _Numbers, which: NDArray[np.bool_], share: float) -> tuple[float, _Numbers]:
        """Return a percentile of the values of those events, at least one, and that of each draw.

        How much of a draw lies at or below the measured percentile tells how far the draw's own percentile is from
        it, read from the measured distribution (Woodruff 1952, "Confidence intervals for medians and other position
        measures").
        """
        ordered = np.sort(values[which])
        measured = percentile(ordered, share)
        assert measured is not None, "there is at least one value"
        below = which & (values <= measured)
        all_drawn = self._drawn(which)
        drawn_share = self._drawn(below) / np.where(all_drawn > 0, all_drawn, np.inf)
        moved_share = share - (drawn_share - below.sum() / which.sum()) * (all_drawn > 0)
        ranks = np.clip(np.ceil(moved_share * ordered.size).astype(np.int64), 1, ordered.size)
        return measured, ordered[ranks - 1]

    def _drawn(self, which: NDArray[np.bool_]) -> _Numbers:
        """Return how many of those events each draw has."""
        counts: _Numbers = np.bincount(self._second[which], minlength=self._seconds).astype(np.float64)
        return self._sums(counts)

    def _sums(self, by_second: _Numbers) -> _Numbers:
        """Return the sums of each draw."""
        return np.stack([weights @ by_second for weights in (self._by_time, self._by_run)])


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


def _sums_by_second(run: Run) -> _Numbers:
    return np.bincount(run.second_of_each(), np.nan_to_num(run.values), run.seconds).astype(np.float64)


def _draw_seconds(
    lengths_s: Sequence[int], block_s: int, draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return how often each second of all runs is in each draw of blocks within each of them."""
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
