"""Which candidate to run, in words: how many replicas and why, or that it makes no difference."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from loadtest.figures.figures import LimitResult, name_metric, show_bytes, show_percent, show_rps, show_value
from loadtest.plan.keys import Strict
from loadtest.tune.candidates import Candidate, show_knobs
from loadtest.tune.ranking import Measured, rank
from loadtest.tune.tune_file import Tuning
from loadtest.verdict.comparison import listed
from loadtest.verdict.differences import LEAST_REPETITIONS

LEAST_THINK_TIME_SHARE = 0.9
"""Of users ÷ think time: from here on the users' own pace is what limits throughput."""


class Verdict(Strict):
    """Two candidates compared by the figure to optimise."""

    metric: str
    values: dict[str, float | None]
    """By candidate."""
    outcome: Literal["winner", "tie", "not enough data"]
    winner: str | None
    because: str


@dataclass
class Recommendation:
    """What to run; `winner` is None when nothing that was measured will do."""

    words: str
    winner: Measured | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge(one: Measured, other: Measured, metric: str) -> Verdict:
    """Return which of two candidates is better in `metric`; the only place where candidates are told apart."""
    values = {each.candidate.name: each.value for each in (one, other)}
    differences = [
        found for found in one.differences if found.metric == metric and found.samples.keys() == values.keys()
    ]
    if not differences:
        because = f"{name_metric(metric)} is not known of both"
        return Verdict(metric=metric, values=values, outcome="not enough data", winner=None, because=because)
    difference = differences[0]
    told = [difference.because] if difference.because else []
    if difference.difference_percent is not None and difference.interval_percent is not None:
        low, high = (show_percent(end) for end in difference.interval_percent)
        told = [f"{show_percent(abs(difference.difference_percent))} % apart, interval {low} to {high} %", *told]
    return Verdict(
        metric=metric, values=values, outcome=difference.verdict, winner=difference.winner, because="; ".join(told)
    )


def recommend(measured: Sequence[Measured], tried: Sequence[Candidate], tuning: Tuning) -> Recommendation:
    """Return what to run of all that was `tried`, by what the deciding round `measured`."""
    ranked = rank(measured, tuning.file)
    meeting = [one for one in ranked if one.meets_limits]
    if not ranked:
        return Recommendation("No candidate gave a valid measurement; the reasons are above.")
    if not meeting:
        missed = ", ".join(show_missed(ranked[0].limits))
        return Recommendation(
            f"No candidate meets the limits with {tuning.file.users} users. "
            f"The nearest is {ranked[0].candidate.title}: {missed}."
        )
    advice = _choose(meeting, tuning)
    open_ = _left_open(advice, meeting, tuning)
    advice.words = " ".join([*open_, advice.words, *_left_out(ranked, tried, tuning.file.replicas_knob)])
    advice.notes = list(_notes(meeting[0], tuning))
    return advice


def _left_open(advice: Recommendation, meeting: list[Measured], tuning: Tuning) -> Iterator[str]:
    """Yield why the figures do not decide and what would, if that is so."""
    names = {name for verdict in advice.verdicts for name in verdict.values} | {meeting[0].candidate.name}
    compared = [one for one in meeting if one.candidate.name in names]
    repetitions = min(one.point.repetitions for one in compared)
    lacking = [verdict.because for verdict in advice.verdicts if verdict.outcome == "not enough data"]
    if repetitions < LEAST_REPETITIONS:
        runs = "1 valid repetition does" if repetitions == 1 else f"{repetitions} valid repetitions do"
        lacking.append(f"{runs} not show how much two runs of one candidate differ")
    if lacking:
        remedy = _remedy(compared, repetitions, tuning)
        yield f"Undecided: {'; '.join(dict.fromkeys(lacking))}. {remedy}"


def _remedy(compared: list[Measured], measured: int, tuning: Tuning) -> str:
    """Say how many repetitions would decide, and how many minutes those take."""
    wanted = LEAST_REPETITIONS if measured < LEAST_REPETITIONS else 2 * measured
    each_s = compared[0].folder.read_plan().duration_s + tuning.file.overhead_s
    more = math.ceil(len(compared) * (wanted - measured) * each_s / 60)
    options = [f"`--minutes {math.ceil(tuning.file.minutes + more)}`"]
    if any(_possible(one, tuning) < wanted for one in compared):
        options += [f"`repetitions: {wanted}` in the tune file"] if wanted > tuning.file.repetitions else []
        options += ["another `--out`"]
    return f"{wanted} repetitions of each would tell more: about {more} minutes more ({listed(options)})."


def _possible(one: Measured, tuning: Tuning) -> int:
    """Return how many valid repetitions a candidate may have once the search is resumed with more minutes.

    What was measured is not measured again, valid or not; what failed is, where other cells of the round are missing.
    """
    is_last = not (one.folder.path.parent / f"round-{one.round_number + 1}").exists()
    if is_last and one.folder.read_plan().repetitions < tuning.file.repetitions:  # the time was up before the final
        return tuning.file.repetitions
    records = {cell: one.folder.read_cell(cell) for cell in one.folder.read_record().order}
    own = [record for cell, record in records.items() if cell.target == one.candidate.name]
    failed = sum(record is not None and record.status == "failed" for record in own)
    return one.point.repetitions + one.unmeasured + (failed if None in records.values() else 0)


def show_missed(limits: list[LimitResult]) -> list[str]:
    """Return the limits that are missed, each with what was measured."""
    return [f"{result.limit} (measured: {result.shown})" for result in limits if not result.met]


def _choose(meeting: list[Measured], tuning: Tuning) -> Recommendation:
    """Return the best of the candidates that meet the limits; of equals, the one with the knob's first value."""
    knob, metric, best = tuning.file.replicas_knob, tuning.file.objective.figure, meeting[0]
    if knob is None:
        verdicts = [judge(best, other, metric) for other in meeting[1:2]]
        words = f"Run {best.candidate.title}: {_show(best, metric)}."
        return Recommendation(" ".join([words, *_against_second(verdicts, meeting)]), best, verdicts)
    values = list(dict.fromkeys(one.candidate.knobs[knob] for one in meeting))
    firsts = [next(one for one in meeting if one.candidate.knobs[knob] == value) for value in values]
    others = [one for one in firsts if one is not best]
    verdicts = [judge(best, other, metric) for other in others]
    equal = [other for other, verdict in zip(others, verdicts, strict=True) if verdict.winner != best.candidate.name]
    order = tuning.knob(knob).values_on(tuning.cores)
    winner = min([best, *equal], key=lambda one: order.index(one.candidate.knobs[knob]))
    told = _tell_equal(winner, [best, *equal], verdicts, tuning) if equal else _tell_clear(best, others, tuning)
    return Recommendation(told, winner, verdicts)


def _tell_clear(best: Measured, others: list[Measured], tuning: Tuning) -> str:
    metric, knob = tuning.file.objective.figure, tuning.file.replicas_knob
    against = " and ".join(f"{show_value(metric, other.value)} with {_show_group(other, knob)}" for other in others)
    against = f" against {against}" if against else ""
    return f"Run {best.candidate.title}: {_show(best, metric)}{against}."


def _tell_equal(winner: Measured, equal: list[Measured], verdicts: list[Verdict], tuning: Tuning) -> str:
    metric, knob = tuning.file.objective.figure, tuning.file.replicas_knob
    values = ", ".join(f"{show_value(metric, one.value)} with {_show_group(one, knob)}" for one in equal)
    memory = _memory(winner, [one for one in equal if one is not winner], tuning)
    told = f"{name_metric(metric)} is {values}"
    if any(verdict.outcome == "not enough data" for verdict in verdicts):
        return (
            f"Measured for {knob}: {told}. Run {winner.candidate.title} because it is the first of these "
            f"values in the tune file{memory}."
        )
    because = "; ".join(dict.fromkeys(verdict.because for verdict in verdicts if verdict.outcome != "winner"))
    return (
        f"The choice of {knob} makes no difference here: {told} ({because}). "
        f"Run {winner.candidate.title}, the first of these values in the tune file{memory}."
    )


def _memory(winner: Measured, others: list[Measured], tuning: Tuning) -> str:
    """Return what memory the counted role needs, if that is known of all."""
    role = tuning.target.replicas.role if tuning.target.replicas else None
    needs = {one.candidate.name: _rss_bytes(one, role) for one in (winner, *others)}
    if any(need is None for need in needs.values()):
        return ""
    against = " and ".join(
        f"{show_bytes(needs[one.candidate.name])} with {_show_group(one, tuning.file.replicas_knob)}" for one in others
    )
    return f"; its {role} processes need {show_bytes(needs[winner.candidate.name])} of memory against {against}"


def _rss_bytes(one: Measured, role: str | None) -> int | None:
    return next((found.rss_max_bytes for found in one.point.roles if found.role == role), None)


def _left_out(ranked: list[Measured], tried: Sequence[Candidate], knob: str | None) -> Iterator[str]:
    """Yield why values of the knob that were tried are not among those compared."""
    for value in dict.fromkeys(one.knobs[knob] for one in tried) if knob else ():
        of_value = [one for one in ranked if one.candidate.knobs[knob or ""] == value]
        if not of_value:
            yield f"Of {knob}={value} there is no valid measurement in the deciding round."
        elif not any(one.meets_limits for one in of_value):
            yield f"With {knob}={value} a limit is missed: {', '.join(show_missed(of_value[0].limits))}."


def _against_second(verdicts: list[Verdict], meeting: list[Measured]) -> Iterator[str]:
    for verdict, second in zip(verdicts, meeting[1:], strict=False):
        value = show_value(verdict.metric, second.value)
        if verdict.outcome == "winner":
            yield f"The next best is {second.candidate.title} with {value}."
        else:
            yield f"It may as well be {second.candidate.title} with {value}: {verdict.because}."


def _notes(best: Measured, tuning: Tuning) -> Iterator[str]:
    """Yield what limits the worth of the result."""
    if best.point.repetitions < tuning.file.repetitions:
        is_resumable = _possible(best, tuning) > best.point.repetitions
        remedy = "increase --minutes" if is_resumable else "measure again with another --out"
        yield (
            f"The decision is based on {best.point.repetitions} valid repetition(s) instead of "
            f"{tuning.file.repetitions}: chance may have decided it; {remedy}."
        )
    limit_rps = best.point.think_time_limit_rps
    is_paced = limit_rps and best.value and best.value >= LEAST_THINK_TIME_SHARE * limit_rps
    if tuning.file.objective.metric == "rps" and is_paced:
        yield (
            f"{tuning.file.users} users with this think time cannot ask for more than {show_rps(limit_rps)} "
            "requests/s, so throughput hardly tells candidates apart; give more --users, or minimise a latency."
        )


def _show(one: Measured, metric: str) -> str:
    return f"{name_metric(metric)} {show_value(metric, one.value)} with {one.point.users} users"


def _show_group(one: Measured, knob: str | None) -> str:
    return show_knobs({knob: one.candidate.knobs[knob]}) if knob else one.candidate.title
