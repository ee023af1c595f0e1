"""Resident memory of the processes under test while they are fuzzed, and whether it stayed where it was.

Called by `campaign`. Knows nothing of requests; `progress` is the share of them that is done, 0 to 1.
"""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psutil

from loadtest.machine.listeners import find_anywhere, find_service_processes

REPLICAS = "^ray::ServeReplica:model:"

FLAT_PERCENT = 10.0
"""Growth after the first tenth that still counts as flat."""


@dataclass(frozen=True)
class MemoryFigures:
    """Bytes of all matching processes together; medians over a window, so that one large picture decides nothing."""

    processes: int
    start_bytes: int
    tenth_bytes: int
    """From a tenth of the inputs to two."""
    middle_bytes: int
    end_bytes: int
    """Of the last tenth."""
    largest_bytes: int
    ended_processes: int
    """Of those that were there at the start."""

    @property
    def growth_percent(self) -> float:
        """How much more the middle or the end took than the second tenth."""
        grown_bytes = max(self.middle_bytes, self.end_bytes) - self.tenth_bytes
        return 100 * grown_bytes / self.tenth_bytes if self.tenth_bytes else 0.0  # they had ended by then

    @property
    def is_flat(self) -> bool:
        """Whether memory stayed within FLAT_PERCENT, and no process ended."""
        return self.growth_percent <= FLAT_PERCENT and not self.ended_processes


def find_watched(url: str, pattern: re.Pattern[str] | None) -> list[psutil.Process]:
    """Return whose memory to watch: of the service at `url`, the processes that the pattern finds, by default replicas.

    A pattern may also name processes beside the service, such as its database: those, when none of its own fits.
    """
    own = find_service_processes(url, pattern or re.compile(REPLICAS)) or []
    return own if own or pattern is None else find_anywhere(pattern)


class MemoryWatch:
    """Reads the resident memory of processes."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        """Read their memory for the first time."""
        self._processes = processes
        self._readings = [(0.0, self._rss_bytes())]

    def read(self, progress: float) -> None:
        """Take another reading."""
        self._readings.append((progress, self._rss_bytes()))

    def figures(self) -> MemoryFigures | None:
        """Return what was read; None when there was no process."""
        if not self._processes:
            return None
        self.read(1.0)
        return MemoryFigures(
            processes=len(self._processes),
            start_bytes=self._readings[0][1],
            tenth_bytes=self._median(0.1, 0.2),
            middle_bytes=self._median(0.45, 0.55),
            end_bytes=self._median(0.9, 1.0),
            largest_bytes=max(rss_bytes for _, rss_bytes in self._readings),
            ended_processes=sum(not _lives(process) for process in self._processes),
        )

    def _median(self, begin: float, end: float) -> int:
        within = [rss_bytes for progress, rss_bytes in self._readings if begin <= progress <= end]
        # Of a short campaign there may be no reading in the window: then the next one.
        later = [rss_bytes for progress, rss_bytes in self._readings if progress >= begin]
        return round(statistics.median(within or later[:1]))

    def _rss_bytes(self) -> int:
        return sum(_rss_bytes(self._processes))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _rss_bytes(processes: Iterable[psutil.Process]) -> Iterable[int]:
    for process in processes:
        try:
            yield process.memory_info().rss
        except psutil.Error:
            continue
