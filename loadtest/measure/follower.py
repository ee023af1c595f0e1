"""Follows what runs: a load until it ends, or a wait until something holds; raises when anything has failed.

Called by everything that loads a target. What else happens meanwhile, such as faults that are due, hooks in.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from loadtest.errors import CellFailedError
from loadtest.load.generator import Generator, Load, running_generator
from loadtest.machine.resources import ResourceSampler, append_rows, resource_writer
from loadtest.measure.progress import Progress
from loadtest.measure.target import RunningTarget
from loadtest.plan.plan import Plan
from loadtest.rows.columns import GeneratorRow
from loadtest.rows.run_folder import Moments

_TICK_S = 0.1
_SAMPLE_EVERY_S = 1.0
# Locust starts and draws its pictures in a few seconds; a loaded machine takes longer.
_START_GRACE_S = 60.0


def _nothing(*_: object) -> None:
    pass


def longest_load_s(duration_s: float, drain_s: float) -> float:
    """Return after how many seconds a load has ended or failed."""
    return duration_s + drain_s + _START_GRACE_S


@dataclass(frozen=True)
class Follower:
    """Looks at a running target several times a second, and at all that runs beside it."""

    running: RunningTarget
    progress: Progress
    neighbour: Generator | None = None
    """A second load that must outlast whatever is followed."""
    each_tick: Callable[[], None] = _nothing
    """Called ten times a second."""
    each_second: Callable[[GeneratorRow | None], None] = _nothing
    """Called once a second of a load, with how far it has come."""

    def make_load(self, plan: Plan, load: Load) -> Moments:
        """Make a load on the target to its end and return its moments; what it uses is sampled if it is measured.

        Raises CellFailedError when it, its neighbour or the target fails, and OSError.
        """
        longest_s = longest_load_s(load.duration_s, plan.drain_s)
        with (
            running_generator(plan, self.running.target, load) as generator,
            self._sampler(plan, generator) as sample,
        ):

            def each_second() -> None:
                sample()
                row = generator.last_second()
                self.progress.second(row, load.duration_s)
                self.each_second(row)

            ended = f"the load generator did not end within {longest_s:.0f} s"
            self._follow(lambda: not generator.is_running(), longest_s, ended, each_second)
            return generator.read_moments()

    def wait(self, seconds: float) -> None:
        """Wait while everything runs. Raises CellFailedError when something fails."""
        until_s = time.monotonic() + seconds
        self._follow(lambda: time.monotonic() >= until_s)

    def wait_for(self, holds: Callable[[], bool], longest_s: float, fault: str) -> None:
        """Wait until a condition holds. Raises CellFailedError when something fails, or with `fault`."""
        self._follow(holds, longest_s, fault)

    def _follow(
        self,
        is_over: Callable[[], bool],
        longest_s: float = float("inf"),
        fault: str = "",
        each_second: Callable[[], None] = _nothing,
    ) -> None:
        began_s = time.monotonic()
        due_s = began_s + _SAMPLE_EVERY_S
        while not is_over():
            self._check()
            self.each_tick()
            now_s = time.monotonic()
            if now_s >= due_s:
                due_s = max(due_s + _SAMPLE_EVERY_S, now_s)
                each_second()
            if now_s - began_s > longest_s:
                raise CellFailedError(fault)
            time.sleep(_TICK_S)
        self._check()

    def _check(self) -> None:
        self.running.check_lives()
        if self.neighbour is not None and not self.neighbour.is_running():
            raise CellFailedError("the light load beside it ended too early")

    @contextmanager
    def _sampler(self, plan: Plan, generator: Generator) -> Iterator[Callable[[], None]]:
        """Yield what writes a sample into the load's `resources.csv`; nothing for a warm-up."""
        if generator.load.resources is None:
            yield _nothing
            return
        generators = [one.process.pid for one in (generator, self.neighbour) if one is not None]
        sampler = ResourceSampler(plan.roles, *generators)
        writer = resource_writer(generator.load.resources)
        try:
            yield lambda: append_rows(writer, sampler.sample())
        finally:
            writer.close()
