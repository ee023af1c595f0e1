"""Finds the largest load that holds an objective: measures step after step on one running target.

Called by `python -m loadtest capacity`. Every step is a run folder, from which `report` makes a report;
`capacity.json` holds what was asked, the steps, and the result.
"""

import math
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loadtest.capacity.bisection import AGREEING, Bounds, Result, Step, Todo, decide, most_levels
from loadtest.capacity.judgement import expected_rps, judge, needed_requests, window_s
from loadtest.errors import CellFailedError
from loadtest.machine.environment import begin_session
from loadtest.measure.experiment import files_of, opened
from loadtest.measure.progress import Progress, shown_progress
from loadtest.measure.runner import measure_cell
from loadtest.measure.target import RunningTarget, running_target
from loadtest.plan.keys import Strict
from loadtest.plan.limits import StatedLimit
from loadtest.plan.longest import longest_load_s, longest_start_and_stop_s
from loadtest.plan.plan import Plan
from loadtest.rows.run_folder import Cell, RunFolder, RunRecord, write_json
from loadtest.verdict.summary import summarize

RECORD = "capacity.json"
_SPAWN_PER_S = 100.0
# Locust's own time to have them all, which would be missing in the steady window; of several generators, their talk's.
_SPAWN_S, _SPAWN_OF_SEVERAL_S = 0.1, 1.5


class Question(Strict):
    """What is asked: the load that `target` holds within the objective."""

    by: Literal["users", "rate_rps"]
    """What a level is: users in a closed loop, or requests per second in an open one."""
    bounds: Bounds
    window_s: float
    """The steady window of a step, at least."""
    confirm_s: float
    """The steady window of the confirmation, and of what is measured again because it failed, at least."""
    longest_s: float
    """The steady window of a step, at most, however many samples it lacks."""


class Capacity(Strict, frozen=False):
    """The record of a search, and its result."""

    title: str
    target: str
    objective: list[StatedLimit]
    question: Question
    plan: dict[str, Any]
    """With the one target, and the objective as its limits."""
    steps: list[Step] = []
    result: Result | None = None
    """None until the search is over."""


class _KeptTarget:
    """The target under test, which keeps running from step to step until it fails."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._starts = 0
        self._running: RunningTarget | None = None
        self._stack = ExitStack()

    @property
    def runs(self) -> bool:
        """Return whether it was started already."""
        return self._running is not None

    def keep(self) -> tuple[RunningTarget, bool]:
        """Return the running target, and whether it was started just now. Raises CellFailedError."""
        if self._running is not None:
            return self._running, False
        self._starts += 1
        log = self._folder / f"target_{self._starts}.log"
        self._running = self._stack.enter_context(running_target(self._plan.targets[0], log))
        return self._running, True

    def close(self) -> None:
        """Take it down, so that the next step gets another."""
        self._running = None
        self._stack.close()


def find_capacity(plan: Plan, question: Question, path: Path) -> Capacity:
    """Search, or resume the search that the folder at `path` holds, and return its record.

    `plan` has one target, and the objective as its limits. Raises BadInputError when the folder cannot be used, and
    Interrupted after SIGINT or SIGTERM, when everything that was started has been taken down.
    """
    asked = Capacity(
        title=plan.title,
        target=plan.targets[0].name,
        objective=plan.limits,
        question=question,
        plan=plan.model_dump(mode="json"),
    )
    needs = files_of(plan.workload, plan.targets)
    with (
        opened(path / RECORD, asked, command="capacity", found={"steps", "result"}, needs=needs) as capacity,
        shown_progress() as progress,
        closing(_KeptTarget(plan, path)) as kept,
    ):
        if isinstance(decide(capacity.steps, question.bounds), Todo):
            what = f"up to {most_levels(capacity.steps, question.bounds)} level(s)"
            note = f" if no step is repeated because it is in doubt; a step measures {question.window_s:g} s or longer"
            progress.begin(what, _longest_left_s(plan, question, capacity.steps), note)
        if capacity.steps:
            progress.say(f"{len(capacity.steps)} steps of {path} are measured; the search is resumed")
        while isinstance(todo := decide(capacity.steps, question.bounds), Todo):
            step = _measure(plan, question, todo, capacity.steps, _Place(path, kept, progress))
            capacity.steps.append(step)
            write_json(path / RECORD, capacity)
            progress.say(f"[{len(capacity.steps)}] {_name(question, step.level)}: {_outcome(step)}")
        capacity.result = todo
        write_json(path / RECORD, capacity)
    return capacity


@dataclass(frozen=True)
class _Place:
    """Where steps are measured and shown."""

    path: Path
    kept: _KeptTarget
    progress: Progress


def _measure(plan: Plan, question: Question, todo: Todo, steps: list[Step], place: _Place) -> Step:
    number = len(steps) + 1
    folder = RunFolder(place.path / "steps" / f"{number:03}")
    why = "once more" if todo.repeated else "confirming" if todo.purpose == "confirm" else "searching"
    length_s = _window_s(plan, question, todo, steps)
    left_s = _longest_left_s(plan, question, steps)
    place.progress.begin_step(f"{_name(question, todo.level)} for {length_s:.0f} s, {why}", number, remaining_s=left_s)
    measured: dict[str, Any] = {}
    try:
        if not place.kept.runs:
            place.progress.doing(f"starting {plan.targets[0].title}")
        running, fresh = place.kept.keep()
        stepped = _step_plan(plan, question, todo.level, length_s, fresh=fresh)
        cell = Cell(target=plan.targets[0].name, users=stepped.users[0], repetition=number)
        folder.write_plan(stepped)
        folder.write_record(RunRecord(seed=stepped.seed, order=[cell], sessions=[begin_session()]))
        record = measure_cell(stepped, cell, folder, place.progress, running)
    except CellFailedError as exc:
        place.kept.close()
        outcome, unsure, because = "invalid", False, str(exc)
    else:
        (figures,) = summarize(folder).cells
        if record.status == "failed" or figures.loss is not None:  # one that hangs would fail fewer users too
            place.kept.close()
        outcome, unsure, because = judge(figures, stepped)
        steady = figures.scheduled or figures.steady
        measured = {"requests": steady.requests, "rps": steady.rps} if steady else {}
        measured |= {"window_s": figures.steady_window_s or 0.0, "limits": figures.limits}
    return Step(
        level=todo.level,
        purpose=todo.purpose,
        outcome=outcome,
        unsure=unsure,
        because=because,
        folder=f"steps/{folder.path.name}",
        **measured,
    )


def _window_s(plan: Plan, question: Question, todo: Todo, steps: list[Step]) -> float:
    rps = todo.level if question.by == "rate_rps" else expected_rps(steps, todo.level)
    least_s = question.window_s if todo.purpose == "search" else question.confirm_s
    return window_s(least_s, question.longest_s, needed_requests(plan, plan.limits), rps)


def _longest_left_s(plan: Plan, question: Question, steps: list[Step]) -> float:
    """Return how long the search still takes at most, seconds, if no step is repeated because it is in doubt.

    The level that fails is measured once more, and the one that holds is confirmed.
    """
    least_s = max(question.window_s, question.confirm_s)
    ramp_s = plan.users[0] / plan.spawn_rate_per_s + plan.settle_s
    each_s = longest_load_s(plan, ramp_s + max(least_s, question.longest_s))
    number = most_levels(steps, question.bounds) + AGREEING
    return longest_start_and_stop_s(plan.targets[0]) + longest_load_s(plan, plan.warmup.duration_s) + number * each_s


def _step_plan(plan: Plan, question: Question, level: float, length_s: float, *, fresh: bool) -> Plan:
    """Return the plan of one step; only a target that has just been started is warmed up."""
    raw = plan.model_dump(mode="json")
    if question.by == "rate_rps":
        raw["workload"]["rate_rps"] = level
    else:
        raw["users"] = [int(level)]
    spawn_per_s = plan.spawn_rate_per_s if question.by == "rate_rps" else max(plan.spawn_rate_per_s, _SPAWN_PER_S)
    ramp_s = raw["users"][0] / spawn_per_s + plan.settle_s
    spawn_s = _SPAWN_OF_SEVERAL_S if plan.has_several_generators else _SPAWN_S
    raw |= {
        "spawn_rate_per_s": spawn_per_s,
        "duration_s": math.ceil(ramp_s + length_s + spawn_s),
        "repetitions": 1,
        "baseline": None,
    }
    if not fresh:
        raw["warmup"]["duration_s"] = 0
    return Plan.model_validate(raw)


def _name(question: Question, level: float) -> str:
    return f"{level:g} users" if question.by == "users" else f"{level:g} requests/s"


def _outcome(step: Step) -> str:
    unsure = ", but unsure" if step.unsure else ""
    return f"{step.outcome}{unsure}; {step.requests} requests" + (f"; {step.because}" if step.because else "")
