"""How fast a figure grows although its process is replaced now and then: a slope within lives, with its error.

Between two lives of a role's processes the memory jumps, which is no growth. So the slopes between any two points of
the same life are pooled, and their median is the estimate: Sen, "Estimates of the regression coefficient based on
Kendall's tau", JASA 63 (1968), with lives in the place of seasons as in Hirsch, Slack & Smith, "Techniques of trend
analysis for monthly water quality data", Water Resources Research 18 (1982). The 95 % interval is Sen's, from the
variance of Kendall's S summed over the lives; it takes the points for independent, so they are means of 10 s. Beside
it is the ordinary least squares slope with one level for each life, and its standard error.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np

_Z95 = 1.959964
_LEAST_POINTS = 3


@dataclass(frozen=True, slots=True)
class Point:
    """A figure at a moment of one life."""

    at_s: float
    value: float
    life: int


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth per second."""

    per_s: float
    low_per_s: float
    high_per_s: float
    """The 95 % interval."""
    least_squares_per_s: float
    least_squares_error_per_s: float
    """One standard error."""
    points: int


def means(points: Sequence[Point], every_s: float) -> list[Point]:
    """Return one point, the mean, for each life and each `every_s`."""
    bins: dict[tuple[int, int], list[Point]] = defaultdict(list)
    for point in points:
        bins[point.life, int(point.at_s // every_s)].append(point)
    return [
        Point(
            fsum(point.at_s for point in part) / len(part),
            fsum(point.value for point in part) / len(part),
            life,
        )
        for (life, _), part in sorted(bins.items())
    ]


def slope_within_lives(points: Sequence[Point]) -> Slope | None:
    """Return the slope; None with fewer than 3 points in any one life."""
    lives = [life for life in _lives(points) if len(life) >= _LEAST_POINTS]
    if not lives:
        return None
    slopes = np.sort(np.concatenate([_pair_slopes(life) for life in lives]))
    variance = fsum(len(life) * (len(life) - 1) * (2 * len(life) + 5) / 18 for life in lives)
    margin = _Z95 * math.sqrt(variance)
    count = len(slopes)
    # Sen's limits are the slopes of rank (count - margin) / 2 and 1 + (count + margin) / 2; the first has rank 1.
    low = slopes[max(0, math.floor((count - margin) / 2) - 1)]
    high = slopes[min(count - 1, math.ceil((count + margin) / 2))]
    ols, error = _least_squares(lives)
    return Slope(float(np.median(slopes)), float(low), float(high), ols, error, sum(map(len, lives)))


def _lives(points: Sequence[Point]) -> list[list[Point]]:
    lives: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        lives[point.life].append(point)
    return list(lives.values())


def _pair_slopes(life: list[Point]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    at = np.array([point.at_s for point in life])
    value = np.array([point.value for point in life])
    first, second = np.triu_indices(len(life), k=1)
    slopes: np.ndarray[tuple[int], np.dtype[np.float64]] = (value[second] - value[first]) / (at[second] - at[first])
    return slopes


def _least_squares(lives: list[list[Point]]) -> tuple[float, float]:
    """Return the slope about each life's own mean, and its standard error."""
    at = [value for life in lives for value in _centred([point.at_s for point in life])]
    value = [value for life in lives for value in _centred([point.value for point in life])]
    spread = fsum(x * x for x in at)
    slope = fsum(x * y for x, y in zip(at, value, strict=True)) / spread
    freedom = len(at) - len(lives) - 1
    rest = fsum((y - slope * x) ** 2 for x, y in zip(at, value, strict=True))
    return slope, math.sqrt(rest / freedom / spread) if freedom > 0 else math.inf


def _centred(values: list[float]) -> list[float]:
    mean = fsum(values) / len(values)
    return [value - mean for value in values]
