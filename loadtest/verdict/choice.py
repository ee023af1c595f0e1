"""Which target to run, and whether the figures decide that: by objectives, then by levels won, else by memory.

Called by `findings`, which puts it into words, and by `overview`. What the data leave open is not decided: with few
repetitions, a target that is better in a single figure is ahead, and no more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from loadtest.figures.figures import (
    BaselinePoint,
    CellFigures,
    Difference,
    Facts,
    LevelComparison,
    LimitResult,
    Loss,
    PointFigures,
    show_bytes,
)
from loadtest.plan.targets import KIT_ROLES
from loadtest.verdict.comparison import Duel, group_by_pair, judge_pair, listed
from loadtest.verdict.differences import (
    FAILURES,
    FEW_FAILURES_POINTS,
    LARGE_DIFFERENCE_PERCENT,
    LEAST_REPETITIONS,
)
from loadtest.verdict.loss import find_level_loss

LEAST_MEMORY_SAVED_SHARE = 0.1
"""Of the larger memory; less is not a reason to choose."""

LOSSES: dict[Loss, str] = {
    "none_right": "answers nothing right",
    "target_failed": "fails in every repetition",
}
"""What a target does at a number of users that it lost."""


@dataclass(frozen=True)
class Held:
    """Up to how many users a target met all objectives; without any, up to how many it answered."""

    users: int
    """0 for none."""
    unknown_at: int | None
    """The next level, where it has no valid cell, so that nobody knows whether it met them there; else None."""
    missed_at: int | None
    """The fewest users with which it missed one; None if it missed none."""
    loss: Loss | None
    """How it failed there, where that is why it has no valid cell there."""
    possible_users: int
    """The most below the first miss: what `users` could be if the levels without a valid cell had met them."""

    def __str__(self) -> str:
        """Return it as a clause: `up to 20 users`."""
        told = f"up to {self.users} users" if self.users else "with no number of users"
        if self.unknown_at is not None:
            return f"{told} (at {self.unknown_at} users no cell is valid)"
        return f"{told} (at {self.missed_at} users it {LOSSES[self.loss]})" if self.loss else told


@dataclass(frozen=True)
class Data:
    """Facts, with the questions that several sentences ask of them."""

    figures: Facts

    def title(self, target: str) -> str:
        """Return what reports call a target."""
        return self.figures.title_of(target)

    def points(self, target: str) -> list[PointFigures]:
        """Return the points of a target that have requests, by users."""
        known = [point for point in self.figures.points if point.target == target and point.has_requests]
        return sorted(known, key=lambda point: point.users)

    def targets(self) -> list[str]:
        """Return the targets that have a point."""
        return [facts.name for facts in self.figures.targets if self.points(facts.name)]

    def valid_cells(self) -> list[CellFigures]:
        """Return the cells that count."""
        return [cell for cell in self.figures.cells if cell.valid]

    def published(self, point: PointFigures) -> BaselinePoint | None:
        """Return the row of the other report beside a point."""
        rows = self.figures.baseline.points if self.figures.baseline else []
        return next((row for row in rows if (row.target, row.users) == (point.target, point.users)), None)

    def has_limits(self) -> bool:
        """Return whether there are objectives."""
        return any(cell.limits for cell in self.figures.cells)

    def is_judged(self) -> bool:
        """Return whether there are objectives, or a level that a target lost, which counts without any too."""
        lost = (self.loss(target, users) for target in self.targets() for users in self.planned_users(target))
        return self.has_limits() or any(lost)

    def meets(self) -> str:
        """Return what a target does at the numbers of users that it held."""
        return "meets every objective" if self.has_limits() else "answers"

    def common_users(self) -> list[int]:
        """Return the numbers of users at which every target that has points has one."""
        levels = [{point.users for point in self.points(target)} for target in self.targets()]
        return sorted(set.intersection(*levels)) if levels else []

    def planned_users(self, target: str) -> list[int]:
        """Return the numbers of users at which a target was to be measured."""
        return sorted(point.users for point in self.figures.points if point.target == target)

    def held(self, target: str, levels: Sequence[int]) -> Held:
        """Return up to how many users among `levels` a target met all objectives.

        A level without a valid cell ends that as a miss does, and is one if the target is why no cell is valid.
        """
        losses = {users: self.loss(target, users) for users in levels}
        missed_at = next((users for users in levels if losses[users] or self.missed(target, users)), None)
        below = [users for users in levels if missed_at is None or users < missed_at]
        measured = {point.users for point in self.points(target)}
        unknown_at = next((users for users in below if users not in measured), None)
        held = [users for users in below if unknown_at is None or users < unknown_at]
        return Held(
            users=max(held, default=0),
            unknown_at=unknown_at,
            missed_at=missed_at,
            loss=None if missed_at is None else losses[missed_at],
            possible_users=max(below, default=0),
        )

    def loss(self, target: str, users: int) -> Loss | None:
        """Return how a target failed at a number of users, where that is why no cell of it is valid there.

        A cell in which it was never ready has met no load, and says nothing.
        """
        cells = [cell for cell in self.figures.cells if (cell.target, cell.users) == (target, users)]
        return find_level_loss([cell.loss for cell in cells if cell.loss is None or cell.ready_after_s is not None])

    def missed(self, target: str, users: int) -> list[LimitResult]:
        """Return what the valid cells of a target at a number of users missed."""
        cells = [cell for cell in self.valid_cells() if (cell.target, cell.users) == (target, users)]
        return [result for cell in cells for result in cell.limits if not result.met]

    def repetitions(self, users: int) -> int:
        """Return the fewest valid repetitions at a number of users, of the targets that have any."""
        known = [point.repetitions for point in self.figures.points if point.users == users and point.repetitions]
        return min(known, default=0)

    def memory_bytes(self, target: str, users: int) -> int | None:
        """Return the memory of all processes of a target at a number of users."""
        roles = next((point.roles for point in self.points(target) if point.users == users), [])
        own = [role.rss_max_bytes for role in roles if role.role not in KIT_ROLES or role.role == "target_other"]
        return sum(own) if own else None


@dataclass(frozen=True)
class Choice:
    """What speaks for a target, and how far the figures decide."""

    state: Literal["decided", "split", "divided", "tie", "undecided"]
    """split: each of several targets is the better one at other numbers of users; divided: each is better in other
    figures, or than another target."""
    target: str | None
    """None when nothing speaks for one."""
    ground: Literal["objectives", "levels", "memory", "number of replicas", "nothing"]
    """What the choice rests on."""
    because: str
    """A clause that follows a colon."""
    open: str = ""
    """What an undecided choice leaves open, on what a split or divided one depends, or who is out of a tie: a sentence
    without its end."""
    among: Sequence[str] = ()
    """The targets of a tie."""


def decides(data: Data, level: LevelComparison) -> bool:
    """Return whether the winner of a level is one by more than chance: enough repetitions, or clear in most figures."""
    if level.winner is None:
        return False
    if data.repetitions(level.users) >= LEAST_REPETITIONS:
        return True
    pairs = [found for pair, found in group_by_pair(level).items() if level.winner in pair]
    return bool(pairs) and all(_has_most(found, level.winner) for found in pairs)


def _has_most(differences: Sequence[Difference], *winners: str) -> bool:
    """Return whether these targets of a pair are better in failures, or in more than half of the other figures."""
    others = [one for one in differences if one.metric != FAILURES]
    is_by_failures = any(one.winner in winners for one in differences if one.metric == FAILURES)
    return is_by_failures or 2 * sum(one.winner in winners for one in others) > len(others)


def choose(data: Data) -> Choice | None:
    """Return the target to run and whether that is decided; None where there is nothing to choose from."""
    targets, levels = data.targets(), data.common_users()
    if len(targets) < 2 or not levels:  # noqa: PLR2004 # nothing to choose from
        return None
    planned = sorted(set.intersection(*(set(data.planned_users(target)) for target in targets)))
    held = {target: data.held(target, planned) for target in targets}
    most = max(one.users for one in held.values())
    left = [target for target in targets if held[target].possible_users >= most] if data.is_judged() else targets
    if len(left) == 1:
        return _choose_by_objectives(data, left[0], held)
    if data.is_judged() and any(held[target].users < most for target in left):
        return _choose_by_what_is_known(data, left, held)
    return _choose_by_figures(data, left, held)


def _choose_by_figures(data: Data, targets: Sequence[str], held: Mapping[str, Held]) -> Choice:
    return _choose_by_levels(data, targets, held) or _choose_without_winner(data, targets, held)


def _choose_by_levels(data: Data, targets: Sequence[str], held: Mapping[str, Held]) -> Choice | None:
    won = {target: [one for one in _compared(data) if one.winner == target] for target in targets}
    clear = {target: [one for one in levels if decides(data, one)] for target, levels in won.items()}
    most = max(map(len, clear.values()))
    leaders = [target for target, levels in clear.items() if most and len(levels) == most]
    if len(leaders) == 1:
        others = listed([f"{data.title(name)} at {len(clear[name])}" for name in targets if name != leaders[0]])
        told = f"it wins at {most} of {len(_compared(data))} user levels, {others}"
        return Choice("decided", leaders[0], "levels", f"{_same_objectives(data, leaders[0], targets, held)}{told}")
    if leaders:
        told = listed([f"{data.title(name)} wins at {_users_of(clear[name])} users" for name in leaders])
        return replace(_choose_by_size(data, leaders), state="split", open=told)
    return None


def _choose_without_winner(data: Data, targets: Sequence[str], held: Mapping[str, Held]) -> Choice:
    """Return the choice where no target is better than every other at the most levels."""
    pairs = _pairs(data, targets)
    left = _unbeaten(pairs, targets)
    beaten = _tell_beaten(data, pairs, targets, left)
    if len(left) == 1:
        return _choose_unbeaten(data, pairs, left[0], targets, held)
    smallest = _choose_by_size(data, left)
    pairs = _pairs(data, left)
    if pairs and all(pair.duel.verdict == "tie" for pair in pairs):
        others = [f"{data.title(name)} {data.meets()} {one}" for name, one in held.items() if name not in targets]
        return replace(smallest, open="; ".join([*beaten, *others]), among=left)
    if divided := _tell_pairs(data, [pair for pair in pairs if pair.is_clear]):
        return replace(smallest, state="divided", open="; ".join([*divided, *beaten]))
    return replace(smallest, state="undecided", open="; ".join([_left_open(data, left, held), *beaten]))


@dataclass(frozen=True)
class _Pair:
    """Two targets at one number of users."""

    users: int
    names: tuple[str, ...]
    duel: Duel
    is_clear: bool
    """Whether what is won is so by more than chance, as `decides` asks of a level."""

    def other(self, name: str) -> str:
        """Return the other target."""
        return self.names[1] if self.names[0] == name else self.names[0]


def _pairs(data: Data, targets: Sequence[str]) -> list[_Pair]:
    """Return the pairs of these targets at each number of users that is compared."""
    titles = {facts.name: facts.title for facts in data.figures.targets}
    pairs = []
    for level in _compared(data):
        for names, found in group_by_pair(level).items():
            duel = judge_pair(found, titles)
            winners = names if duel.verdict == "divided" else (duel.winner,) if duel.winner else ()
            enough = data.repetitions(level.users) >= LEAST_REPETITIONS
            is_clear = bool(winners) and (enough or _has_most(found, *winners))
            if {*names} <= {*targets}:
                pairs.append(_Pair(level.users, names, duel, is_clear))
    return pairs


def _wins(pairs: Sequence[_Pair], winner: str, loser: str) -> list[int]:
    """Return the numbers of users at which one target is clearly better than another."""
    return [
        pair.users for pair in pairs if pair.is_clear and pair.duel.winner == winner and pair.other(winner) == loser
    ]


def _unbeaten(pairs: Sequence[_Pair], targets: Sequence[str]) -> Sequence[str]:
    """Return the targets without those that are worse than another and never better; all, if that is a circle."""
    left = [
        name
        for name in targets
        if not any(_wins(pairs, other, name) and not _wins(pairs, name, other) for other in targets)
    ]
    return left or targets


def _tell_beaten(data: Data, pairs: Sequence[_Pair], targets: Sequence[str], left: Sequence[str]) -> list[str]:
    """Return for each target that is out which are better, those that are left first."""
    told = []
    for loser in (name for name in targets if name not in left):
        wins = {name: users for name in (*left, *targets) if (users := _wins(pairs, name, loser))}
        winners = [name for name in wins if name in left] or [*wins]
        are = "is" if len(winners) == 1 else "are"
        users = sorted({users for name in winners for users in wins[name]})
        told.append(
            f"{listed([*map(data.title, winners)])} {are} better than {data.title(loser)} at {_told_users(users)} users"
        )
    return told


def _tell_pairs(data: Data, pairs: Sequence[_Pair]) -> list[str]:
    """Return what is won in pairs, the same at several numbers of users once."""
    users: dict[str, list[int]] = {}
    for pair in pairs:
        if pair.duel.verdict == "divided":
            users.setdefault(pair.duel.because, []).append(pair.users)
        elif pair.duel.winner:
            does = "is better than" if pair.is_clear else "is ahead of"
            told = f"{data.title(pair.duel.winner)} {does} {data.title(pair.other(pair.duel.winner))}"
            users.setdefault(told, []).append(pair.users)
    return [f"at {_told_users(levels)} users {told}" for told, levels in users.items()]


def _choose_unbeaten(
    data: Data, pairs: Sequence[_Pair], best: str, targets: Sequence[str], held: Mapping[str, Held]
) -> Choice:
    """Return the only target that no other is better than; decided if it is better than each."""
    wins = {name: _wins(pairs, best, name) for name in targets if name != best}
    known = [f"{data.title(name)} at {_told_users(users)} users" for name, users in wins.items() if users]
    because = f"it is better than {listed(known)}" if known else "no other is better than it"
    unknown = [name for name, users in wins.items() if not users]
    if unknown:
        return Choice("undecided", best, "levels", because, _left_open(data, [best, *unknown], held))
    return Choice("decided", best, "levels", f"{_same_objectives(data, best, targets, held)}{because}")


def _compared(data: Data) -> list[LevelComparison]:
    """Return the comparisons at the numbers of users that all targets have."""
    return [level for level in data.figures.comparisons if level.users in data.common_users()]


def _choose_by_objectives(data: Data, best: str, held: Mapping[str, Held]) -> Choice:
    others = listed([f"{data.title(name)} {users}" for name, users in held.items() if name != best])
    because = f"it {data.meets()} {held[best]}, {others}"
    for name, one in held.items():
        if name == best or one.loss or one.missed_at is None:
            continue
        missed = data.missed(name, one.missed_at)
        if len({result.limit for result in missed}) == len(missed) and not any(map(_is_clear, missed)):
            told = listed([f"{result.limit} with {result.told}" for result in missed])
            misses = f"{data.title(name)} at {one.missed_at} users misses {told}"
            why = f"{misses}, once and by so little that chance may decide"
            return Choice("undecided", best, "objectives", because, why)
    return Choice("decided", best, "objectives", because)


def _choose_by_what_is_known(data: Data, targets: Sequence[str], held: Mapping[str, Held]) -> Choice:
    """Return the target that meets every objective the farthest, where another may do so at a level without data."""
    most = max(held[name].users for name in targets)
    best, *as_good = [name for name in targets if held[name].users == most]
    told = f"{listed(_tell_unknown(data, targets, held))}, so that it is not known who {data.meets()} there"
    if as_good:
        return replace(_choose_by_figures(data, [best, *as_good], held), state="undecided", open=told)
    others = listed([f"{data.title(name)} {held[name]}" for name in targets if name != best])
    return Choice("undecided", best, "objectives", f"it {data.meets()} {held[best]}, {others}", told)


def _is_clear(result: LimitResult) -> bool:
    """Return whether a single miss says something: by as much as two targets must differ with few repetitions."""
    limit = result.limit
    if result.value is None:
        return False
    if limit.metric == FAILURES:
        return result.value >= limit.value + FEW_FAILURES_POINTS
    factor = 1 + LARGE_DIFFERENCE_PERCENT / 100
    bound = limit.value * factor if limit.comparison in {"<=", "<"} else limit.value / factor
    return not limit.model_copy(update={"value": bound}).holds_for(result.value)


def _left_open(data: Data, targets: Sequence[str], held: Mapping[str, Held]) -> str:
    """Return why the figures do not tell targets apart, and who is ahead."""
    told = listed([data.title(name) for name in targets])
    least = min(held[name].users for name in targets)
    meet = "meet every objective" if data.has_limits() else "answer"
    told += f" {meet} up to {least} users and" if data.is_judged() and least else ""
    repetitions = min((data.repetitions(level.users) for level in _compared(data)), default=0)
    if 0 < repetitions < LEAST_REPETITIONS:
        runs = "1 repetition does" if repetitions == 1 else f"{repetitions} repetitions do"
        told += f" cannot be told apart, as {runs} not show how much two runs of one target differ"
    else:
        told += " cannot be told apart with the data at hand"
    ahead = [told_ahead for name in targets if (told_ahead := _ahead(data, name))]
    won = {level.users for level in _compared(data) if level.winner}
    ahead += _tell_pairs(data, [pair for pair in _pairs(data, targets) if pair.users not in won])
    told += f" ({'; '.join(ahead)})" if ahead else ""
    return "; ".join([told, *_tell_unknown(data, targets, held)])


def _tell_unknown(data: Data, targets: Sequence[str], held: Mapping[str, Held]) -> list[str]:
    if not data.is_judged():
        return []
    unknown_at = {name: held[name].unknown_at for name in targets}
    return [f"at {users} users no cell of {data.title(name)} is valid" for name, users in unknown_at.items() if users]


def _ahead(data: Data, target: str) -> str:
    levels = [level for level in _compared(data) if level.winner == target]
    if not levels:
        return ""
    figures = [
        [one.winner for one in found if one.metric != FAILURES]
        for level in levels
        for pair, found in group_by_pair(level).items()
        if target in pair
    ]
    counts = sorted({winners.count(target) for winners in figures})
    count = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    told = f"{data.title(target)} is ahead at {_users_of(levels)} users, in {count} of {len(figures[0])} figures"
    return f"{told} each" if len(figures) > 1 else told


def _users_of(levels: Sequence[LevelComparison]) -> str:
    return _told_users([level.users for level in levels])


def _told_users(users: Sequence[int]) -> str:
    return listed([*map(str, users)])


def _choose_by_size(data: Data, targets: Sequence[str]) -> Choice:
    """Return the target that needs least, as a tie that nothing else breaks."""
    users = data.common_users()[-1]
    memory = {name: size for name in targets if (size := data.memory_bytes(name, users)) is not None}
    if len(memory) == len(targets):
        smallest, second = sorted(memory, key=memory.__getitem__)[:2]
        if memory[smallest] <= (1 - LEAST_MEMORY_SAVED_SHARE) * memory[second]:
            others = listed([f"{data.title(name)} {show_bytes(memory[name])}" for name in memory if name != smallest])
            return Choice("tie", smallest, "memory", f"it needs {show_bytes(memory[smallest])} resident, {others}")
    known = {facts.name: facts.replicas for facts in data.figures.targets if facts.replicas and facts.name in targets}
    fewest = [name for name, count in known.items() if count == min(known.values())]
    if len(known) == len(targets) and len(fewest) == 1:
        others = listed([f"{data.title(name)} {count}" for name, count in known.items() if name != fewest[0]])
        return Choice("tie", fewest[0], "number of replicas", f"it has {known[fewest[0]]}, {others}")
    return Choice("tie", None, "nothing", "")


def _same_objectives(data: Data, target: str, targets: Sequence[str], held: Mapping[str, Held]) -> str:
    """Say how far the objectives did not decide among `targets`."""
    if not data.is_judged():
        return ""
    others = [name for name in targets if name != target]
    if any(held[name] != held[target] for name in others):
        told = listed([f"{data.title(name)} {held[name]}" for name in others])
        return f"it {data.meets()} {held[target]}, {told}, and "
    if not held[target].possible_users:
        return f"no target {data.meets()} even with the fewest users, but "
    return f"like {listed([*map(data.title, others)])} it {data.meets()} {held[target]}, and "
