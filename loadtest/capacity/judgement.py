"""Whether a measured step held the objective, and how long a step must be to tell. Pure; called by `capacity`."""

from collections.abc import Sequence

from loadtest.capacity.bisection import Outcome, Step
from loadtest.figures.figures import CellFigures, LimitResult, ReasonCode, show_count
from loadtest.plan.limits import Limit
from loadtest.plan.plan import Plan
from loadtest.verdict.loss import find_codes
from loadtest.verdict.validity import LEAST_REQUESTS

SAMPLES_BEYOND = 10
"""So many of an endpoint's answers must be slower than the percentile that is judged: with 10, its standard error in
rank is about a third of those beyond (√10 ÷ 10); p95 needs 200 answers, p99 1,000. Failures are judged with 200 too:
if none of them failed, fewer than 1.5 % fail with 95 % confidence (3 ÷ n; Hanley and Lippman-Hand 1983)."""

NEAR_PERCENT = 10.0
"""A figure this near to its limit may be on the other side of it the next time: such a step is repeated."""

MOST_QUEUED_PERCENT = 1.0
"""Of the arrivals of an open loop: if more find all users busy, or any is never sent, the target does not keep up."""

_SHARE_BEYOND = {"median_ms": 0.5, "avg_ms": 0.5, "p95_ms": 0.05, "p99_ms": 0.01}
_GENERATOR: frozenset[ReasonCode] = frozenset(
    {"generator_late", "generator_cpu", "generator_lost", "generator_held_back", "rows_lost", "too_many_requests"}
)
_DISTURBED: frozenset[ReasonCode] = frozenset(
    {
        "failed",
        "unreadable",
        "ended_early",
        "clock_jumped",
        "clock_unknown",
        "generator_unseen",
        "other_load",
        "replicas",
    }
)
"""Reasons for which a step says nothing of the target, whatever it measured, unless it lost all answers."""
_BEHIND: frozenset[ReasonCode] = frozenset({"target_behind", "few_samples", "answers_missing"})
"""What a target causes that does not keep up. The first says that it did not; in an open loop the number of late
arrivals says it instead: where few were late, the generator may have held back. The others alone decide nothing."""
_LOST: dict[ReasonCode, str] = {
    "generator_lost": "a generator was lost",
    "rows_lost": "rows of a generator were lost",
}


def needed_requests(plan: Plan, limits: Sequence[Limit]) -> int:
    """Return how many requests in all a step must have: each limit has its samples, and no endpoint has too few.

    Twice the fewest of the rarest endpoint are expected, so that chance leaves fewer in one of 200 steps.
    """
    weights = {name: endpoint.weight for name, endpoint in plan.workload.endpoints.items()}
    total = sum(weights.values())
    shares = [1.0 if limit.endpoint is None else weights[limit.endpoint] / total for limit in limits]
    asked = [_needed(limit.metric) / share for limit, share in zip(limits, shares, strict=True)]
    return round(max(*asked, 2 * LEAST_REQUESTS * total / min(weights.values())))


def window_s(least_s: float, longest_s: float, needed: int, expected_rps: float | None) -> float:
    """Return how long a step's steady window must be for `needed` requests; at least `least_s`, at most `longest_s`."""
    enough_s = needed / expected_rps if expected_rps else 0.0
    return min(max(least_s, enough_s), max(least_s, longest_s))


def expected_rps(steps: Sequence[Step], level: float) -> float | None:
    """Return the throughput to expect at a level of users, at least: that of the nearest step, less when it had more.

    None before the first step. Throughput grows at most in proportion to the users, and may not grow at all.
    """
    known = [step for step in steps if step.rps]
    if not known:
        return None
    nearest = min(known, key=lambda step: abs(step.level - level))
    return (nearest.rps or 0.0) * min(1.0, level / nearest.level)


def judge(cell: CellFigures, plan: Plan) -> tuple[Outcome, bool, str]:
    """Return the outcome of a step, whether chance may have decided it, and what decided it, in words."""
    by_reasons = _judge_reasons(cell)
    if by_reasons is not None:
        outcome, because = by_reasons
        return outcome, False, because
    missed = [result for result in cell.limits if not result.met]
    few = [limit for limit in plan.limits if _samples(cell, limit) < _needed(limit.metric)]
    near = [result for result in missed or cell.limits if _is_near(result)]
    is_near = len(near) == len(missed) if missed else bool(near)
    told = [f"{result.limit}: {result.shown}" for result in missed]
    told += [f"within {NEAR_PERCENT:g} % of {near[0].limit}"] if is_near else []
    told += [f"few samples for {', '.join(map(str, few))}"] if few else []
    return "failed" if missed else "held", is_near or bool(few), "; ".join(told)


def _judge_reasons(cell: CellFigures) -> tuple[Outcome, str] | None:
    """Return what the reasons and arrivals of a cell decide, and why; None where its limits decide."""
    if cell.loss is not None and cell.ready_after_s is not None:  # else no load has met the target
        did = "failed" if cell.loss == "target_failed" else "did not keep up"
        return "failed", f"the target {did}: {'; '.join(cell.reasons)}"
    codes = find_codes(cell.reasons)
    by_generator = [reason for reason in cell.reasons if reason.code in _GENERATOR & codes]
    if by_generator:
        what = next(
            (_LOST[reason.code] for reason in by_generator if reason.code in _LOST), "the generator is the limit"
        )
        return "invalid", f"{what}: {'; '.join(by_generator)}"
    if codes & _DISTURBED:
        return "invalid", "; ".join(cell.reasons)
    unsent, due = max(0, cell.arrivals_unsent or 0), cell.arrivals_due or 0
    queued = (cell.arrivals_queued or 0) + unsent
    if 100 * queued > MOST_QUEUED_PERCENT * due or unsent:
        busy = f"{show_count(queued)} of {show_count(due)} arrivals found all {cell.users} users busy"
        return "failed", f"the target did not keep up: {busy}"
    if "target_behind" in codes and codes <= _BEHIND and not due:
        return "failed", f"the target did not keep up: {'; '.join(cell.reasons)}"
    return ("invalid", "; ".join(cell.reasons)) if cell.reasons else None


def _needed(metric: str) -> float:
    return SAMPLES_BEYOND / _SHARE_BEYOND.get(metric, 0.05)


def _samples(cell: CellFigures, limit: Limit) -> int:
    traffic = cell.steady
    if limit.endpoint is not None:
        traffic = next((part.steady for part in cell.endpoints if part.endpoint == limit.endpoint), None)
    if traffic is None:
        return 0
    return traffic.requests if limit.endpoint is None else traffic.timed


def _is_near(result: LimitResult) -> bool:
    bound = result.limit.value
    if result.value is None or bound == 0:  # none at all is not almost some
        return False
    return 100 * abs(result.value - bound) <= NEAR_PERCENT * bound
