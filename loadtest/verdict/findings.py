"""What the measured facts say: takeaways, recommendations and the bottom line as sentences, and whether all is well.

`conclude` makes a report's figures of the facts. Every sentence is made from the figures it names; what the figures do
not give is not said.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, fsum

from loadtest.figures.figures import (
    CellFigures,
    Facts,
    Figures,
    PointFigures,
    Traffic,
    show_count,
    show_ms,
    show_percent,
    show_rps,
)
from loadtest.verdict.choice import LOSSES, Choice, Data, choose, decides
from loadtest.verdict.comparison import listed, name_verdict
from loadtest.verdict.differences import LARGE_DIFFERENCE_PERCENT, LEAST_REPETITIONS

AT_THINK_TIME_LIMIT_SHARE = 0.9
"""Of the requests that users could send if answers took no time: from here on the users set the pace."""

SLOWER_FACTOR = 1.5
"""Below this, a median under load is called about the same as the one with few users."""

ENOUGH_REPETITIONS = 5
ENOUGH_DURATION_S = 120
ENOUGH_DIFFERENCE_PERCENT = 15
"""So many repetitions, each so long, find such a difference more than nine times in ten
(tests/loadtest/verdict/test_comparison.py)."""

_MOST_SHOWN = 3
_STOP_S = 10.0


def conclude(facts: Facts) -> Figures:
    """Return the report: the facts, with what they say."""
    data = Data(facts)
    choice = choose(data)
    return Figures(
        **{name: getattr(facts, name) for name in Facts.model_fields},
        takeaways=_takeaways(data),
        recommendations=_recommendations(data, choice),
        bottom_line=_bottom_line(data, choice),
        all_valid=all(cell.valid for cell in facts.cells),
        all_limits_met=_all_limits_met(data),
    )


@dataclass(frozen=True)
class Answer:
    """What a reader wants to know first: `headline: because.`, and sentences on what follows from that."""

    headline: str
    because: str
    then: list[str]


def answer(figures: Figures) -> Answer:
    """Return what the figures answer: the recommendation, or Undecided and what would decide it."""
    data = Data(figures)
    choice = choose(data)
    advice = [_advice(data, choice)] if choice and choice.target and choice.state != "decided" else []
    return Answer(*_lead(data, choice), then=[*_to_decide(data, choice), *advice])


def _all_limits_met(data: Data) -> bool:
    """Return whether every valid cell met every objective; objectives that no cell could meet are missed."""
    valid = data.valid_cells()
    asked = bool(data.figures.test.get("limits"))
    return all(result.met for cell in valid for result in cell.limits) and (bool(valid) or not asked)


def _takeaways(data: Data) -> list[str]:
    sentences = [*_failures(data), *_levels_won(data), *_pace(data), *_latencies(data), *_light_beside_heavy(data)]
    return [*sentences, *_beside_published(data), *_stages(data), *_objectives(data), *_invalid_cells(data)]


def _failures(data: Data) -> Iterator[str]:
    known = [point for target in data.targets() for point in data.points(target)]
    whole = [(point, point.whole_run or point.shown) for point in known]
    requests = sum(traffic.requests for _, traffic in whole)
    failures = sum(traffic.failures for _, traffic in whole)
    if not requests:
        return
    told = f"{show_count(failures)} of {show_count(requests)} requests failed"
    if failures:
        worst, traffic = max(whole, key=lambda item: item[1].failures_percent or 0.0)
        told += f" ({show_percent(100 * failures / requests)} %), most of all on {_at(data, worst)} "
        told += f"({show_percent(traffic.failures_percent)} %)"
    yield f"{told}, counted over the whole runs of all valid cells.{_published_failures(data, known)}"


def _published_failures(data: Data, points: list[PointFigures]) -> str:
    rows = [row for point in points if (row := data.published(point))]
    requests = sum(row.requests for row in rows)
    if not requests:
        return ""
    failures = fsum(row.requests * row.failures_percent / 100 for row in rows)
    largest = max(row.failures_percent for row in rows)
    return (
        f" Of the published report's {show_count(requests)} requests at the same points "
        f"{show_percent(100 * failures / requests)} % failed, {show_percent(largest)} % at the worst."
    )


def _levels_won(data: Data) -> Iterator[str]:
    levels = data.figures.comparisons
    for target in data.targets():
        won = [level for level in levels if level.winner == target]
        if won:
            told = " ".join(f"At {level.users} users: {level.because}." for level in won)
            is_certain = all(decides(data, level) for level in won)
            certain = "the better one" if is_certain else "ahead, with too few repetitions to decide,"
            yield f"{data.title(target)}: {certain} at {len(won)} of {len(levels)} user levels. {told}"
    for level in levels:
        if name_verdict(level) == "divided":
            yield f"No single winner at {level.users} users: {level.because}."
    for verdict, told in (("tie", "A tie"), ("not enough data", "Not enough data for a verdict")):
        users = [str(level.users) for level in levels if name_verdict(level) == verdict and level.differences]
        if users:
            yield f"{told} at {listed(users)} users."


def _pace(data: Data) -> Iterator[str]:
    """Say for each target whether its users or the service set the pace at the most users."""
    for target in data.targets():
        point = data.points(target)[-1]
        share = _share_of_think_time_limit(point)
        if share is None:
            continue
        told = (
            f"With {_at(data, point)} {show_rps(point.shown.rps)} requests/s were sent, "
            f"{show_percent(100 * share)} % of the {show_rps(point.think_time_limit_rps)} that their think time allows"
        )
        if share >= AT_THINK_TIME_LIMIT_SHARE:
            yield f"{told}; the users set the pace, and the throughput says nothing of the service's limit."
        else:
            yield f"{told}; waiting for answers took the rest, so the service sets the pace."


def _share_of_think_time_limit(point: PointFigures) -> float | None:
    """Return which share was sent of what the think time allows; None without a think time or a steady window.

    In a whole run, the users that had not started yet would count as users that the service held up.
    """
    if point.judged is None or point.judged.rps is None or not point.think_time_limit_rps:
        return None
    return point.judged.rps / point.think_time_limit_rps


def _latencies(data: Data) -> Iterator[str]:
    for endpoint in data.figures.endpoints:
        for target in data.targets():
            parts = _parts(data, target, endpoint)
            if not parts:
                continue
            (few, first), (most, last) = parts[0], parts[-1]
            if few == most:
                p95 = f" and p95 {show_ms(first.p95_ms)} ms" if first.p95_ms is not None else ""
                told = f"median {show_ms(first.median_ms)} ms{p95} at {few} users"
            else:
                known = first.p95_ms is not None and last.p95_ms is not None
                p95 = f" and p95 from {show_ms(first.p95_ms)} to {show_ms(last.p95_ms)} ms" if known else ""
                told = (
                    f"from {few} to {most} users the median goes from {show_ms(first.median_ms)} to "
                    f"{show_ms(last.median_ms)} ms{p95}"
                )
            yield f"{endpoint} on {data.title(target)}: {told}."


def _light_beside_heavy(data: Data) -> Iterator[str]:
    """Say whether the quickest endpoint stays quick under the load of all."""
    for target in data.targets():
        by_endpoint = {endpoint: _parts(data, target, endpoint) for endpoint in data.figures.endpoints}
        idle_ms = {endpoint: parts[0][1].median_ms or 0.0 for endpoint, parts in by_endpoint.items() if parts}
        if len(idle_ms) < 2:  # noqa: PLR2004 # it takes two
            continue
        light = min(idle_ms, key=idle_ms.__getitem__)
        (few, first), (most, last) = by_endpoint[light][0], by_endpoint[light][-1]
        if few == most or not first.median_ms or not last.median_ms:
            continue
        factor = last.median_ms / first.median_ms
        told = "stays about as quick" if factor < SLOWER_FACTOR else f"becomes {factor:.1f} times as slow"
        yield (
            f"{light}, the lightest endpoint, {told} under load on {data.title(target)}: median "
            f"{show_ms(first.median_ms)} ms at {few} users, {show_ms(last.median_ms)} ms at {most}."
        )


def _beside_published(data: Data) -> Iterator[str]:
    """Put the medians of the largest common number of users beside the published ones: whole runs, both."""
    for target in data.targets():
        common = [(point, row) for point in data.points(target) if (row := data.published(point))]
        if not common:
            continue
        point, row = common[-1]
        told = [
            f"{part.endpoint} {show_ms(part.whole_run.median_ms)} ms against {show_ms(published['median_ms'])} ms"
            for part in point.endpoints
            if part.whole_run.median_ms is not None
            and "median_ms" in (published := row.endpoints.get(part.endpoint, {}))
        ]
        if told:
            yield f"{_at(data, point)}, medians beside the published ones (other hardware): {listed(told)}."


def _stages(data: Data) -> Iterator[str]:
    for target in data.targets():
        point = data.points(target)[-1]
        for part in point.endpoints:
            if part.stages and part.steady.avg_ms:
                longest = max(part.stages, key=lambda stage: stage.avg_ms)
                told = f"{longest.name} takes {show_ms(longest.avg_ms)} of the {show_ms(part.steady.avg_ms)} ms "
                told += f"of a mean {part.endpoint}"
                if part.unexplained_ms is not None:
                    told += f"; {show_ms(part.unexplained_ms)} ms pass outside the service's own clock"
                yield f"{_at(data, point)}: {told}."


def _objectives(data: Data) -> Iterator[str]:
    checks = [(cell, result) for cell in data.valid_cells() for result in cell.limits]
    missed = [(cell, result) for cell, result in checks if not result.met]
    if not checks:
        return
    if not missed:
        objectives = listed(list(dict.fromkeys(str(result.limit) for _, result in checks)))
        yield f"Met in every valid cell: {objectives}."
        return
    told = [
        f"{result.limit} on {data.title(cell.target)} at {cell.users} users ({result.told})" for cell, result in missed
    ]
    yield f"{len(missed)} of {len(checks)} checks of objectives in valid cells are missed: {'; '.join(told)}."


def _invalid_cells(data: Data) -> Iterator[str]:
    invalid = [cell for cell in data.figures.cells if not cell.valid]
    if invalid:
        told = listed([_cell(data, cell) for cell in invalid])
        yield f"INVALID, and in no other figure: {len(invalid)} of {len(data.figures.cells)} cells, {told}."


def _recommendations(data: Data, choice: Choice | None) -> list[str]:
    sentences = _to_decide(data, choice)
    sentences += [_advice(data, choice)] if choice and choice.target else []
    further = [] if choice and choice.state == "undecided" else _repeat_more(data)
    return [*sentences, *_capacity(data, choice), *_repeat_invalid(data), *further]


def _to_decide(data: Data, choice: Choice | None) -> list[str]:
    return [f"To decide, measure again: {_remedy(data)}."] if choice and choice.state == "undecided" else []


def _advice(data: Data, choice: Choice) -> str:
    """Return what to run, and on what that rests."""
    title = data.title(choice.target or "")
    if choice.state == "decided":
        return f"Run {title}: {choice.because}."
    if choice.state == "tie":
        return f"Run {title} for its {choice.ground}: {choice.because}."
    if choice.state == "split":
        return f"What speaks for {title} at all of them is its {choice.ground}: {choice.because}."
    if choice.state == "divided":
        return f"What else speaks for {title} is its {choice.ground}: {choice.because}."
    if choice.ground in {"objectives", "levels"}:
        return f"Until then {title} is the safer choice: {choice.because}."
    return f"Until then nothing but {choice.ground} speaks for {title}: {choice.because}."


def _capacity(data: Data, choice: Choice | None) -> Iterator[str]:
    """Say for how many users the chosen target (or the only one) is good, and where to look further."""
    targets = data.targets()
    target = choice.target if choice else targets[0] if len(targets) == 1 else None
    if target is None:
        return
    points, planned = data.points(target), data.planned_users(target)
    point, held = points[-1], data.held(target, planned)
    if data.is_judged() and held.unknown_at is not None:
        if held.users:
            yield (
                f"Plan for at most {held.users} users on such a machine until {data.title(target)} is measured at "
                f"{held.unknown_at} users: no cell there is valid."
            )
    elif data.is_judged() and held.missed_at is not None:
        limits = [str(result.limit) for result in data.missed(target, held.missed_at)]
        least = f"Plan for at most {held.users} users on such a machine"
        plan_for = least if held.users else "Change the service or its machine"
        does = LOSSES[held.loss] if held.loss else f"misses {listed(list(dict.fromkeys(limits)))}"
        yield f"{plan_for}: {data.title(target)} at {held.missed_at} users {does}."
    elif point.users == planned[-1] and not point.shown.failures:
        share = _share_of_think_time_limit(point) or 0.0
        if share >= AT_THINK_TIME_LIMIT_SHARE:
            yield (
                f"To find the limit of {data.title(target)}, measure more than {point.users} users: there it still "
                f"kept up with {show_percent(100 * share)} % of what they can send."
            )


def _repeat_invalid(data: Data) -> Iterator[str]:
    invalid = [cell for cell in data.figures.cells if not cell.valid]
    if invalid:
        told = "; ".join(f"{_cell(data, cell)}: {cell.reasons[0] if cell.reasons else 'INVALID'}" for cell in invalid)
        yield f"Measure again what is INVALID: {told}."


def _repeat_more(data: Data) -> Iterator[str]:
    repetitions = max((point.repetitions for point in data.figures.points), default=0)
    if any(level.differences for level in data.figures.comparisons) and repetitions < ENOUGH_REPETITIONS:
        found = f"differences above {LARGE_DIFFERENCE_PERCENT:g} %" if repetitions < LEAST_REPETITIONS else "large ones"
        yield (
            f"To see smaller differences, measure each cell {ENOUGH_REPETITIONS} times (`repetitions` in the plan): "
            f"with {repetitions} only {found} can be told from chance."
        )


def _remedy(data: Data) -> str:
    """Return how many repetitions of what length show a difference that matters, and how many minutes that takes."""
    test = data.figures.test
    measured = max((point.repetitions for point in data.figures.points), default=0)
    repetitions = ENOUGH_REPETITIONS if measured < ENOUGH_REPETITIONS else 2 * measured
    duration_s = max(float(test.get("duration_s") or 0), ENOUGH_DURATION_S)
    options = f"`--repetitions {repetitions}" + (
        f" --duration {duration_s:g}`" if duration_s > float(test.get("duration_s") or 0) else "`"
    )
    ready_s = [cell.ready_after_s for cell in data.figures.cells if cell.ready_after_s is not None]
    overhead_s = (fsum(ready_s) / len(ready_s) if ready_s else 0.0) + _STOP_S
    overhead_s += float((test.get("warmup") or {}).get("duration_s") or 0)
    cells = len({(cell.target, cell.users) for cell in data.figures.cells})
    minutes = ceil(cells * repetitions * (duration_s + overhead_s) / 60)
    return (
        f"{repetitions} repetitions of {duration_s:g} s show a difference of {ENOUGH_DIFFERENCE_PERCENT} % (about "
        f"{minutes} minutes; {options})"
    )


def _bottom_line(data: Data, choice: Choice | None) -> str:
    headline, because = _lead(data, choice)
    if not data.targets():
        return f"{headline}, so {because}."
    if choice is None or (choice.state == "tie" and not choice.target):
        separator = ";" if len(data.targets()) == 1 and data.is_judged() else ":"
        return f"{headline}{separator} {because}."
    if choice.state == "decided" and choice.target:
        point = data.points(choice.target)[-1]
        return f"{headline}: {because}; at {point.users} users it had {_in_short(point)}."
    remedy = f"; {_remedy(data)}" if choice.state == "undecided" else ""
    advice = [_advice(data, choice)] if choice.target else []
    return " ".join([f"{headline}: {because}{remedy}.", *advice, *_side_by_side(data)])


def _lead(data: Data, choice: Choice | None) -> tuple[str, str]:
    """Return the answer in a few words, and a clause with the reason."""
    targets = data.targets()
    if not targets:
        return "No cell is valid", "this run says nothing about its targets"
    if len(targets) == 1:
        return _only(data, targets[0])
    titles = listed([data.title(target) for target in targets])
    if choice is None:
        return "Undecided", f"{titles} have no number of users in common; measure them at the same ones"
    if choice.state == "tie":
        titles = listed([data.title(target) for target in choice.among])
        apart = f"no figure tells {titles} apart"
        told = apart if choice.target else f"nothing measured here speaks for one of {titles}"
        return "A tie", "; ".join(filter(None, [told, choice.open]))
    return {
        "decided": (f"Run {data.title(choice.target or '')}", choice.because),
        "split": ("It depends on the number of users", choice.open),
        "divided": ("No single winner", choice.open),
        "undecided": ("Undecided", choice.open),
    }[choice.state]


def _side_by_side(data: Data) -> Iterator[str]:
    """Say what each of a few targets had at the most users that all have."""
    users = data.common_users()[-1]
    points = [point for target in data.targets() for point in data.points(target) if point.users == users]
    if len(points) <= _MOST_SHOWN:
        yield f"At {users} users {'; '.join(f'{data.title(point.target)} had {_in_short(point)}' for point in points)}."


def _only(data: Data, target: str) -> tuple[str, str]:
    point = data.points(target)[-1]
    held = data.held(target, data.planned_users(target))
    missing = len(data.figures.targets) > 1
    alone = f"Only {data.title(target)} has valid cells; it" if missing else data.title(target)
    told = "was measured"
    if data.is_judged():
        is_missed = data.has_limits() and not held.users and held.unknown_at is None
        told = "misses objectives" if is_missed else f"{data.meets()} {held}"
    return f"{alone} {told}", f"at {point.users} users it had {_in_short(point)}"


def _in_short(point: PointFigures) -> str:
    traffic = point.shown
    failures = f"{show_percent(traffic.failures_percent)} % failures{point.shown_of}"
    told = [f"{show_rps(traffic.rps)} requests/s", failures]
    told += [
        f"a {part.endpoint} median of {show_ms(part.shown.median_ms)} ms{part.shown_of}"
        for part in point.endpoints
        if part.shown.median_ms is not None
    ]
    if not point.endpoints and traffic.median_ms is not None:
        told.append(f"a median of {show_ms(traffic.median_ms)} ms")
    return listed(told)


def _parts(data: Data, target: str, endpoint: str) -> list[tuple[int, Traffic]]:
    """Return the figures of one endpoint by users, where it has right answers."""
    return [
        (point.users, part.shown)
        for point in data.points(target)
        for part in point.endpoints
        if part.endpoint == endpoint and part.shown.median_ms is not None
    ]


def _at(data: Data, point: PointFigures) -> str:
    return f"{data.title(point.target)} at {point.users} users"


def _cell(data: Data, cell: CellFigures) -> str:
    several = any(other.repetition > 1 for other in data.figures.cells)
    return f"{data.title(cell.target)} at {cell.users} users" + (f" (repetition {cell.repetition})" if several else "")
