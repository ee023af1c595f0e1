"""How far two services, or two engines, agree about pictures whose classes nobody knows. Arithmetic only."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import NormalDist

CONFIDENCE = 0.95
BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0)
"""Upper bounds of the groups in which differences of probability are counted."""
PERCENTS = {"median": 50, "p90": 90, "p99": 99, "largest": 100}

Best = tuple[tuple[int, float], ...]
"""Pairs of class index and probability, best first."""


@dataclass(frozen=True)
class Share:
    """How many of how many; `of` is above 0."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of the share with CONFIDENCE: the score interval, Wilson 1927, JASA 22(158), equation (4).

        (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) ÷ (1 + z²/n), where z is the normal quantile.
        """
        z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
        share, n = self.value, self.of
        middle = share + z**2 / (2 * n)
        half = z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
        # Rounding must not put the observed share outside.
        return max(0.0, min(low, share)), min(1.0, max(high, share))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers about one picture, the classes of both by the index of the first service."""

    file: str
    first: Best
    second: Best

    @property
    def agrees(self) -> bool:
        """Whether both name the same best class."""
        return self.first[0][0] == self.second[0][0]

    @property
    def difference(self) -> float:
        """The largest difference of probability of any class, 0 to 1.

        A class that one answer does not list has at most the lowest probability that it lists, so where classes are
        not listed this is the least that the difference can be.
        """
        sides = (dict(self.first), dict(self.second))
        lowest = [min(side.values()) for side in sides]
        both = [abs(sides[0][index] - sides[1][index]) for index in sides[0].keys() & sides[1].keys()]
        one = [
            sides[side][index] - lowest[1 - side]
            for side in (0, 1)
            for index in sides[side].keys() - sides[1 - side].keys()
        ]
        return max(0.0, *both, *one)


@dataclass(frozen=True)
class Agreement:
    """The agreement over one or more pairs."""

    top1: Share
    percentiles: Mapping[str, float]
    """Of the differences of probability, for each of PERCENTS."""
    groups: Sequence[tuple[float, int]]
    """For each of BOUNDS, the pairs whose difference is at most that, and above the one before."""
    worst: Sequence[Pair]
    """All pairs: those that disagree first, then by difference."""


def measure_agreement(pairs: Sequence[Pair]) -> Agreement:
    """Return the agreement of one or more `pairs`."""
    differences = sorted(pair.difference for pair in pairs)
    groups = [bisect_left(BOUNDS, difference) for difference in differences]
    return Agreement(
        top1=Share(sum(pair.agrees for pair in pairs), len(pairs)),
        # The nearest rank: the smallest difference that so many percent of the pairs do not exceed.
        percentiles={name: differences[ceil(len(pairs) * percent / 100) - 1] for name, percent in PERCENTS.items()},
        groups=[(bound, groups.count(place)) for place, bound in enumerate(BOUNDS)],
        worst=sorted(pairs, key=lambda pair: (pair.agrees, -pair.difference, pair.file)),
    )
