"""Compares targets at the same number of users: which is better, a tie, divided, or not enough data to say so.

Called by `summary` with the valid repetitions; those that are INVALID never get here. `differences` judges the single
figures; here they become the verdict of a level.

Many figures are compared at one number of users. The confidence of each interval is that of Bonferroni, so that of
targets that do not differ some figure has a winner at no more than about 5 % of the levels. The levels are judged each
for itself: where ten levels of equal targets are compared, every other report may have one wrong winner at worst.
`python -m tests.benchmarks.verdicts` shows what verdicts are worth on simulated queues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import log
from typing import Literal

from loadtest.figures.figures import Difference, LevelComparison, TargetFacts, Verdict, name_metric, show_value
from loadtest.statistics.block_bootstrap import DRAWS
from loadtest.statistics.percentiles import CONFIDENCE, PERCENTILES
from loadtest.verdict.differences import FAILURES, THROUGHPUT, Repetition, Side, find_difference


@dataclass(frozen=True)
class Duel:
    """Two targets beside each other, or the targets of a level."""

    verdict: Verdict | Literal["divided"]
    """divided: each of two targets is better in as many figures, or one of several is better, and none than all."""
    winner: str | None
    because: str


def compare_levels(
    users: Sequence[int],
    targets: Sequence[TargetFacts],
    endpoints: Sequence[str],
    repetitions: Mapping[tuple[str, int], Sequence[Repetition]],
    draws: int = DRAWS,
) -> list[LevelComparison]:
    """Return the comparison at each number of users, in their order; none with a single target.

    `repetitions` are the valid ones, by target and users; a target without requests is left out at that level.
    """
    if len(targets) < 2:  # noqa: PLR2004 # it takes two
        return []
    titles = {target.name: target.title for target in targets}
    levels = []
    for level in users:
        sides = [
            Side(name, found, (level, number), draws)
            for number, name in enumerate(titles)
            if (found := [one for one in repetitions.get((name, level), ()) if one.requests.failed.size])
        ]
        levels.append(compare_level(level, sides, endpoints, titles))
    return levels


def compare_level(
    users: int, sides: Sequence[Side], endpoints: Sequence[str], titles: Mapping[str, str], judged_together: int = 1
) -> LevelComparison:
    """Return the comparison at one number of users; `titles` has each target by name, also those without a side.

    The intervals of `judged_together` levels hold together: for where a single wrong winner among them would matter.
    """
    if len(sides) < 2:  # noqa: PLR2004 # it takes two
        only = f"only {titles[sides[0].name]} has valid data" if sides else "no target has valid data"
        duel, differences = Duel("not enough data", None, only), []
    else:
        pairs = list(combinations(sides, 2))
        metrics = [FAILURES, THROUGHPUT, *(f"{endpoint}.{name}" for endpoint in endpoints for name in PERCENTILES)]
        confidence = 1 - (1 - CONFIDENCE) / (len(pairs) * len(metrics) * judged_together)
        differences = [[find_difference(metric, pair, confidence) for metric in metrics] for pair in pairs]
        duels = [judge_pair(found, titles) for found in differences]
        duel = duels[0] if len(duels) == 1 else _judge_all([side.name for side in sides], duels, titles)
        missing = [title for name, title in titles.items() if name not in {side.name for side in sides}]
        if missing:
            duel = Duel(duel.verdict, duel.winner, f"{duel.because} (no valid data of {', '.join(missing)})")
    # A level holds no fourth verdict: `name_verdict` finds that it is divided by the winners of its figures.
    verdict = "not enough data" if duel.verdict == "divided" else duel.verdict
    return LevelComparison(
        users=users, differences=[*chain(*differences)], verdict=verdict, winner=duel.winner, because=duel.because
    )


def name_verdict(level: LevelComparison) -> Verdict | Literal["divided"]:
    """Return the verdict on a level; a level without a winner is divided if any of its figures has one."""
    has_won_figure = any(difference.winner is not None for difference in level.differences)
    return "divided" if level.winner is None and has_won_figure else level.verdict


def group_by_pair(level: LevelComparison) -> dict[tuple[str, ...], list[Difference]]:
    """Return the differences of a level by the two targets that they are of, the earlier in the plan first."""
    pairs: dict[tuple[str, ...], list[Difference]] = {}
    for difference in level.differences:
        pairs.setdefault(tuple(difference.samples), []).append(difference)
    return pairs


def listed(parts: Sequence[str]) -> str:
    """Return parts as a reader lists them."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def judge_pair(differences: list[Difference], titles: Mapping[str, str]) -> Duel:
    """Return which of two targets is better and why: failures decide first, then the number of figures won."""
    failures, *others = differences
    if failures.winner is not None:
        return Duel("winner", failures.winner, f"fewer failures: {_show(failures, titles)}")
    won = [difference.winner for difference in others if difference.winner is not None]
    if not won:
        return _judge_without_winner(differences)
    counts = {name: won.count(name) for name in titles if name in won}
    best = [name for name, count in counts.items() if count == max(counts.values())]
    if len(best) > 1:
        figures = [listed([name_metric(one.metric) for one in others if one.winner == name]) for name in best]
        first, second = (titles[name] for name in best)
        return Duel("divided", None, f"{first} is better in {figures[0]}, {second} in {figures[1]}")
    clearest = max((difference for difference in others if difference.winner == best[0]), key=_certain_log_difference)
    also = "".join(f", {titles[name]} in {count}" for name, count in counts.items() if name != best[0])
    told = f"better in {counts[best[0]]} of {len(others)} figures{also}"
    return Duel(
        "winner", best[0], f"{told}, most clearly {name_metric(clearest.metric)} with {_show(clearest, titles)}"
    )


def _judge_without_winner(differences: list[Difference]) -> Duel:
    total, ties = len(differences), sum(difference.verdict == "tie" for difference in differences)
    if 2 * ties < total:
        return Duel("not enough data", None, f"{total - ties} of {total} figures have not enough data")
    unknown = f"; {total - ties} have not enough data" if ties < total else ""
    return Duel("tie", None, f"no difference is shown in {ties} of {total} figures{unknown}")


def _judge_all(names: list[str], duels: list[Duel], titles: Mapping[str, str]) -> Duel:
    """Return the target that is better than each of the others."""
    by_pair = dict(zip(combinations(names, 2), duels, strict=True))
    for name in names:
        own = {pair: duel for pair, duel in by_pair.items() if name in pair}
        if all(duel.winner == name for duel in own.values()):
            told = [f"{duel.because}, beside {titles[_other(pair, name)]}" for pair, duel in own.items()]
            return Duel("winner", name, "; ".join(told))
    told = [f"{' and '.join(titles[name] for name in pair)}: {_told(duel, titles)}" for pair, duel in by_pair.items()]
    verdicts = {duel.verdict for duel in duels}
    because = f"none is better than every other: {'; '.join(told)}"
    if verdicts & {"winner", "divided"}:
        return Duel("divided", None, because)
    return Duel("tie" if verdicts == {"tie"} else "not enough data", None, because)


def _told(duel: Duel, titles: Mapping[str, str]) -> str:
    return f"{duel.verdict}, {duel.because}" if duel.winner is None else f"{titles[duel.winner]} is {duel.because}"


def _other(pair: tuple[str, str], name: str) -> str:
    return pair[1] if pair[0] == name else pair[0]


def _certain_log_difference(difference: Difference) -> float:
    return min(abs(log(1 + end / 100)) for end in difference.interval_percent or (0.0,))


def _show(difference: Difference, titles: Mapping[str, str]) -> str:
    """Return both values of a difference that has a winner, the winner's first, and by how much it is certain."""
    assert difference.winner is not None
    assert difference.interval_percent is not None
    other = next(name for name in difference.values if name != difference.winner)
    better, worse = (show_value(difference.metric, difference.values[name]) for name in (difference.winner, other))
    certain = min(abs(end) for end in difference.interval_percent)
    told = f"{certain:.2g}" if certain < 99.5 else f"{certain:,.0f}"  # noqa: PLR2004 # two digits
    unit = "points" if difference.metric == FAILURES else "%"
    return f"{better} against {worse} ({titles[other]}), by at least {told} {unit}"
