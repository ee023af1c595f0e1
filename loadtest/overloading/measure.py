"""Makes the loads of an overload test on one running target, and leaves raw rows. Called by the command line.

Two generators run side by side: one with too many heavy requests, and one with a light load that goes on before, during
and after, whose latencies show what a neighbour feels and when all is as before.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.errors import BadInputError, CellFailedError
from loadtest.measuring.generator import Generator, Load, running_generator
from loadtest.measuring.processes import adopt_orphans
from loadtest.measuring.progress import Progress, shown_progress
from loadtest.measuring.resources import ResourceSampler, append_rows, resource_writer
from loadtest.measuring.runner import locked, raising_on_signals
from loadtest.measuring.target import RunningTarget, running_target
from loadtest.overloading.figures import read_capacity_rps
from loadtest.overloading.question import (
    NEIGHBOUR_RPS,
    NEIGHBOUR_WEIGHT,
    Asked,
    LevelRecord,
    OverloadFolder,
    Question,
)
from loadtest.plan import Plan
from loadtest.run_folder import Moments, RunFolder, write_whole

_SAMPLE_EVERY_S = 1.0
_FIRST_ROW_S = 60.0
_LEAST_IN_FLIGHT = 200
_NEIGHBOUR_IN_FLIGHT = 60
# Users of an open loop are there at once; Locust takes its time over hundreds of them.
_SPAWN_S = 1
_GRACE_S = 60.0


def measure_overload(plan: Plan, question: Question, folder: OverloadFolder) -> None:
    """Measure what the folder does not hold yet, all levels on one running target.

    Raises BadInputError when the folder cannot be used, CellFailedError when the target or a generator fails, and
    Interrupted after SIGINT or SIGTERM, when everything that was started has been taken down.
    """
    with locked(RunFolder(folder.path)), shown_progress() as progress, raising_on_signals():
        _open(plan, question, folder)
        todo = [times for times in question.times if not folder.level_record(times).is_file()]
        if not todo:
            return
        adopt_orphans()
        target = plan.targets[0]
        progress.begin_step(f"overload of {target.title}", 0)
        progress.doing(f"starting {target.title}")
        with running_target(target, folder.path / "target.log") as running:
            running.wait_until_ready()
            capacity_rps = _capacity_rps(plan, question, folder, running, progress)
            for number, times in enumerate(todo, 1):
                progress.begin_step(f"{times:g} times the capacity of {capacity_rps:.1f} {question.heavy}/s", number)
                _Level(plan, question, folder, running, progress).measure(times, times * capacity_rps)
            progress.doing(f"stopping {target.title}")


def _open(plan: Plan, question: Question, folder: OverloadFolder) -> None:
    text = Asked(plan=plan, question=question).model_dump_json(indent=1) + "\n"
    try:
        if not folder.plan.is_file():
            if any(file.name != "run.lock" for file in folder.path.iterdir()):
                raise BadInputError(f"{folder.path} is not empty and holds no overload test: choose another with --out")
            write_whole(folder.plan, text)
        elif folder.plan.read_text(encoding="utf-8") != text:
            raise BadInputError(
                f"{folder.path} holds an overload test of another plan or with other options: choose another folder "
                "with --out, or give the same to go on with it"
            )
    except OSError as exc:
        raise BadInputError(f"{exc.filename or folder.path}: {exc.strerror}; choose another with --out") from exc


def _capacity_rps(
    plan: Plan, question: Question, folder: OverloadFolder, running: RunningTarget, progress: Progress
) -> float:
    if question.capacity_rps is None and not (folder.capacity / "moments.json").is_file():
        progress.doing(f"measuring the capacity: {question.saturating_users} users who do not think")
        folder.capacity.mkdir(parents=True, exist_ok=True)
        pace = {"wait_s": (0.0, 0.0)}
        saturated = _with_workload(plan, {question.heavy: 1}, pace, question.saturating_users, question.saturating_s)
        users, duration_s = question.saturating_users, question.saturating_s
        load = Load(users, users, duration_s, plan.seed, folder.capacity, "requests")
        with running_generator(saturated, plan.targets[0], load) as generator:
            for _ in _seconds():
                if not generator.is_running():
                    break
                running.check_lives()
                progress.second(generator.last_second(), duration_s)
            moments = generator.read_moments()
        write_whole(folder.capacity / "moments.json", moments.model_dump_json() + "\n")
    capacity_rps = read_capacity_rps(question, folder)
    if not capacity_rps:
        raise CellFailedError(f"no {question.heavy} was answered right: see {folder.capacity}")
    return capacity_rps


class _Level:
    """One level in the making."""

    def __init__(
        self, plan: Plan, question: Question, folder: OverloadFolder, running: RunningTarget, progress: Progress
    ) -> None:
        self._plan = plan
        self._question = question
        self._folder = folder
        self._running = running
        self._progress = progress

    def measure(self, times: float, asked_rps: float) -> None:
        """Load the target and leave the level's rows; `level.json` last. Raises CellFailedError and OSError."""
        question, path = self._question, self._folder.level(times)
        self._folder.neighbour(times).mkdir(parents=True, exist_ok=True)
        with self._neighbour(times) as neighbour:
            idle_from_s = self._wait_for_rows(neighbour)
            self._progress.doing("light load alone")
            self._wait(neighbour, until_s=time.monotonic() + question.idle_s)
            idle_to_s = time.time()
            self._progress.doing("loading")
            moments = self._overload(path, asked_rps, neighbour)
            self._progress.doing("light load alone")
            left_s = moments.stopping_unix_s + question.tail_s - time.time()
            self._wait(neighbour, until_s=time.monotonic() + left_s)
        record = LevelRecord(
            times=times,
            asked_rps=asked_rps,
            idle_from_unix_s=idle_from_s,
            idle_to_unix_s=idle_to_s,
            moments=moments,
            ended_unix_s=time.time(),
        )
        write_whole(self._folder.level_record(times), record.model_dump_json(indent=1) + "\n")

    def _overload(self, path: Path, asked_rps: float, neighbour: Generator) -> Moments:
        duration_s = math.ceil(self._question.seconds) + _SPAWN_S
        in_flight = max(_LEAST_IN_FLIGHT, math.ceil(2 * asked_rps))
        pace = {"rate_rps": asked_rps, "arrivals": "poisson"}
        plan = _with_workload(self._plan, {self._question.heavy: 1}, pace, in_flight, duration_s)
        load = Load(in_flight, in_flight, duration_s, plan.seed, path, "requests")
        writer = resource_writer(path / "resources.csv")
        deadline_s = time.monotonic() + duration_s + plan.drain_s + _GRACE_S
        try:
            with running_generator(plan, plan.targets[0], load) as generator:
                sampler = ResourceSampler(plan.roles, generator.process.pid, neighbour.process.pid)
                for _ in _seconds():
                    if not generator.is_running():
                        break
                    self._check(neighbour)
                    append_rows(writer, sampler.sample())
                    self._progress.second(generator.last_second(), duration_s)
                    if time.monotonic() > deadline_s:
                        raise CellFailedError("the load generator did not end in time")
                return generator.read_moments()
        finally:
            writer.close()

    @contextmanager
    def _neighbour(self, times: float) -> Iterator[Generator]:
        question = self._question
        # It is ended from here; its own end only bounds it.
        duration_s = math.ceil(question.idle_s + question.seconds + question.tail_s + 3 * _GRACE_S)
        weights = {question.light: NEIGHBOUR_WEIGHT, question.heavy: 1}
        pace = {"rate_rps": NEIGHBOUR_RPS, "arrivals": "constant"}
        plan = _with_workload(self._plan, weights, pace, _NEIGHBOUR_IN_FLIGHT, duration_s)
        folder = self._folder.neighbour(times)
        load = Load(_NEIGHBOUR_IN_FLIGHT, _NEIGHBOUR_IN_FLIGHT, duration_s, plan.seed + 1, folder, "requests")
        with running_generator(plan, plan.targets[0], load) as generator:
            yield generator

    def _wait_for_rows(self, neighbour: Generator) -> float:
        """Return the time, seconds since the epoch, once the light load runs. Raises CellFailedError."""
        deadline_s = time.monotonic() + _FIRST_ROW_S
        while (second := neighbour.last_second()) is None or not second.requests:
            self._check(neighbour)
            if time.monotonic() > deadline_s:
                raise CellFailedError(f"the light load did not begin within {_FIRST_ROW_S:g} s")
            time.sleep(0.1)
        return time.time()

    def _wait(self, neighbour: Generator, until_s: float) -> None:
        while (left_s := until_s - time.monotonic()) > 0:
            self._check(neighbour)
            time.sleep(min(left_s, _SAMPLE_EVERY_S))

    def _check(self, neighbour: Generator) -> None:
        self._running.check_lives()
        if not neighbour.is_running():
            raise CellFailedError("the light load ended too early")


def _with_workload(plan: Plan, weights: dict[str, int], pace: dict[str, Any], users: int, duration_s: int) -> Plan:
    """Return the plan with these endpoints and this pace alone."""
    raw = plan.model_dump(mode="json")
    workload = raw["workload"]
    endpoints = {name: {**workload["endpoints"][name], "weight": weight} for name, weight in weights.items()}
    workload |= {"endpoints": endpoints, "wait_s": None, "rate_per_user_rps": None, "rate_rps": None, **pace}
    raw |= {
        "users": [users],
        "spawn_rate_per_s": float(users),
        "duration_s": duration_s,
        "settle_s": 0,
        "limits": [],
        "baseline": None,
    }
    return Plan.model_validate(raw)


def _seconds() -> Iterator[float]:
    """Yield once a second, for ever."""
    due_s = time.monotonic()
    while True:
        due_s = max(due_s + _SAMPLE_EVERY_S, time.monotonic())
        time.sleep(max(0.0, due_s - time.monotonic()))
        yield due_s
