"""Follows a load until it ends, or waits for a condition; raises when the target or a load has failed.

Called by every command that loads a target. What else is due meanwhile, such as faults, hooks in.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import CellFailedError, TargetFailedError
from loadtest.load.generator import Generator, Load, running_generator
from loadtest.machine.resources import ResourceSampler
from loadtest.measure.progress import Progress
from loadtest.measure.target import RunningTarget
from loadtest.plan.longest import longest_load_s
from loadtest.plan.plan import Plan
from loadtest.rows.columns import GeneratorRow, RequestRow, ResourceRow, RowWriter, is_rejection, read_rows
from loadtest.rows.run_folder import Moments

_TICK_S = 0.1
_SAMPLE_EVERY_S = 1.0


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Follower:
    """Checks a running target, and the loads beside it, several times a second."""

    running: RunningTarget
    progress: Progress
    neighbour: Generator | None = None
    """A second load, which must not end before the first."""
    each_tick: Callable[[], None] = _nothing
    """Called ten times a second."""
    each_second: Callable[[GeneratorRow | None], None] = _nothing
    """Called once a second of a load, with how far it has come."""

    def warm_up(self, plan: Plan, seed: int, folder: Path) -> None:
        """Make the plan's warm-up, if it has one, with its rows in the folder.

        Raises CellFailedError as `make_load` does, and when nothing was answered right, and OSError.
        """
        warmup = plan.warmup
        if not warmup.duration_s:
            return
        load = Load(warmup.users, warmup.users, warmup.duration_s, seed, folder, "warmup")
        self.progress.doing(f"warming up: {warmup.users} users")
        self.make_load(plan, load)
        check_warm_up(list(read_rows(load.requests, RequestRow)))

    def make_load(self, plan: Plan, load: Load) -> Moments:
        """Make a load on the target and return its moments; a measured load's use of resources is sampled.

        Raises CellFailedError when it, its neighbour or the target fails, and OSError.
        """
        longest_s = longest_load_s(plan, load.duration_s)
        with (
            running_generator(plan, self.running.target, load) as generator,
            self._sampler(plan, generator) as sample,
        ):

            def each_second() -> None:
                sample()
                row = generator.last_second()
                self.progress.second(row, load.duration_s)
                self.each_second(row)

            self._wait_for_end(generator, longest_s, each_second)
            return generator.read_moments()

    def end_load(self, plan: Plan, generator: Generator) -> Moments:
        """End a load of one generator now, wait for its last answers, and return its moments. Raises as `make_load`."""
        generator.process.terminate()
        self._wait_for_end(generator, longest_load_s(plan, 0))
        return generator.read_moments()

    def wait(self, seconds: float) -> None:
        """Wait while everything runs. Raises CellFailedError when something fails."""
        until_s = time.monotonic() + seconds
        self._follow(lambda: time.monotonic() >= until_s)

    def wait_for(self, holds: Callable[[], bool], longest_s: float, fault: str) -> None:
        """Wait until a condition holds. Raises CellFailedError when something fails, or with `fault`."""
        self._follow(holds, longest_s, fault)

    def _wait_for_end(self, generator: Generator, longest_s: float, each_second: Callable[[], None] = _nothing) -> None:
        fault = f"the load generator did not end within {longest_s:.0f} s"
        self._follow(lambda: not generator.is_running(), longest_s, fault, each_second)

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
        loads = [one for one in (generator, self.neighbour) if one is not None]
        generators = [process.pid for load in loads for process in load.processes]
        sampler = ResourceSampler(plan.roles, *generators)
        with closing(RowWriter(generator.load.resources, ResourceRow)) as writer:
            yield lambda: writer.write_now(sampler.sample())


def check_warm_up(rows: Sequence[RequestRow]) -> None:
    """Raise TargetFailedError when no request was answered right, CellFailedError if none was one for the target."""
    if all(row.error for row in rows):
        first = f": {rows[0].endpoint}: {rows[0].error}" if rows else ""
        kind = CellFailedError if all(is_rejection(row.status) for row in rows) else TargetFailedError
        raise kind(f"none of {len(rows)} requests of the warm-up was answered right{first}")
