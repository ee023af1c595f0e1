"""Compares targets at the same number of users: which is better, or a tie, or not enough data to say so.

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

from loadtest.figures.figures import Difference, LevelComparison, TargetFacts, Verdict, name_metric, show_value
from loadtest.statistics.block_bootstrap import DRAWS
from loadtest.statistics.percentiles import CONFIDENCE, PERCENTILES
from loadtest.verdict.differences import FAILURES, THROUGHPUT, Repetition, Side, find_difference


@dataclass(frozen=True)
class _Duel:
    """Two targets beside each other."""

    verdict: Verdict
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
        duel, differences = _Duel("not enough data", None, only), []
    else:
        pairs = list(combinations(sides, 2))
        metrics = [FAILURES, THROUGHPUT, *(f"{endpoint}.{name}" for endpoint in endpoints for name in PERCENTILES)]
        confidence = 1 - (1 - CONFIDENCE) / (len(pairs) * len(metrics) * judged_together)
        differences = [[find_difference(metric, pair, confidence) for metric in metrics] for pair in pairs]
        duels = [_judge(found, titles) for found in differences]
        duel = duels[0] if len(duels) == 1 else _judge_all([side.name for side in sides], duels, titles)
        missing = [title for name, title in titles.items() if name not in {side.name for side in sides}]
        if missing:
            duel = _Duel(duel.verdict, duel.winner, f"{duel.because} (no valid data of {', '.join(missing)})")
    return LevelComparison(users=users, differences=[*chain(*differences)], **vars(duel))


def _judge(differences: list[Difference], titles: Mapping[str, str]) -> _Duel:
    """Return which of two targets is better and why: failures decide first, then the number of figures won."""
    failures, *others = differences
    if failures.winner is not None:
        return _Duel("winner", failures.winner, f"fewer failures: {_show(failures, titles)}")
    won = [difference.winner for difference in others if difference.winner is not None]
    if not won:
        return _judge_without_winner(differences)
    counts = {name: won.count(name) for name in titles if name in won}
    best = [name for name, count in counts.items() if count == max(counts.values())]
    if len(best) > 1:
        told = f"{' and '.join(titles[name] for name in best)} are each better in {counts[best[0]]}"
        return _Duel("tie", None, f"{told} of {len(others)} figures")
    clearest = max((difference for difference in others if difference.winner == best[0]), key=_certain_log_difference)
    also = "".join(f", {titles[name]} in {count}" for name, count in counts.items() if name != best[0])
    told = f"better in {counts[best[0]]} of {len(others)} figures{also}"
    return _Duel(
        "winner", best[0], f"{told}, most clearly {name_metric(clearest.metric)} with {_show(clearest, titles)}"
    )


def _judge_without_winner(differences: list[Difference]) -> _Duel:
    total, ties = len(differences), sum(difference.verdict == "tie" for difference in differences)
    if 2 * ties < total:
        return _Duel("not enough data", None, f"{total - ties} of {total} figures have not enough data")
    unknown = f"; {total - ties} have not enough data" if ties < total else ""
    return _Duel("tie", None, f"no difference is shown in {ties} of {total} figures{unknown}")


def _judge_all(names: list[str], duels: list[_Duel], titles: Mapping[str, str]) -> _Duel:
    """Return the target that is better than each of the others."""
    by_pair = dict(zip(combinations(names, 2), duels, strict=True))
    for name in names:
        own = {pair: duel for pair, duel in by_pair.items() if name in pair}
        if all(duel.winner == name for duel in own.values()):
            told = [f"{duel.because}, beside {titles[_other(pair, name)]}" for pair, duel in own.items()]
            return _Duel("winner", name, "; ".join(told))
    told = [f"{' and '.join(titles[name] for name in pair)}: {_told(duel, titles)}" for pair, duel in by_pair.items()]
    unknown = all(duel.verdict == "not enough data" for duel in duels)
    return _Duel("not enough data" if unknown else "tie", None, f"none is better than every other: {'; '.join(told)}")


def _told(duel: _Duel, titles: Mapping[str, str]) -> str:
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
