"""Which load to measure next, and when the search is over: bracket, bisect, confirm. Pure; called by `capacity`.

All that is decided follows from the steps measured so far, so a search can be resumed from its record. It takes for
granted that what fails at one level fails at every higher one, and that a single step may be wrong, whichever way. So
both ends of the bracket are measured again before they are believed: the level that held by a longer confirmation, the
one that failed as often as it takes to agree. What then holds after all opens the bracket again.
"""

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from loadtest.figures.figures import LimitResult
from loadtest.plan.keys import Strict

Purpose = Literal["search", "recheck", "confirm"]
"""recheck: a level that failed once more, before it is believed."""
Outcome = Literal["held", "failed", "invalid"]

MOST_INVALID = 3
"""INVALID steps at one level, those of its confirmation apart; then the search ends, for the next would hardly be
better."""

AGREEING = 2
"""Steps that decide a level whose first was unsure, or whose failure decides the search: so two of three."""

FAR_SHARE = 0.5
"""Of a limit that is missed at the level above: where the largest level that held stays below, its neighbour should not
fail, and one more step than AGREEING must say so."""


class Bounds(Strict):
    """Where to look, and how closely. Levels are users, or requests per second."""

    start: PositiveFloat
    least: PositiveFloat
    most: PositiveFloat
    resolution_percent: PositiveFloat
    """Bisect until the smallest level that failed is at most so much above the largest that held."""
    whole: bool
    """Levels are whole numbers."""


class Step(Strict):
    """One load that was measured."""

    level: PositiveFloat
    purpose: Purpose
    outcome: Outcome
    unsure: bool
    """Whether chance may have decided: a figure near its limit, or too few samples."""
    because: str
    window_s: NonNegativeFloat = 0
    """The length of its steady window; 0 when it was not measured to its end."""
    requests: NonNegativeInt = 0
    """In the steady window."""
    rps: float | None = None
    limits: list[LimitResult] = []
    folder: str
    """Its run folder, within the folder of the search."""


class Todo(Strict):
    """The load to measure next."""

    level: PositiveFloat
    purpose: Purpose
    repeated: bool
    """Because the last one was not decided."""


class Result(Strict):
    """How the search ended."""

    status: Literal["confirmed", "none_holds", "stopped"]
    capacity: PositiveFloat | None
    """The largest level that held; confirmed by a longer run only with that status."""
    smallest_failed: PositiveFloat | None
    """None when nothing failed up to the highest level looked at."""
    because: str


def decide(steps: Sequence[Step], bounds: Bounds) -> Todo | Result:
    """Return what to measure next, or the result."""
    if (unsettled := _open_step(steps) or _contradiction(steps)) is not None:
        return unsettled
    held, failed = _interval(steps)
    if held is None or (failed is None and held < bounds.most) or (failed and failed - held > _finest(bounds, held)):
        level = _next_level(bounds, held, failed)
        if level is not None:
            return Todo(level=level, purpose="search", repeated=False)
    if failed is not None and _failures(steps, failed) < AGREEING + _is_far(steps, held, failed):
        return _recheck(steps, failed)
    if held is None:
        return Result(status="none_holds", capacity=None, smallest_failed=failed, because=_last_reason(steps))
    if _verdict(steps, held, "confirm") is None:
        return Todo(level=held, purpose="confirm", repeated=False)
    return _confirmed(steps, bounds, held, failed)


def most_levels(steps: Sequence[Step], bounds: Bounds) -> int:
    """Return at how many more levels the search looks at most, as long as no step contradicts another."""
    held, failed = _interval(steps)
    if held is not None and failed is not None:
        return _bisections(bounds, held, failed)
    ways = [holding for holding in (True, False) if (failed if holding else held) is None]
    return max(_most_in_a_row(bounds, held, failed, holding=holding) for holding in ways)


def _most_in_a_row(bounds: Bounds, held: float | None, failed: float | None, *, holding: bool) -> int:
    """Return the most levels if all hold, or all fail, but for the last, after which the interval is bisected."""
    count = most = 0
    while (held is None or held < bounds.most) and (level := _next_level(bounds, held, failed)):
        count += 1
        low, high = (held, level) if holding else (level, failed)
        most = max(most, count + (_bisections(bounds, low, high) if low and high else 0))
        held, failed = (level, None) if holding else (None, level)
    return most


def _bisections(bounds: Bounds, held: float, failed: float) -> int:
    width, count = failed - held, 0
    while width > _finest(bounds, held):
        width, count = (math.ceil(width / 2) if bounds.whole else width / 2), count + 1
    return count if bounds.whole or not count else count + 1  # rates are rounded


def _confirmed(steps: Sequence[Step], bounds: Bounds, held: float, failed: float | None) -> Result:
    doubts = [step.because for step in _at(steps, held, "confirm") if step.unsure][-1:]
    highest = max(_levels(steps, holding=True))
    if failed is None:
        doubts.append(f"nothing failed up to {bounds.most:g}, where the search ends")
    elif highest > failed:
        doubts.append(f"steps contradict each other: {failed:g} failed, and {highest:g} held")
    elif _is_far(steps, held, failed):
        doubts.append(f"{held:g} is far from the objective, and yet {failed:g} failed {_failures(steps, failed)} times")
    # Above all that held, so that the interval covers what is not certain.
    above = min((level for level in _levels(steps, holding=False) if level > highest), default=None)
    return Result(status="confirmed", capacity=held, smallest_failed=above, because="; ".join(doubts))


def _open_step(steps: Sequence[Step]) -> Todo | Result | None:
    """Return what to do about the last step if its level is not decided yet."""
    if not steps or _verdict(steps, steps[-1].level, steps[-1].purpose) is not None:
        return None
    last = steps[-1]
    return _repeat(steps, last.level, last.purpose)


def _recheck(steps: Sequence[Step], level: float) -> Todo | Result:
    """Measure a level once more, as it was measured when it was decided last."""
    return _repeat(steps, level, "confirm" if _at(steps, level, "confirm") else "recheck")


def _repeat(steps: Sequence[Step], level: float, purpose: Purpose) -> Todo | Result:
    """Measure a level once more, unless that was in vain too often."""
    invalid = [step for step in _at(steps, level, purpose) if step.outcome == "invalid"]
    if len(invalid) < MOST_INVALID:
        return Todo(level=level, purpose=purpose, repeated=True)
    held, failed = _interval(steps)
    what = f"{level:g} could not be measured, {len(invalid)} times"
    return Result(status="stopped", capacity=held, smallest_failed=failed, because=f"{what}: {invalid[-1].because}")


def _contradiction(steps: Sequence[Step]) -> Todo | Result | None:
    """Return what to measure again because a level failed below one that held: first the lower, then the higher."""
    held, failed = _levels(steps, holding=True), _levels(steps, holding=False)
    contradicting = [level for level in failed if level < max(held, default=0.0)]
    for level in contradicting:
        if _failures(steps, level) < AGREEING:
            return _recheck(steps, level)
    for level in sorted(held, reverse=True):
        if contradicting and level > min(contradicting) and len(_votes(steps, level, "held")) < AGREEING:
            return _recheck(steps, level)
    return None


def _verdict(steps: Sequence[Step], level: float, purpose: Purpose) -> bool | None:
    """Return whether a level held; None while that is open: if it is doubted, the first two steps that agree decide.

    A single step decides if it is sure, except that no single one decides against what held before.
    """
    votes = [step for step in _at(steps, level, purpose) if step.outcome != "invalid"]
    if len(votes) == 1 and not votes[0].unsure and (purpose != "confirm" or votes[0].outcome == "held"):
        return votes[0].outcome == "held"
    for outcome in ("held", "failed"):
        if sum(step.outcome == outcome for step in votes) >= AGREEING:
            return outcome == "held"
    return None


def _at(steps: Sequence[Step], level: float, purpose: Purpose) -> list[Step]:
    """Return the steps at a level that decide together: those of the search with what was measured again of it."""
    return [step for step in steps if step.level == level and (step.purpose == "confirm") == (purpose == "confirm")]


def _votes(steps: Sequence[Step], level: float, outcome: Outcome) -> list[Step]:
    """Return the steps at a level with an outcome; against it, those of a confirmation alone where there is one."""
    votes = [step for step in steps if step.level == level and step.outcome == outcome]
    confirming = [step for step in votes if step.purpose == "confirm"]
    return confirming if outcome == "failed" and confirming else votes


def _failures(steps: Sequence[Step], level: float) -> int:
    return len(_votes(steps, level, "failed"))


def _levels(steps: Sequence[Step], *, holding: bool) -> list[float]:
    """Return the levels that held, or failed, as far as that is decided; one whose confirmation fails has failed."""
    levels = sorted({step.level for step in steps})
    failed = [level for level in levels if False in _verdicts(steps, level)]
    return [level for level in levels if True in _verdicts(steps, level) and level not in failed] if holding else failed


def _verdicts(steps: Sequence[Step], level: float) -> list[bool | None]:
    return [_verdict(steps, level, purpose) for purpose in ("search", "confirm")]


def _interval(steps: Sequence[Step]) -> tuple[float | None, float | None]:
    """Return the largest level that held below all that failed, and the smallest that failed."""
    failed = min(_levels(steps, holding=False), default=None)
    held = [level for level in _levels(steps, holding=True) if failed is None or level < failed]
    return max(held, default=None), failed


def _is_far(steps: Sequence[Step], held: float | None, failed: float) -> bool:
    """Return whether a level that held stays far below every limit that is missed at the one that failed."""
    missed = {result.limit for step in _votes(steps, failed, "failed") for result in step.limits if not result.met}
    reached = [result for step in steps if step.level == held for result in step.limits if result.limit in missed]
    return bool(reached) and all(
        result.value is not None and result.value <= FAR_SHARE * result.limit.value and result.limit.value > 0
        for result in reached
    )


def _finest(bounds: Bounds, held: float) -> float:
    finest = held * bounds.resolution_percent / 100
    return max(1.0, finest) if bounds.whole else finest


def _next_level(bounds: Bounds, held: float | None, failed: float | None) -> float | None:
    """Return the level to look at next: doubled or halved until the interval has two ends, then its middle.

    None where there is none: below the least, or between two ends that differ in the last digit of a level.
    """
    if failed is None:
        return bounds.start if held is None else min(2 * held, bounds.most)
    if held is None:
        return None if failed <= bounds.least else max(bounds.least, _rounded(bounds, failed / 2))
    middle = _rounded(bounds, (held + failed) / 2)
    return middle if held < middle < failed else None


def _rounded(bounds: Bounds, level: float) -> float:
    return float(int(level)) if bounds.whole else float(f"{level:.4g}")


def _last_reason(steps: Sequence[Step]) -> str:
    return steps[-1].because if steps else ""
