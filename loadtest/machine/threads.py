"""How long the threads of a process ran and waited for a core, from Linux' scheduler statistics.

Read by `resources` once a second. Other systems have none; there `knows_threads` is False.
"""

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from loadtest.machine.cores import Quota, quota_of

BUSY_PERCENT = 25.0
"""Of the time: the least that a busy thread runs or waits for a core. Below are event loops and timers that wake up
often and do little."""

LEAST_RAN_PERCENT = 5.0
"""Of the time: the least that a busy thread runs. On a full machine a thread with little work waits long for it."""

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a busy thread may run."""

    cores: frozenset[int]
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class Crowd:
    """Busy threads that may run on the same few cores only."""

    threads: int
    cores: float
    """Less than a whole number where a CPU quota is smaller than the cores."""


@dataclass(frozen=True, slots=True)
class ThreadUse:
    """What threads did since the reading before."""

    busy_threads: int = 0
    """That ran or waited for a core for at least BUSY_PERCENT of the time, and ran for LEAST_RAN_PERCENT."""
    busiest_thread_percent: float = 0.0
    """CPU of the one that ran most; 100 is one core."""
    runqueue_wait_percent: float = 0.0
    """Time in which threads could have run and had no core, summed over them; 100 is one thread all the time."""
    places: tuple[Place, ...] = ()
    """Of the busy threads."""

    @property
    def crowd(self) -> Crowd | None:
        """Return those that are most to a core; None when none is busy.

        Threads that are pinned to the same cores are more to a core than all threads are to all cores.
        """
        crowds = [
            Crowd(len(inside), _capacity(inside))
            for cores in {place.cores for place in self.places}
            if (inside := [place for place in self.places if place.cores <= cores])
        ]
        return max(crowds, key=lambda crowd: crowd.threads / crowd.cores, default=None)


class _Times(NamedTuple):
    """Of one thread since its start, seconds."""

    ran_s: float = 0.0
    waited_s: float = 0.0


class ThreadReader:
    """Remembers the last reading of each process."""

    def __init__(self) -> None:
        self._before: dict[psutil.Process, dict[str, _Times]] = {}

    def begin(self, process: psutil.Process) -> None:
        """Take the reading that the next one is compared with."""
        self._before[process] = _read_times(process.pid)

    def read(self, process: psutil.Process, elapsed_s: float) -> ThreadUse:
        """Return what the threads of a process did in the last `elapsed_s`.

        A process may be left out while it uses no CPU: its times do not grow meanwhile.
        """
        before, now = self._before.get(process, {}), _read_times(process.pid)
        self._before[process] = now
        busy, most_ran_percent, all_waited_percent = [], 0.0, 0.0
        for thread, times in now.items():
            earlier = before.get(thread, _Times())
            ran_percent = 100 * max(0.0, times.ran_s - earlier.ran_s) / elapsed_s
            waited_percent = 100 * max(0.0, times.waited_s - earlier.waited_s) / elapsed_s
            most_ran_percent = max(most_ran_percent, ran_percent)
            all_waited_percent += waited_percent
            if ran_percent >= LEAST_RAN_PERCENT and ran_percent + waited_percent >= BUSY_PERCENT:
                busy.append(thread)
        return ThreadUse(len(busy), most_ran_percent, all_waited_percent, _places(process.pid, busy))

    def forget_all_but(self, living: Iterable[psutil.Process]) -> None:
        """Drop the readings of processes that have ended."""
        self._before = {process: self._before[process] for process in living if process in self._before}


def add_up(uses: Iterable[ThreadUse]) -> ThreadUse:
    """Return what the threads of several processes did together."""
    uses = list(uses)
    return ThreadUse(
        busy_threads=sum(use.busy_threads for use in uses),
        busiest_thread_percent=max((use.busiest_thread_percent for use in uses), default=0.0),
        runqueue_wait_percent=sum(use.runqueue_wait_percent for use in uses),
        places=tuple(place for use in uses for place in use.places),
    )


def knows_threads() -> bool:
    """Return whether this system tells how long a thread waited for a core."""
    return (_PROC / "self" / "schedstat").is_file()


def _places(pid: int, threads: Collection[str]) -> tuple[Place, ...]:
    """Return where threads of a process may run, without those that have just ended."""
    quota = quota_of(pid) if threads else None
    places: list[Place] = []
    for thread in threads:
        with suppress(OSError):
            places.append(Place(frozenset(os.sched_getaffinity(int(thread))), quota))
    return tuple(places)


def _capacity(places: Collection[Place]) -> float:
    """Return how many cores threads can use together: those they may run on, and no more than their groups may use."""
    cores = len(frozenset().union(*(place.cores for place in places)))
    quotas = {place.quota for place in places}
    return float(min(cores, sum(quota.cores if quota else cores for quota in quotas)))


def _read_times(pid: int) -> dict[str, _Times]:
    """Return the times of all threads of a process; nothing when it has ended or may not be read.

    The file has the time on a core and the time on a run queue, both ns, and the number of turns:
    Documentation/scheduler/sched-stats.rst of the Linux kernel.
    """
    folder = f"{_PROC}/{pid}/task"
    times = {}
    try:
        threads = os.listdir(folder)  # noqa: PTH208 # see below
    except OSError:
        return {}
    for thread in threads:
        try:
            # Not pathlib: a service has hundreds of threads, and this is read every second beside the measurement.
            with open(f"{folder}/{thread}/schedstat", "rb") as file:  # noqa: PTH123
                ran_ns, waited_ns, _ = file.read().split()
        except (OSError, ValueError):
            continue  # it ended just now
        times[thread] = _Times(int(ran_ns) / 1e9, int(waited_ns) / 1e9)
    return times
