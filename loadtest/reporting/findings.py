"""What the figures say, as sentences: takeaways, recommendations, the bottom line.

Called with figures that are otherwise complete. Every sentence is made from the figures it names; what the figures
do not give is not said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtest.plan import KIT_ROLES
from loadtest.reporting.differences import LARGE_DIFFERENCE_PERCENT, LEAST_REPETITIONS
from loadtest.reporting.figures import (
    BaselinePoint,
    CellFigures,
    EndpointFigures,
    Figures,
    PointFigures,
    Traffic,
    show_bytes,
    show_count,
    show_ms,
    show_percent,
    show_rps,
    show_value,
)

AT_THINK_TIME_LIMIT_SHARE = 0.9
"""Of the requests that users could send if answers took no time: from here on the users set the pace."""

SLOWER_FACTOR = 1.5
"""Below this, a median under load is called about the same as the one with few users."""

LEAST_MEMORY_SAVED_SHARE = 0.1
"""Of the larger memory; less is not a reason to choose."""


ENOUGH_REPETITIONS = 5
"""Of two minutes each, they find a difference of 15 % more than nine times in ten
(tests/loadtest/reporting/test_comparison.py)."""


def conclude(figures: Figures) -> Figures:
    """Return the figures with takeaways, recommendations and bottom line."""
    data = _Data(figures)
    choice = _choose(data)
    return figures.model_copy(
        update={
            "takeaways": _takeaways(data),
            "recommendations": _recommendations(data, choice),
            "bottom_line": _bottom_line(data, choice),
        }
    )


@dataclass(frozen=True)
class _Data:
    """Figures, with the questions that several sentences ask of them."""

    figures: Figures

    def title(self, target: str) -> str:
        return next((facts.title for facts in self.figures.targets if facts.name == target), target)

    def points(self, target: str) -> list[PointFigures]:
        """Return the points of a target that have requests, by users."""
        known = [point for point in self.figures.points if point.target == target and _has_requests(point)]
        return sorted(known, key=lambda point: point.users)

    def targets(self) -> list[str]:
        """Return the targets that have a point."""
        return [facts.name for facts in self.figures.targets if self.points(facts.name)]

    def valid_cells(self) -> list[CellFigures]:
        return [cell for cell in self.figures.cells if cell.valid]

    def published(self, point: PointFigures) -> BaselinePoint | None:
        rows = self.figures.baseline.points if self.figures.baseline else []
        return next((row for row in rows if (row.target, row.users) == (point.target, point.users)), None)

    def has_limits(self) -> bool:
        return any(cell.limits for cell in self.figures.cells)

    def common_users(self) -> list[int]:
        """Return the numbers of users at which every target that has points has one."""
        levels = [{point.users for point in self.points(target)} for target in self.targets()]
        return sorted(set.intersection(*levels)) if levels else []

    def held_users(self, target: str, levels: Sequence[int]) -> int:
        """Return the most users among `levels` up to which a target met all objectives; 0 for none."""
        held = 0
        for users in levels:
            cells = [cell for cell in self.valid_cells() if (cell.target, cell.users) == (target, users)]
            if not all(result.met for cell in cells for result in cell.limits):
                break
            held = users
        return held

    def levels_won(self, target: str) -> int:
        return sum(level.winner == target for level in self.figures.comparisons)

    def memory_bytes(self, target: str, users: int) -> int | None:
        """Return the memory of all processes of a target at a number of users."""
        roles = next((point.roles for point in self.points(target) if point.users == users), [])
        own = [role.rss_max_bytes for role in roles if role.role not in KIT_ROLES or role.role == "target_other"]
        return sum(own) if own else None


@dataclass(frozen=True)
class _Choice:
    """The target to run, and why: a clause that goes on after `Run TITLE: `."""

    target: str
    because: str


def _has_requests(point: PointFigures) -> bool:
    traffic = point.steady or point.whole_run
    return traffic is not None and traffic.requests > 0


def _traffic(point: PointFigures) -> Traffic:
    """Return the steady window's figures, or the whole run's where there is no such window."""
    traffic = point.steady or point.whole_run
    assert traffic is not None, "a point among _Data.points has requests"
    return traffic


def _takeaways(data: _Data) -> list[str]:
    sentences = [*_failures(data), *_levels_won(data), *_pace(data), *_latencies(data), *_light_beside_heavy(data)]
    return [*sentences, *_beside_published(data), *_stages(data), *_objectives(data), *_invalid_cells(data)]


def _failures(data: _Data) -> Iterator[str]:
    known = [point for target in data.targets() for point in data.points(target)]
    whole = [(point, point.whole_run or _traffic(point)) for point in known]
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


def _published_failures(data: _Data, points: list[PointFigures]) -> str:
    rows = [row for point in points if (row := data.published(point))]
    requests = sum(row.requests for row in rows)
    if not requests:
        return ""
    failures = sum(row.requests * row.failures_percent / 100 for row in rows)
    largest = max(row.failures_percent for row in rows)
    return (
        f" Of the published report's {show_count(requests)} requests at the same points "
        f"{show_percent(100 * failures / requests)} % failed, {show_percent(largest)} % at the worst."
    )


def _levels_won(data: _Data) -> Iterator[str]:
    levels = data.figures.comparisons
    for target in data.targets():
        won = [level for level in levels if level.winner == target]
        if won:
            told = " ".join(f"At {level.users} users: {level.because}." for level in won)
            yield f"{data.title(target)}: the better one at {len(won)} of {len(levels)} user levels. {told}"
    for verdict, told in (("tie", "A tie"), ("not enough data", "Not enough data for a verdict")):
        users = [str(level.users) for level in levels if level.verdict == verdict and level.differences]
        if users:
            yield f"{told} at {_listed(users)} users."


def _pace(data: _Data) -> Iterator[str]:
    """Say for each target whether its users or the service set the pace at the most users."""
    for target in data.targets():
        point = data.points(target)[-1]
        traffic, limit_rps = _traffic(point), point.think_time_limit_rps
        if traffic.rps is None or not limit_rps:
            continue
        share = traffic.rps / limit_rps
        told = (
            f"With {_at(data, point)} {show_rps(traffic.rps)} requests/s were sent, {show_percent(100 * share)} % of "
        )
        told += f"the {show_rps(limit_rps)} that their think time allows"
        if share >= AT_THINK_TIME_LIMIT_SHARE:
            yield f"{told}; the users set the pace, and the throughput says nothing of the service's limit."
        else:
            yield f"{told}; waiting for answers took the rest, so the service sets the pace."


def _latencies(data: _Data) -> Iterator[str]:
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


def _light_beside_heavy(data: _Data) -> Iterator[str]:
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


def _beside_published(data: _Data) -> Iterator[str]:
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
            yield f"{_at(data, point)}, medians beside the published ones (other hardware): {_listed(told)}."


def _stages(data: _Data) -> Iterator[str]:
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


def _objectives(data: _Data) -> Iterator[str]:
    checks = [(cell, result) for cell in data.valid_cells() for result in cell.limits]
    missed = [(cell, result) for cell, result in checks if not result.met]
    if not checks:
        return
    if not missed:
        objectives = _listed(list(dict.fromkeys(result.limit for _, result in checks)))
        yield f"Met in every valid cell: {objectives}."
        return
    told = [
        f"{result.limit} on {data.title(cell.target)} at {cell.users} users "
        f"({'too few samples' if result.value is None else show_value(_metric(result.limit), result.value)})"
        for cell, result in missed
    ]
    yield f"{len(missed)} of {len(checks)} checks of objectives in valid cells are missed: {'; '.join(told)}."


def _invalid_cells(data: _Data) -> Iterator[str]:
    invalid = [cell for cell in data.figures.cells if not cell.valid]
    if invalid:
        told = _listed([_cell(data, cell) for cell in invalid])
        yield f"INVALID, and in no other figure: {len(invalid)} of {len(data.figures.cells)} cells, {told}."


def _choose(data: _Data) -> _Choice | None:
    """Return the target to run: by objectives, then levels won, then memory, then replicas; None if all are even."""
    targets, levels = data.targets(), data.common_users()
    if len(targets) < 2 or not levels:  # noqa: PLR2004 # nothing to choose from
        return None
    held = {target: data.held_users(target, levels) for target in targets}
    if data.has_limits():
        left = [target for target in targets if held[target] == max(held.values())]
        if len(left) == 1:
            others = _listed([f"{data.title(name)} {_up_to(users)}" for name, users in held.items() if name != left[0]])
            return _Choice(left[0], f"it meets every objective {_up_to(held[left[0]])}, {others}")
        targets = left
    won = {target: data.levels_won(target) for target in targets}
    leaders = [target for target in targets if won[target] == max(won.values())]
    if len(leaders) == 1:
        return _Choice(leaders[0], _won_more(data, leaders[0], won, held))
    return _choose_by_size(data, leaders, held)


def _won_more(data: _Data, winner: str, won: dict[str, int], held: dict[str, int]) -> str:
    others = _listed([f"{data.title(name)} at {count}" for name, count in won.items() if name != winner])
    told = f"it wins at {won[winner]} of {len(data.figures.comparisons)} user levels, {others}"
    return f"{_same_objectives(data, winner, list(won), held)}{told}"


def _choose_by_size(data: _Data, targets: list[str], held: dict[str, int]) -> _Choice | None:
    even = "no other wins at more user levels"
    users = data.common_users()[-1]
    memory = {name: size for name in targets if (size := data.memory_bytes(name, users)) is not None}
    if len(memory) == len(targets):
        smallest, second = sorted(memory, key=memory.__getitem__)[:2]
        if memory[smallest] <= (1 - LEAST_MEMORY_SAVED_SHARE) * memory[second]:
            others = _listed([f"{data.title(name)} {show_bytes(memory[name])}" for name in memory if name != smallest])
            less = f"{even}, and it needs less memory: {show_bytes(memory[smallest])}, {others}"
            return _Choice(smallest, _same_objectives(data, smallest, targets, held) + less)
    replicas = {
        facts.name: facts.replicas for facts in data.figures.targets if facts.replicas and facts.name in targets
    }
    fewest = [name for name, count in replicas.items() if count == min(replicas.values())]
    if len(replicas) == len(targets) and len(fewest) == 1:
        return _Choice(
            fewest[0], f"{_same_objectives(data, fewest[0], targets, held)}{even}, and it has fewer replicas"
        )
    return None


def _same_objectives(data: _Data, target: str, targets: Sequence[str], held: dict[str, int]) -> str:
    """Say how far the objectives did not decide among `targets`."""
    if not data.has_limits():
        return ""
    if not held[target]:
        return "no target meets every objective even with the fewest users, but "
    others = _listed([data.title(name) for name in targets if name != target])
    return f"like {others} it meets every objective {_up_to(held[target])}, and "


def _recommendations(data: _Data, choice: _Choice | None) -> list[str]:
    sentences = [f"Run {data.title(choice.target)}: {choice.because}."] if choice else []
    return [*sentences, *_capacity(data, choice), *_repeat_invalid(data), *_repeat_more(data)]


def _capacity(data: _Data, choice: _Choice | None) -> Iterator[str]:
    """Say for how many users the chosen target (or the only one) is good, and where to look further."""
    targets = data.targets()
    target = choice.target if choice else targets[0] if len(targets) == 1 else None
    if target is None:
        return
    points = data.points(target)
    point, held = points[-1], data.held_users(target, [point.users for point in points])
    if data.has_limits() and held < point.users:
        missed = next(point for point in points if point.users > held)
        limits = [
            result.limit
            for cell in data.valid_cells()
            if (cell.target, cell.users) == (target, missed.users)
            for result in cell.limits
            if not result.met
        ]
        plan_for = f"Plan for at most {held} users on such a machine" if held else "Change the service or its machine"
        yield f"{plan_for}: {_at(data, missed)} misses {_listed(list(dict.fromkeys(limits)))}."
    elif (traffic := _traffic(point)).rps and point.think_time_limit_rps and not traffic.failures:
        share = (traffic.rps or 0.0) / point.think_time_limit_rps
        if share >= AT_THINK_TIME_LIMIT_SHARE:
            yield (
                f"To find the limit of {data.title(target)}, measure more than {point.users} users: there it still "
                f"kept up with {show_percent(100 * share)} % of what they can send."
            )


def _repeat_invalid(data: _Data) -> Iterator[str]:
    invalid = [cell for cell in data.figures.cells if not cell.valid]
    if invalid:
        told = "; ".join(f"{_cell(data, cell)}: {cell.reasons[0] if cell.reasons else 'INVALID'}" for cell in invalid)
        yield f"Measure again what is INVALID: {told}."


def _repeat_more(data: _Data) -> Iterator[str]:
    repetitions = max((point.repetitions for point in data.figures.points), default=0)
    if any(level.differences for level in data.figures.comparisons) and repetitions < ENOUGH_REPETITIONS:
        found = f"differences above {LARGE_DIFFERENCE_PERCENT:g} %" if repetitions < LEAST_REPETITIONS else "large ones"
        yield (
            f"To see smaller differences, measure each cell {ENOUGH_REPETITIONS} times (`repetitions` in the plan): "
            f"with {repetitions} only {found} can be told from chance."
        )


def _bottom_line(data: _Data, choice: _Choice | None) -> str:
    targets = data.targets()
    if not targets:
        return "No cell is valid, so this run says nothing about its targets."
    if choice:
        point = data.points(choice.target)[-1]
        return f"Run {data.title(choice.target)}: {choice.because}; at {point.users} users it had {_in_short(point)}."
    if len(targets) == 1:
        return _only(data, targets[0])
    titles = _listed([data.title(target) for target in targets])
    if not any(level.verdict == "tie" for level in data.figures.comparisons):
        return f"Not enough data: nothing measured here can tell {titles} apart."
    return f"A tie: nothing measured here speaks for one of {titles}."


def _only(data: _Data, target: str) -> str:
    point = data.points(target)[-1]
    told = f"at {point.users} users it had {_in_short(point)}"
    held = data.held_users(target, [one.users for one in data.points(target)])
    missing = len(data.figures.targets) > 1
    alone = f"Only {data.title(target)} has valid cells; it" if missing else data.title(target)
    if not data.has_limits():
        return f"{alone} was measured: {told}."
    return f"{alone} meets every objective {_up_to(held)}; {told}." if held else f"{alone} misses objectives; {told}."


def _in_short(point: PointFigures) -> str:
    traffic = _traffic(point)
    told = [f"{show_rps(traffic.rps)} requests/s", f"{show_percent(traffic.failures_percent)} % failures"]
    for part in point.endpoints:
        steady = part.scheduled or part.steady
        median_ms = steady.median_ms if steady.median_ms is not None else part.whole_run.median_ms
        if median_ms is not None:
            told.append(f"a {part.endpoint} median of {show_ms(median_ms)} ms")
    if not point.endpoints and traffic.median_ms is not None:
        told.append(f"a median of {show_ms(traffic.median_ms)} ms")
    return _listed(told)


def _parts(data: _Data, target: str, endpoint: str) -> list[tuple[int, Traffic]]:
    """Return the figures of one endpoint by users, where it has right answers."""

    def read(part: EndpointFigures) -> Traffic:
        steady = part.scheduled or part.steady
        return steady if steady.median_ms is not None else part.whole_run

    return [
        (point.users, read(part))
        for point in data.points(target)
        for part in point.endpoints
        if part.endpoint == endpoint and read(part).median_ms is not None
    ]


def _at(data: _Data, point: PointFigures) -> str:
    return f"{data.title(point.target)} at {point.users} users"


def _cell(data: _Data, cell: CellFigures) -> str:
    several = any(other.repetition > 1 for other in data.figures.cells)
    return f"{data.title(cell.target)} at {cell.users} users" + (f" (repetition {cell.repetition})" if several else "")


def _up_to(users: int) -> str:
    return f"up to {users} users" if users else "with no number of users"


def _metric(limit: str) -> str:
    return limit.split(maxsplit=1)[0]


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
