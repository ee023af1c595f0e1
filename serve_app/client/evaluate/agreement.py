"""How far two services agree about pictures whose classes nobody knows. Arithmetic only."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from serve_app.client.errors import UsageError
from serve_app.client.evaluate.accuracy import Best, Share

BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.5, 1.0)
"""Upper bounds of the groups in which differences of probability are counted."""
PERCENTS = {"median": 50, "p90": 90, "p99": 99, "largest": 100}


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


def match_classes(first: Sequence[str], second: Sequence[str], *, by_index: bool) -> Sequence[int]:
    """Return for each class of the second service the index that its answers have in a Pair.

    `by_index` where labels are placeholders on one side. Otherwise classes with the same label are the same; one that
    the first service does not have gets an index behind its classes. Raises UsageError without a class in common.
    """
    if list(first) == list(second) or (by_index and len(first) == len(second)):
        return range(len(second))
    indexes = {label: index for index, label in reversed(list(enumerate(first)))}
    if by_index or not indexes.keys() & set(second):
        raise UsageError(
            f"--against: its {len(second):,} classes and the {len(first):,} of --server have no label in common: "
            "their answers cannot be compared; serve both with the same `labels:`"
        )
    return [indexes.get(label, len(first) + place) for place, label in enumerate(second)]
