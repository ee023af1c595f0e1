"""Which candidates are measured how long: successive halving within a budget of time. Pure: numbers in, numbers out.

Successive halving (Jamieson and Talwalkar 2016): all candidates are measured briefly, the better half longer, and so
on; here the last round measures its finalists several times over, in turns.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import fsum
from typing import TypeVar

MOST_TIMES_MORE = 2
"""So many times the wanted repetitions of the final are made at most, if there is time."""

_GROWTHS = (2.0, 1.5, 1.25, 1.0)

_Item = TypeVar("_Item", bound=Hashable)


@dataclass(frozen=True)
class Round:
    """So many candidates, each measured so often for so long."""

    candidates: int
    repetitions: int
    duration_s: int
    """Of each load, its ramp included."""

    @property
    def cells(self) -> int:
        """Return how many cells that makes."""
        return self.candidates * self.repetitions


@dataclass(frozen=True)
class Costs:
    """What cells take, and what is wanted at least."""

    overhead_s: float
    """Of a cell besides its load: start, warm-up, stop."""
    shortest_s: int
    """The shortest load that means something."""
    repetitions: int = 3
    """Of the final."""

    def of(self, rounds: Sequence[Round]) -> float:
        """Return what rounds take, seconds."""
        return fsum(each.cells * (self.overhead_s + each.duration_s) for each in rounds)


def halve(candidates: int, finalists: int) -> list[int]:
    """Return how many candidates each round has, the last one being the final."""
    sizes = [candidates]
    while sizes[-1] > finalists:
        sizes.append(max(finalists, math.ceil(sizes[-1] / 2)))
    return sizes


def count_affordable(candidates: int, finalists: int, costs: Costs, left_s: float) -> int:
    """Return how many of the candidates can be searched; never fewer than the final takes."""
    for count in range(candidates, finalists, -1):
        if costs.of(_rounds(halve(count, finalists), 1.0, costs.repetitions, costs)) <= left_s:
            return count
    return min(candidates, finalists)


def plan_rounds(sizes: Sequence[int], costs: Costs, left_s: float) -> list[Round]:
    """Return rounds of these sizes that take at most `left_s`; none if nothing fits.

    Loads grow from round to round if there is time; time left over goes into repetitions of the final. If even the
    shortest loads do not fit, the rounds before the final are left out, then repetitions of the final.
    """
    if not sizes:
        return []
    for rounds in _options(sizes, costs):
        spare_s = left_s - costs.of(rounds)
        if spare_s >= 0:
            return [*rounds[:-1], _repeated(rounds[-1], costs, spare_s)]
    return []


def promote(ranked: Sequence[_Item], groups: Sequence[Hashable], count: int) -> list[_Item]:
    """Return the first `count` of `ranked` (best first), but of each group at least the first, as far as they go.

    `groups` holds the group of each item: so the final can compare the best of each group.
    """
    firsts = {group: index for index, group in reversed(list(enumerate(groups)))}
    kept = sorted(firsts.values())[:count]
    kept += [index for index in range(len(ranked)) if index not in kept][: max(0, count - len(kept))]
    return [ranked[index] for index in sorted(kept)]


def _options(sizes: Sequence[int], costs: Costs) -> Iterator[list[Round]]:
    for growth in _GROWTHS:
        yield _rounds(sizes, growth, costs.repetitions, costs)
    for repetitions in range(costs.repetitions, 0, -1):
        yield _rounds(sizes[-1:], 1.0, repetitions, costs)


def _rounds(sizes: Sequence[int], growth: float, repetitions: int, costs: Costs) -> list[Round]:
    last = len(sizes) - 1
    return [
        Round(size, repetitions if number == last else 1, round(costs.shortest_s * growth**number))
        for number, size in enumerate(sizes)
    ]


def _repeated(final: Round, costs: Costs, spare_s: float) -> Round:
    if final.repetitions < costs.repetitions:
        return final
    more = int(spare_s // (final.candidates * (costs.overhead_s + final.duration_s)))
    return Round(final.candidates, min(MOST_TIMES_MORE * costs.repetitions, final.repetitions + more), final.duration_s)
