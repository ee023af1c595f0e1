"""Which load to measure next, and when the search is over: bracket, bisect, confirm. Pure; called by `capacity`.

All that is decided follows from the steps measured so far, so a search can be resumed from its record. It takes for
granted that what fails at one level fails at every higher one; noise may contradict that once, which the confirmation
at the end is there to find.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat

from loadtest.reporting.figures import LimitResult

Purpose = Literal["search", "confirm"]
Outcome = Literal["held", "failed", "invalid"]

MOST_INVALID = 3
"""Steps at one level; then the search ends there, for the next would hardly be better."""

AGREEING = 2
"""Of at most three steps at a level whose first was unsure."""


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bounds(_Checked):
    """Where to look, and how closely. Levels are users, or requests per second."""

    start: PositiveFloat
    least: PositiveFloat
    most: PositiveFloat
    resolution_percent: PositiveFloat
    """Bisect until the smallest level that failed is at most so much above the largest that held."""
    whole: bool
    """Levels are whole numbers."""


class Step(_Checked):
    """One load that was measured."""

    level: PositiveFloat
    purpose: Purpose
    outcome: Outcome
    unsure: bool
    """Whether chance may have decided: a figure near its limit, or too few samples."""
    because: str
    window_s: NonNegativeFloat
    """The length of its steady window."""
    requests: NonNegativeInt
    """In the steady window."""
    rps: float | None
    limits: list[LimitResult]
    folder: str
    """Its run folder, within the folder of the search."""


class Todo(_Checked):
    """The load to measure next."""

    level: PositiveFloat
    purpose: Purpose
    repeated: bool
    """Because the last one was not decided."""


class Result(_Checked):
    """How the search ended."""

    status: Literal["confirmed", "none_holds", "stopped"]
    capacity: PositiveFloat | None
    """The largest level that held; confirmed by a longer run only with that status."""
    smallest_failed: PositiveFloat | None
    """None when nothing failed up to the highest level looked at."""
    because: str


def decide(steps: Sequence[Step], bounds: Bounds) -> Todo | Result:
    """Return what to measure next, or the result."""
    if steps:
        last = steps[-1]
        if _verdict(steps, last.level, last.purpose) is None:
            return _again(steps, last)
    held, failed = _interval(steps)
    if held is None or (failed is None and held < bounds.most) or (failed and failed - held > _finest(bounds, held)):
        level = _next_level(bounds, held, failed)
        if level is None:
            return Result(status="none_holds", capacity=None, smallest_failed=failed, because=_last_reason(steps))
        return Todo(level=level, purpose="search", repeated=False)
    if _verdict(steps, held, "confirm") is None:
        return Todo(level=held, purpose="confirm", repeated=False)
    doubts = [step.because for step in _at(steps, held, "confirm") if step.unsure][-1:]
    doubts += [] if failed else [f"nothing failed up to {bounds.most:g}, where the search ends"]
    because = "; ".join(doubts)
    return Result(status="confirmed", capacity=held, smallest_failed=failed, because=because)


def _again(steps: Sequence[Step], last: Step) -> Todo | Result:
    invalid = [step for step in _at(steps, last.level, last.purpose) if step.outcome == "invalid"]
    if len(invalid) < MOST_INVALID:
        return Todo(level=last.level, purpose=last.purpose, repeated=True)
    held, failed = _interval(steps)
    what = f"{last.level:g} could not be measured, {len(invalid)} times"
    return Result(status="stopped", capacity=held, smallest_failed=failed, because=f"{what}: {last.because}")


def _verdict(steps: Sequence[Step], level: float, purpose: Purpose) -> bool | None:
    """Return whether a level held; None while that is open: if it is unsure, two of three steps decide."""
    votes = [step for step in _at(steps, level, purpose) if step.outcome != "invalid"]
    if votes and not votes[0].unsure:
        return votes[0].outcome == "held"
    for outcome in ("held", "failed"):
        if sum(step.outcome == outcome for step in votes) >= AGREEING:
            return outcome == "held"
    return None


def _at(steps: Sequence[Step], level: float, purpose: Purpose) -> list[Step]:
    return [step for step in steps if (step.level, step.purpose) == (level, purpose)]


def _interval(steps: Sequence[Step]) -> tuple[float | None, float | None]:
    """Return the largest level that held below all that failed, and the smallest that failed."""
    verdicts = {(step.level, step.purpose): _verdict(steps, step.level, step.purpose) for step in steps}
    failed = min((level for (level, _), verdict in verdicts.items() if verdict is False), default=None)
    held = [level for (level, _), verdict in verdicts.items() if verdict and (failed is None or level < failed)]
    return max(held, default=None), failed


def _finest(bounds: Bounds, held: float) -> float:
    finest = held * bounds.resolution_percent / 100
    return max(1.0, finest) if bounds.whole else finest


def _next_level(bounds: Bounds, held: float | None, failed: float | None) -> float | None:
    """Return the level to look at next: doubled or halved until the interval has two ends, then its middle."""
    if failed is None:
        return bounds.start if held is None else min(2 * held, bounds.most)
    if held is None:
        return None if failed <= bounds.least else max(bounds.least, _rounded(bounds, failed / 2))
    return _rounded(bounds, (held + failed) / 2)


def _rounded(bounds: Bounds, level: float) -> float:
    return float(int(level)) if bounds.whole else float(f"{level:.4g}")


def _last_reason(steps: Sequence[Step]) -> str:
    return steps[-1].because if steps else ""
