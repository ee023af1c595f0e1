"""One load on a running target, with faults at set times, and its raw data in a folder; for `faults` and `soak`."""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import CellFailedError
from loadtest.faults.fault_plan import Fault, FaultLoad
from loadtest.faults.folder import Event, StretchRecord
from loadtest.faults.injection import Injection
from loadtest.faults.process_watch import ProcessWatch
from loadtest.load.generator import Load
from loadtest.machine.processes import undisturbed
from loadtest.measure.follower import Follower
from loadtest.measure.progress import Progress
from loadtest.measure.target import RunningTarget
from loadtest.rows.columns import GeneratorRow

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Stretch:
    """A load, and the faults injected meanwhile."""

    load: FaultLoad
    folder: Path
    duration_s: float
    schedule: list[tuple[float, Fault]]
    """Each fault with its seconds since the load was complete and had settled."""


def run_stretch(stretch: Stretch, running: RunningTarget, progress: Progress) -> StretchRecord:
    """Make the load and inject the faults; the event of a fault says what went wrong with it.

    Raises CellFailedError when the load generator fails or the target ends, and OSError.
    """
    plan = stretch.load.load_plan(running.target, stretch.duration_s)
    load = Load(
        plan.users[0], plan.spawn_rate_per_s, plan.duration_s, plan.seed, stretch.folder, "requests", divided=True
    )
    with closing(ProcessWatch(plan.roles, stretch.folder / "processes.csv")) as watch:
        breaking = _Breaking(stretch, running, watch, progress)
        follower = Follower(running, progress, each_tick=breaking.tick, each_second=breaking.second)
        try:
            moments = follower.make_load(plan, load)
        finally:
            with undisturbed():
                breaking.close()
    return StretchRecord(
        status="finished",
        complete_unix_s=breaking.complete_unix_s,
        stopping_unix_s=moments.stopping_unix_s,
        drained_s=moments.drained_s,
        arrivals=moments.arrivals,
        clocks=moments.clocks,
        events=breaking.events,
    )


class _Breaking:
    """Injects the faults of a stretch when they are due."""

    def __init__(self, stretch: Stretch, running: RunningTarget, watch: ProcessWatch, progress: Progress) -> None:
        self._stretch = stretch
        self._environment = running.target.environment
        self._watch = watch
        self._progress = progress
        self._injection: Injection | None = None
        self._due = list(stretch.schedule)
        self._look_s = 0.0
        self._complete_s: float | None = None
        self.complete_unix_s: float | None = None
        self.events: list[Event] = []

    def tick(self) -> None:
        """Do what is due now. Raises OSError of the rows."""
        now_s = time.monotonic()
        if now_s >= self._look_s:
            self._look_s = now_s + _LOOK_EVERY_S
            self._watch.look()
        if self._injection is not None:
            self._carry_on(self._injection)
        elif self._due and self._complete_s is not None and now_s >= self._complete_s + self._due[0][0]:
            _, fault = self._due.pop(0)
            self._progress.say(f"  {fault.label}")
            self._watch.look()
            self._injection = Injection(fault, self._watch, self._stretch.folder / "fault.log", self._environment)
            self._carry_on(self._injection)

    def second(self, row: GeneratorRow | None) -> None:
        """See whether the load is complete."""
        load = self._stretch.load
        if self._complete_s is None and row is not None and row.users >= load.users:
            self._complete_s = time.monotonic() + load.settle_s
            self.complete_unix_s = round(time.time() + load.settle_s, 3)

    def close(self) -> None:
        """Undo the fault in progress, and record those that did not begin."""
        if self._injection is not None:
            self._end(self._injection, "the load ended before the fault did")
        self.events += [
            Event(fault=fault.name, reason="the load ended before the fault began") for _, fault in self._due
        ]

    def _carry_on(self, injection: Injection) -> None:
        try:
            if injection.step():
                self._end(injection, None)
        except CellFailedError as exc:
            self._end(injection, str(exc))

    def _end(self, injection: Injection, reason: str | None) -> None:
        self._injection = None
        injection.close()
        injection.event.reason = reason
        self.events.append(injection.event)
