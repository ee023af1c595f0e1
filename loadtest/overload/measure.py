"""Makes the loads of an overload test on one running target, and leaves raw rows. Called by the command line.

Two generators run side by side: one with too many heavy requests, and one with a light load before, during
and after, whose latencies show what a neighbour feels and when all is as before.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import CellFailedError
from loadtest.load.generator import Generator, Load, running_generator
from loadtest.measure.experiment import files_of, opened
from loadtest.measure.follower import Follower
from loadtest.measure.progress import Progress, shown_progress
from loadtest.measure.target import RunningTarget, running_target
from loadtest.overload.figures import lacks_capacity, read_capacity_rps
from loadtest.overload.question import (
    NEIGHBOUR_IN_FLIGHT,
    NEIGHBOUR_RPS,
    NEIGHBOUR_WEIGHT,
    Asked,
    LevelRecord,
    OverloadFolder,
    Question,
)
from loadtest.plan.longest import longest_load_s, longest_start_and_stop_s, longest_warmup_s
from loadtest.plan.plan import Plan
from loadtest.rows.run_folder import Moments, emptied, write_json

_FIRST_ROW_S = 60.0
_LEAST_IN_FLIGHT = 200
# Users of an open loop are there at once; Locust takes its time over hundreds of them.
_SPAWN_S = 1
_GRACE_S = 60.0


def measure_overload(plan: Plan, question: Question, folder: OverloadFolder) -> None:
    """Measure what the folder does not hold yet, all levels on one running target.

    Raises BadInputError when the folder cannot be used, CellFailedError when the target or a generator fails, and
    Interrupted after SIGINT or SIGTERM, when everything that was started has been taken down.
    """
    asked, target = Asked(plan=plan, question=question), plan.targets[0]
    needs = files_of(plan.workload, plan.targets)
    with opened(folder.plan, asked, command="overload", needs=needs), shown_progress() as progress:
        todo = [times for times in question.times if not folder.level_record(times).is_file()]
        if not todo:
            return
        longest_s = longest_start_and_stop_s(target) + longest_warmup_s(plan)
        longest_s += _longest_capacity_s(plan, question, folder) + len(todo) * _longest_level_s(plan, question)
        note = f"; each level sends its load for {question.seconds:g} s"
        progress.begin(f"{len(todo)} level(s) of overload", longest_s, note)
        progress.begin_step(f"overload of {target.title}", 0, remaining_s=longest_s)
        progress.doing(f"starting {target.title}")
        with running_target(target, folder.path / "target.log") as running:
            running.wait_until_ready()
            running.check_replicas(running.count_replicas(plan.roles))
            Follower(running, progress).warm_up(plan, plan.seed, folder.path)
            overload = _Overload(plan, question, folder, running, progress)
            capacity_rps = overload.find_capacity_rps()
            for number, times in enumerate(todo):
                left_s = target.stop_timeout_s + (len(todo) - number) * _longest_level_s(plan, question)
                title = f"{times:g} times the capacity of {capacity_rps:.1f} {question.heavy}/s"
                progress.begin_step(title, number + 1, remaining_s=left_s)
                overload.measure_level(times, times * capacity_rps)
            progress.doing(f"stopping {target.title}")


def _longest_capacity_s(plan: Plan, question: Question, folder: OverloadFolder) -> float:
    return longest_load_s(plan, question.saturating_s, is_open=False) if lacks_capacity(question, folder) else 0.0


def _longest_level_s(plan: Plan, question: Question) -> float:
    light_s = _FIRST_ROW_S + question.idle_s + question.tail_s + longest_load_s(plan, 0, is_open=True)
    return light_s + longest_load_s(plan, math.ceil(question.seconds) + _SPAWN_S, is_open=True)


@dataclass(frozen=True)
class _Overload:
    """The loads on one running target."""

    plan: Plan
    question: Question
    folder: OverloadFolder
    running: RunningTarget
    progress: Progress

    def find_capacity_rps(self) -> float:
        """Return heavy requests per second, measured if they are neither given nor known. Raises CellFailedError."""
        question, folder = self.question, self.folder.capacity
        if lacks_capacity(question, self.folder):
            users, duration_s = question.saturating_users, question.saturating_s
            self.progress.doing(f"measuring the capacity: {users} users without think time")
            plan = self._plan({question.heavy: 1}, {"wait_s": (0.0, 0.0)}, users, duration_s)
            load = _load(plan, folder, plan.seed, divided=True)
            moments = Follower(self.running, self.progress).make_load(plan, load)
            write_json(self.folder.capacity_moments, moments)
        capacity_rps = read_capacity_rps(question, self.folder)
        if not capacity_rps:
            raise CellFailedError(f"no {question.heavy} was answered right: see {folder}")
        return capacity_rps

    def measure_level(self, times: float, asked_rps: float) -> None:
        """Load the target and leave the level's rows; `level.json` last. Raises CellFailedError and OSError."""
        question = self.question
        beside = self._neighbour_plan()
        emptied(self.folder.level(times))
        load = _load(beside, self.folder.neighbour(times), beside.seed + 1)
        with running_generator(beside, self.running.target, load) as neighbour:
            follower = Follower(self.running, self.progress, neighbour)
            follower.wait_for(
                lambda: _has_begun(neighbour), _FIRST_ROW_S, f"the light load did not begin within {_FIRST_ROW_S:g} s"
            )
            idle_from_s = time.time()
            self.progress.doing("light load alone")
            follower.wait(question.idle_s)
            idle_to_s = time.time()
            self.progress.doing("loading")
            moments = self._overload(follower, self.folder.level(times), asked_rps)
            self.progress.doing("light load alone")
            follower.wait(moments.stopping_unix_s + question.tail_s - time.time())
            light_moments = Follower(self.running, self.progress).end_load(beside, neighbour)
        record = LevelRecord(
            times=times,
            asked_rps=asked_rps,
            idle_from_unix_s=idle_from_s,
            idle_to_unix_s=idle_to_s,
            moments=moments,
            light_moments=light_moments,
            ended_unix_s=time.time(),
        )
        write_json(self.folder.level_record(times), record)

    def _overload(self, follower: Follower, folder: Path, asked_rps: float) -> Moments:
        in_flight = max(_LEAST_IN_FLIGHT, math.ceil(2 * asked_rps))
        pace = {"rate_rps": asked_rps, "arrivals": "poisson"}
        plan = self._plan({self.question.heavy: 1}, pace, in_flight, math.ceil(self.question.seconds) + _SPAWN_S)
        return follower.make_load(plan, _load(plan, folder, plan.seed, divided=True))

    def _neighbour_plan(self) -> Plan:
        question = self.question
        # It is ended from here; its own end only bounds it.
        duration_s = math.ceil(question.idle_s + question.seconds + question.tail_s + 3 * _GRACE_S)
        weights = {question.light: NEIGHBOUR_WEIGHT, question.heavy: 1}
        pace = {"rate_rps": NEIGHBOUR_RPS, "arrivals": "constant"}
        return self._plan(weights, pace, NEIGHBOUR_IN_FLIGHT, duration_s)

    def _plan(self, weights: dict[str, int], pace: dict[str, Any], users: int, duration_s: int) -> Plan:
        """Return the plan with these endpoints and this pace alone."""
        raw = self.plan.model_dump(mode="json")
        workload = raw["workload"]
        endpoints = {name: {**workload["endpoints"][name], "weight": weight} for name, weight in weights.items()}
        workload |= {"endpoints": endpoints, "wait_s": None, "rate_per_user_rps": None, "rate_rps": None, **pace}
        raw |= {
            "users": [max(users, self.plan.generators)],
            "spawn_rate_per_s": float(users),
            "duration_s": duration_s,
            "settle_s": 0,
            "limits": [],
            "baseline": None,
        }
        return Plan.model_validate(raw)


def _load(plan: Plan, folder: Path, seed: int, *, divided: bool = False) -> Load:
    folder.mkdir(parents=True, exist_ok=True)
    return Load(plan.users[0], plan.spawn_rate_per_s, plan.duration_s, seed, folder, "requests", divided)


def _has_begun(generator: Generator) -> bool:
    second = generator.last_second()
    return second is not None and second.requests > 0
