"""Compares targets at the same number of users: which is better by what, or a tie.

Called by `summary`. A difference counts from a fixed size on, which is a rule of thumb: it has no confidence
interval yet, so chance may make a winner; intervals over repetitions are work to come.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from loadtest.reporting.figures import (
    Difference,
    LevelComparison,
    PointFigures,
    TargetFacts,
    name_metric,
    show_percent,
    show_value,
)

LEAST_DIFFERENCE_PERCENT = 10.0
"""Of the smaller value. Two runs of the same target differ by several percent on a shared machine."""

LEAST_FAILURES_POINTS = 1.0
"""Between two shares of failures, in percentage points."""

LATENCIES: tuple[Literal["median_ms", "p95_ms", "p99_ms"], ...] = ("median_ms", "p95_ms", "p99_ms")


def compare_levels(points: Sequence[PointFigures], targets: Sequence[TargetFacts]) -> list[LevelComparison]:
    """Return the comparison at each number of users, in the order of `points`; none with a single target."""
    if len(targets) < 2:  # noqa: PLR2004 # it takes two
        return []
    titles = {target.name: target.title for target in targets}
    levels = dict.fromkeys(point.users for point in points)
    return [_compare(users, [point for point in points if point.users == users], titles) for users in levels]


def _compare(users: int, points: list[PointFigures], titles: dict[str, str]) -> LevelComparison:
    known = [point for point in points if point.steady is not None and point.steady.requests]
    if len(known) < 2:  # noqa: PLR2004 # it takes two
        only = f"only {titles[known[0].target]} has valid data" if known else "no target has valid data"
        return LevelComparison(users=users, winner=None, because=f"not enough data: {only}", differences=[])
    winner, because = _judge(known, titles)
    missing = [titles[point.target] for point in points if point not in known]
    if missing:
        because += f" (no valid data of {', '.join(missing)})"
    return LevelComparison(users=users, winner=winner, because=because, differences=_differences(known))


def _judge(points: list[PointFigures], titles: dict[str, str]) -> tuple[str | None, str]:
    """Return the winner and why: failures decide first, then the number of metrics won among those left."""
    shares = {point.target: point.steady.failures_percent or 0.0 for point in points if point.steady}
    fewest = min(shares.values())
    left = [point for point in points if round(shares[point.target] - fewest, 4) < LEAST_FAILURES_POINTS]
    if len(left) == 1:
        others = " and ".join(
            f"{show_percent(share)} % ({titles[name]})" for name, share in shares.items() if name != left[0].target
        )
        return left[0].target, f"fewer failures: {show_percent(fewest)} % against {others}"
    differences = [difference for difference in _differences(left) if difference.metric != "failures_percent"]
    return _judge_by_wins(differences, titles)


def _judge_by_wins(differences: list[Difference], titles: dict[str, str]) -> tuple[str | None, str]:
    won = [difference.winner for difference in differences if difference.winner is not None]
    total = len(differences)
    if not won:
        return None, f"tie: none of {total} figures differs by {LEAST_DIFFERENCE_PERCENT:g} % or more"
    counts = {name: won.count(name) for name in titles if name in won}
    most = max(counts.values())
    best = [name for name, count in counts.items() if count == most]
    if len(best) > 1:
        return None, f"tie: {' and '.join(titles[name] for name in best)} are each better in {most} of {total} figures"
    winner = best[0]
    others = "".join(f", {titles[name]} in {count}" for name, count in counts.items() if name != winner)
    clearest = max(
        (difference for difference in differences if difference.winner == winner),
        key=lambda difference: difference.difference_percent or 0.0,
    )
    return winner, f"better in {most} of {total} figures{others}, most clearly {_show(clearest, titles)}"


def _show(difference: Difference, titles: dict[str, str]) -> str:
    values = sorted(difference.values.items(), key=lambda item: item[0] != difference.winner)
    shown = " against ".join(show_value(difference.metric, value) for _, value in values[:1])
    others = " and ".join(f"{show_value(difference.metric, value)} ({titles[name]})" for name, value in values[1:])
    return f"{name_metric(difference.metric)} with {shown} against {others}"


def _differences(points: list[PointFigures]) -> list[Difference]:
    found = []
    for metric, values in _metrics(points):
        if len(values) > 1:
            winner, difference_percent = _winner(metric, values)
            found.append(Difference(metric=metric, values=values, winner=winner, difference_percent=difference_percent))
    return found


def _metrics(points: list[PointFigures]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each metric with the values of the targets that have one."""
    for metric in ("failures_percent", "rps"):
        yield metric, _known({point.target: getattr(point.steady, metric) for point in points})
    for endpoint in dict.fromkeys(part.endpoint for point in points for part in point.endpoints):
        parts = {point.target: part.steady for point in points for part in point.endpoints if part.endpoint == endpoint}
        for metric in LATENCIES:
            yield f"{endpoint}.{metric}", _known({name: getattr(part, metric) for name, part in parts.items()})


def _known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _winner(metric: str, values: dict[str, float]) -> tuple[str | None, float | None]:
    """Return the best target if it is clearly better than the second best, and by how many percent they differ."""
    ranked = sorted(values, key=values.__getitem__, reverse=metric == "rps")
    smaller, larger = sorted((values[ranked[0]], values[ranked[1]]))
    percent = round(100 * (larger - smaller) / smaller, 4) if smaller > 0 else None
    if metric == "failures_percent":
        clear = round(larger - smaller, 4) >= LEAST_FAILURES_POINTS
    else:
        clear = larger > 0 if percent is None else percent >= LEAST_DIFFERENCE_PERCENT
    return (ranked[0] if clear else None), percent
