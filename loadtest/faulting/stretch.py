"""One load on a running target, with faults at set times: raw data into a folder. The same for one fault and a soak."""

import time
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import CellFailedError
from loadtest.faulting.fault_folder import Event, StretchRecord
from loadtest.faulting.fault_plan import Fault, FaultLoad
from loadtest.faulting.injection import Injection
from loadtest.faulting.process_watch import ProcessWatch
from loadtest.measuring.generator import Generator, Load, running_generator
from loadtest.measuring.processes import undisturbed
from loadtest.measuring.progress import Progress
from loadtest.measuring.resources import ResourceSampler, append_rows, resource_writer
from loadtest.measuring.target import RunningTarget

_TICK_S = 0.1
_LOOK_EVERY_S = 0.5
_SAMPLE_EVERY_S = 1.0
_START_GRACE_S = 60.0


@dataclass(frozen=True)
class Stretch:
    """A load to make and what breaks meanwhile."""

    load: FaultLoad
    folder: Path
    duration_s: float
    schedule: list[tuple[float, Fault]]
    """Each fault with its seconds since the load was complete and had settled."""


def run_stretch(stretch: Stretch, running: RunningTarget, progress: Progress) -> StretchRecord:
    """Make the load and break things; what went wrong with a fault stands in its event.

    Raises CellFailedError when the load generator fails or the target ends, and OSError.
    """
    plan = stretch.load.load_plan(running.target, stretch.duration_s)
    load = Load(plan.users[0], plan.spawn_rate_per_s, plan.duration_s, plan.seed, stretch.folder, "requests")
    watch = ProcessWatch(plan.roles, stretch.folder / "processes.csv")
    try:
        with running_generator(plan, running.target, load) as generator:
            follower = _Follower(stretch, running, generator, watch, progress)
            try:
                follower.follow(plan.duration_s + plan.drain_s + _START_GRACE_S)
            finally:
                with undisturbed():
                    follower.close()
            moments = generator.read_moments()
    finally:
        watch.close()
    events = follower.events + [
        Event(
            fault=fault.name, began_unix_s=0, ended_unix_s=None, struck=[], pids=[], reason="the load ended before it"
        )
        for _, fault in follower.due
    ]
    return StretchRecord(
        status="finished",
        complete_unix_s=follower.complete_unix_s,
        stopping_unix_s=moments.stopping_unix_s,
        events=events,
    )


class _Follower:
    """Looks after a load: samples, and carries the faults out when they are due."""

    def __init__(
        self, stretch: Stretch, running: RunningTarget, generator: Generator, watch: ProcessWatch, progress: Progress
    ) -> None:
        self._stretch = stretch
        self._running = running
        self._generator = generator
        self._watch = watch
        self._progress = progress
        self._injection: Injection | None = None
        self._sampler = ResourceSampler(stretch.load.roles, generator.process.pid)
        self._writer = resource_writer(stretch.folder / "resources.csv")
        self._complete_s: float | None = None
        self.complete_unix_s: float | None = None
        self.due = list(stretch.schedule)
        self.events: list[Event] = []

    def follow(self, longest_s: float) -> None:
        deadline_s = time.monotonic() + longest_s
        look_s = sample_s = time.monotonic()
        while self._generator.is_running():
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise CellFailedError(f"the load generator did not end within {longest_s:.0f} s")
            self._running.check_lives()
            if now_s >= look_s:
                look_s = max(look_s + _LOOK_EVERY_S, now_s)
                self._watch.look()
            if now_s >= sample_s:
                sample_s = max(sample_s + _SAMPLE_EVERY_S, now_s)
                append_rows(self._writer, self._sampler.sample())
                self._see_whether_complete()
            self._break_what_is_due()
            time.sleep(_TICK_S)

    def close(self) -> None:
        if self._injection is not None:
            self._end_injection("the load ended before it was over")
        self._writer.close()

    def _see_whether_complete(self) -> None:
        second = self._generator.last_second()
        self._progress.second(second, self._stretch.duration_s)
        load = self._stretch.load
        if self._complete_s is None and second is not None and second.users >= load.users:
            self._complete_s = time.monotonic() + load.settle_s
            self.complete_unix_s = round(time.time() + load.settle_s, 3)

    def _break_what_is_due(self) -> None:
        if self._injection is not None:
            self._go_on(self._injection)
        elif self.due and self._complete_s is not None:
            at_s, fault = self.due[0]
            if time.monotonic() >= self._complete_s + at_s:
                self.due.pop(0)
                self._progress.say(f"  {fault.label}")
                log = self._stretch.folder / "fault.log"
                self._injection = Injection(fault, self._watch, log, self._running.target.environment)
                self._strike(self._injection)

    def _strike(self, injection: Injection) -> None:
        self._watch.look()
        try:
            injection.begin()
        except CellFailedError as exc:
            self._end_injection(str(exc))

    def _go_on(self, injection: Injection) -> None:
        try:
            if injection.step():
                self._end_injection(None)
        except CellFailedError as exc:
            self._end_injection(str(exc))

    def _end_injection(self, reason: str | None) -> None:
        injection, self._injection = self._injection, None
        assert injection is not None
        injection.close()
        self.events.append(
            Event(
                fault=injection.fault.name,
                began_unix_s=injection.began_unix_s,
                ended_unix_s=injection.ended_unix_s,
                struck=injection.struck,
                pids=injection.pids,
                reason=reason,
            )
        )
