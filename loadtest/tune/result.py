"""Everything that a search found: tune.json is this, and the terminal shows it. The unit is the end of a name."""

from typing import Any, Literal

from loadtest.figures.figures import LimitResult, StatedReason
from loadtest.plan.keys import Strict
from loadtest.tune.candidates import Excluded, SkippedValue
from loadtest.tune.config_path import Scalar
from loadtest.tune.ranking import Measured
from loadtest.tune.recommendation import Recommendation, Verdict, recommend
from loadtest.tune.search import Search

TUNE_UNITS = {
    "_ms": "milliseconds",
    "_s": "seconds",
    "_percent": "percent",
    "rps": "requests per second",
    "users": "simulated users",
    "minutes": "minutes",
    "cores": "CPU cores",
    "repetitions": "cells",
    "rounds": "rounds",
    "number": "number, from 1",
    "figure_value": "as the end of `figure` says",
    "knobs": "as the service means them",
    "value": "as the limit's metric says",
    "values": "as the verdict's metric says",
}
"""The unit of each number by the end of its name; the longest end that fits counts."""


class CandidateResult(Strict):
    """One candidate, by the figures of the last round that measured it."""

    name: str
    knobs: dict[str, Scalar]
    state: Literal["winner", "finalist", "dropped", "invalid", "not tried", "waiting"]
    """dropped: others were better in its last round. waiting: the search is not over."""
    rounds: int
    """How many rounds measured it."""
    repetitions: int
    """Valid cells of its last round."""
    figure_value: float | None = None
    """Of the figure to optimise."""
    rps: float | None = None
    failures_percent: float | None = None
    endpoint_p95_ms: dict[str, float | None] = {}
    limits: list[LimitResult] = []
    limits_met: bool = False
    reasons: list[StatedReason] = []
    """Why it, or cells of it, are not valid."""


class RoundSummary(Strict):
    """What one round measured."""

    number: int
    candidates: list[str]
    repetitions: int
    duration_s: float
    """Of each load."""
    took_s: float


class TuneResult(Strict):
    """All of a search."""

    status: Literal["searching", "winner found", "no winner"]
    machine: dict[str, Any] | None
    dates: list[str]
    cores: int
    base: str
    users: int
    objective: str
    figure: str
    """The one to optimise, such as `predict.p95_ms`."""
    limits: list[str]
    minutes: float
    winner: str | None
    recommendation: str
    notes: list[str]
    verdicts: list[Verdict]
    candidates: list[CandidateResult]
    """Those tried, best first, then those that the time did not allow."""
    skipped: list[SkippedValue]
    excluded: list[Excluded]
    rounds: list[RoundSummary]
    units: dict[str, str] = TUNE_UNITS


def make_result(search: Search, *, over: bool) -> TuneResult:
    """Return what is known of a search; while it is not `over` there is no winner."""
    file, last = search.tuning.file, search.rounds[-1]
    advice = (
        recommend(search.deciding(), search.tried, search.tuning) if over else Recommendation("The search is not over.")
    )
    status: Literal["winner found", "no winner"] = "winner found" if advice.winner else "no winner"
    return TuneResult(
        status=status if over else "searching",
        machine=last.figures.machine,
        dates=sorted({date for one in search.rounds for date in one.figures.dates}),
        cores=search.tuning.cores,
        base=file.base.name,
        users=file.users,
        objective=str(file.objective),
        figure=file.objective.figure,
        limits=[str(limit) for limit in file.limits],
        minutes=file.minutes,
        winner=advice.winner.candidate.name if advice.winner else None,
        recommendation=advice.words,
        notes=advice.notes,
        verdicts=advice.verdicts,
        candidates=_candidates(search, advice, over=over),
        skipped=search.grid.skipped,
        excluded=search.grid.excluded,
        rounds=[
            RoundSummary(
                number=one.number,
                candidates=list(one.measured),
                repetitions=one.plan.repetitions,
                duration_s=one.plan.duration_s,
                took_s=one.took_s,
            )
            for one in search.rounds
        ],
    )


def _candidates(search: Search, advice: Recommendation, *, over: bool) -> list[CandidateResult]:
    latest = {name: measured for one in search.rounds for name, measured in one.measured.items()}
    results = [_candidate(one, advice, over=over, search=search) for one in latest.values()]
    # Later rounds say more; within a round the winner is first, then those that meet the limits.
    results.sort(key=lambda one: (one.state != "winner", one.state == "invalid", -one.rounds, not one.limits_met))
    untried = [one for one in search.grid.candidates if one not in search.tried]
    return results + [
        CandidateResult(name=one.name, knobs=one.knobs, state="not tried", rounds=0, repetitions=0) for one in untried
    ]


def _candidate(measured: Measured, advice: Recommendation, *, over: bool, search: Search) -> CandidateResult:
    point = measured.point
    state: Literal["winner", "finalist", "dropped", "invalid", "waiting"]
    if not measured.valid:
        state = "invalid"
    elif advice.winner and advice.winner.candidate == measured.candidate:
        state = "winner"
    elif measured.round_number == len(search.rounds):
        state = "finalist" if over else "waiting"
    else:
        state = "dropped"
    return CandidateResult(
        name=measured.candidate.name,
        knobs=measured.candidate.knobs,
        state=state,
        rounds=sum(measured.candidate.name in one.measured for one in search.rounds),
        repetitions=point.repetitions,
        figure_value=measured.value,
        rps=point.steady.rps if point.steady else None,
        failures_percent=point.steady.failures_percent if point.steady else None,
        endpoint_p95_ms={part.endpoint: part.steady.p95_ms for part in point.endpoints},
        limits=measured.limits,
        limits_met=measured.valid and measured.meets_limits,
        reasons=measured.reasons,
    )
