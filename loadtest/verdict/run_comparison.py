"""Compares two runs of one plan, such as before and after a change: which is better at each target and number of users.

Called by `loadtest compare`. The verdicts are those of `comparison`, with the two runs in the place of two targets; the
intervals of all levels hold together with 95 % confidence, since a single wrong one would be a false alarm.
"""

from typing import Literal

from loadtest.errors import BadInputError
from loadtest.figures.figures import LevelComparison, Loss
from loadtest.plan.keys import Strict
from loadtest.plan.plan import Plan
from loadtest.rows.run_folder import Environment, RunFolder
from loadtest.verdict.comparison import compare_level, name_verdict
from loadtest.verdict.differences import Side
from loadtest.verdict.summary import RunData, read_run_data

_TITLES = {"old": "the old run", "new": "the new run"}
_LOSSES: dict[Loss, str] = {
    "none_right": "no request of {run} was answered right in a steady window",
    "target_failed": "the target of {run} failed in every repetition",
}
_OF_THE_MACHINE = ("cpu_model", "cores", "usable_cores", "ram_bytes")

Change = Literal["better", "worse", "divided", "tie", "not enough data"]


class ComparedLevel(Strict):
    """One target at one number of users: `old` and `new` are the names of the runs in it."""

    target: str
    change: Change
    """From the old run to the new one; divided: as many figures became better as worse."""
    comparison: LevelComparison


class RunComparison(Strict):
    """All that two runs have in common."""

    old: str
    new: str
    endpoints: list[str]
    levels: list[ComparedLevel]
    notes: list[str]
    """What a reader should know: levels of one run only, and another machine."""

    def count(self, change: Change) -> int:
        """Return at how many levels that was the change."""
        return sum(level.change == change for level in self.levels)


def compare_runs(old: RunFolder, new: RunFolder) -> RunComparison:
    """Return the verdict at each target and number of users that both plans name.

    Raises BadInputError when a folder cannot be read, the loads differ, or nothing can be compared.
    """
    if old.path.resolve() == new.path.resolve():
        raise BadInputError(f"{old.path} is both the old and the new run: give two folders")
    plans = old.read_plan(), new.read_plan()
    _check_loads(*plans)
    places = [{(target.name, users) for target in plan.targets for users in plan.users} for plan in plans]
    common = places[0] & places[1]
    if not common:
        raise BadInputError(f"{old.path} and {new.path} have no target at the same number of users in common")
    levels = _compare_levels(old, new, plans[1], common)
    if all(level.change == "not enough data" for level in levels):
        told = "\n".join(_tell(level) for level in levels)
        raise BadInputError(f"nothing can be compared, for no level has enough data in both runs:\n{told}")
    return RunComparison(
        old=str(old.path),
        new=str(new.path),
        endpoints=list(plans[1].workload.endpoints),
        levels=levels,
        notes=[
            *(f"only in the old run: {name}, {users} users" for name, users in sorted(places[0] - common)),
            *(f"only in the new run: {name}, {users} users" for name, users in sorted(places[1] - common)),
            *_machine_notes(old, new),
        ],
    )


def _compare_levels(old: RunFolder, new: RunFolder, plan: Plan, common: set[tuple[str, int]]) -> list[ComparedLevel]:
    measured = {"old": read_run_data(old), "new": read_run_data(new)}
    levels = []
    for target in plan.targets:
        for users in (one for one in plan.users if (target.name, one) in common):
            sides = [
                Side(name, found, (users, number))
                for number, (name, run) in enumerate(measured.items())
                if (found := [one for one in run.repetitions.get((target.name, users), ()) if one.requests.failed.size])
            ]
            compared = compare_level(users, sides, list(plan.workload.endpoints), _TITLES, len(common))
            compared = _with_loss(compared, (target.name, users), measured)
            levels.append(ComparedLevel(target=target.name, change=_change(compared), comparison=compared))
    return levels


def _with_loss(level: LevelComparison, place: tuple[str, int], measured: dict[str, RunData]) -> LevelComparison:
    """Return the level with the other run as winner, where one of them has no valid cell because its target failed."""
    names = list(measured)
    for loser, winner in (names, reversed(names)):
        loss = measured[loser].losses.get(place)
        if loss and measured[winner].repetitions.get(place):
            because = _LOSSES[loss].format(run=_TITLES[loser])
            return level.model_copy(update={"verdict": "winner", "winner": winner, "because": because})
    return level


def _change(level: LevelComparison) -> Change:
    verdict = name_verdict(level)
    if verdict != "winner":
        return verdict
    return "better" if level.winner == "new" else "worse"


def _tell(level: ComparedLevel) -> str:
    return f"{level.target}, {level.comparison.users} users: {level.comparison.because}"


def _check_loads(old: Plan, new: Plan) -> None:
    loads = [plan.workload.model_dump(mode="json", exclude={"locustfile"}) for plan in (old, new)]
    differing = [key for key in loads[1] if loads[0][key] != loads[1][key]]
    if differing:
        raise BadInputError(f"the runs are under different loads (differing: {', '.join(differing)}); see workload")


def _machine_notes(old: RunFolder, new: RunFolder) -> list[str]:
    before, after = (_machine(folder) for folder in (old, new))
    if before is None or after is None:
        return []
    differing = [name for name in _OF_THE_MACHINE if getattr(before, name) != getattr(after, name)]
    return [f"the machines differ ({', '.join(differing)}), so a change may be theirs"] if differing else []


def _machine(folder: RunFolder) -> Environment | None:
    sessions = folder.read_record().sessions
    return sessions[0].environment if sessions else None
