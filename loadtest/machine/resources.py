"""CPU, memory and threads of each process role, read once a second while a cell is loaded."""

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import psutil

from loadtest.machine.processes import command_of, descendants, family
from loadtest.machine.threads import ThreadReader, ThreadUse, add_up, knows_threads
from loadtest.plan.targets import Role
from loadtest.rows.columns import ResourceRow

# Looking through all processes of the machine is ten times the work of looking through our own.
_FIND_ANYWHERE_EVERY_S = 10.0
_NOT_WORK = ("idle", "iowait", "steal", "guest", "guest_nice")


class ResourceSampler:
    """Reads what the processes used since the last reading."""

    def __init__(self, roles: list[Role], *generator_pids: int) -> None:
        """Begin: the first `sample` covers the time from here. Usually there is one load generator."""
        self._roles = roles
        self._generator_pids = generator_pids
        self._cpu_s: dict[psutil.Process, float] = {}
        self._threads = ThreadReader() if knows_threads() else None
        self._anywhere: list[tuple[psutil.Process, str]] = []
        self._anywhere_found_s = -_FIND_ANYWHERE_EVERY_S
        self._machine_cpu_s, self._stolen_cpu_s = _machine_cpu_s()
        self._read_s = time.monotonic()
        for process, _ in self._processes():
            self._cpu_s[process] = _cpu_s(process)
            if self._threads:
                self._threads.begin(process)

    def sample(self) -> list[ResourceRow]:
        """Return one row for each role that has a process, one of the machine, and one of what its host took away."""
        now_s, unix_s = time.monotonic(), round(time.time(), 3)
        elapsed_s = max(now_s - self._read_s, 1e-3)
        self._read_s = now_s
        used: dict[str, list[_Used]] = defaultdict(list)
        seen: dict[psutil.Process, float] = {}
        for process, role in self._processes():
            with suppress(psutil.Error):  # it ended just now
                used[role].append(self._read(process, elapsed_s, seen))
        if self._threads:
            self._threads.forget_all_but(seen)
        self._cpu_s = seen
        rows = [self._row(unix_s, role, elapsed_s, uses) for role, uses in sorted(used.items())]
        return [*rows, *self._machine(unix_s, elapsed_s)]

    def _read(self, process: psutil.Process, elapsed_s: float, seen: dict[psutil.Process, float]) -> "_Used":
        with process.oneshot():
            times, threads, rss_bytes = process.cpu_times(), process.num_threads(), process.memory_info().rss
        seen[process] = times.user + times.system
        cpu_s = max(0.0, seen[process] - self._cpu_s.get(process, 0.0))
        # Threads of an idle process did nothing, and to read those of a large service would make the kit itself a load.
        use = self._threads.read(process, elapsed_s) if self._threads and cpu_s else ThreadUse()
        return _Used(cpu_s, rss_bytes, threads, use)

    def _row(self, unix_s: float, role: str, elapsed_s: float, used: "list[_Used]") -> ResourceRow:
        row = ResourceRow(
            unix_s,
            role,
            processes=len(used),
            cpu_percent=round(100 * sum(one.cpu_s for one in used) / elapsed_s, 1),
            rss_bytes=sum(one.rss_bytes for one in used),
            threads=sum(one.threads for one in used),
        )
        if self._threads is None:
            return row
        use = add_up(one.thread_use for one in used)
        return replace(
            row,
            busy_threads=use.busy_threads,
            busiest_thread_percent=round(use.busiest_thread_percent, 1),
            runqueue_wait_percent=round(use.runqueue_wait_percent, 1),
            crowd_threads=use.crowd.threads if use.crowd else 0,
            crowd_cores=round(use.crowd.cores, 2) if use.crowd else None,
        )

    def _processes(self) -> Iterator[tuple[psutil.Process, str]]:
        yield psutil.Process(), "kit"
        ours = {os.getpid()}
        for pid in self._generator_pids:
            for process in family(pid):
                ours.add(process.pid)
                yield process, "load_generator"
        for process in descendants(without=self._generator_pids):
            ours.add(process.pid)
            yield process, role_of(process, self._roles)
        if any(role.anywhere for role in self._roles):
            yield from self._found_anywhere(ours)

    def _found_anywhere(self, ours: set[int]) -> list[tuple[psutil.Process, str]]:
        now_s = time.monotonic()
        if now_s - self._anywhere_found_s >= _FIND_ANYWHERE_EVERY_S:
            roles = [role for role in self._roles if role.anywhere]
            found = [(process, role_of(process, roles)) for process in psutil.process_iter()]
            self._anywhere = [(process, role) for process, role in found if role != "target_other"]
            self._anywhere_found_s = now_s
        return [(process, role) for process, role in self._anywhere if process.pid not in ours]

    def _machine(self, unix_s: float, elapsed_s: float) -> list[ResourceRow]:
        busy_s, stolen_s = _machine_cpu_s()
        busy_percent = round(100 * (busy_s - self._machine_cpu_s) / elapsed_s, 1)
        stolen_percent = round(100 * (stolen_s - self._stolen_cpu_s) / elapsed_s, 1)
        self._machine_cpu_s, self._stolen_cpu_s = busy_s, stolen_s
        used_bytes = int(psutil.virtual_memory().used)
        return [
            ResourceRow(unix_s, "machine", len(psutil.pids()), busy_percent, used_bytes, 0),
            ResourceRow(unix_s, "stolen", 0, stolen_percent, 0, 0),
        ]


@dataclass(frozen=True, slots=True)
class _Used:
    """What a process used since the last reading, and has now."""

    cpu_s: float
    rss_bytes: int
    threads: int
    thread_use: ThreadUse


def role_of(process: psutil.Process, roles: Iterable[Role]) -> str:
    """Return the first role whose pattern is found in the command line; `target_other` when there is none."""
    command = command_of(process)
    return next((role.name for role in roles if re.search(role.command, command)), "target_other")


def count_role(roles: list[Role], name: str) -> int:
    """Return how many living processes below the kit have the role."""
    return sum(role_of(process, roles) == name for process in descendants())


def _machine_cpu_s() -> tuple[float, float]:
    """Return the CPU time used on this machine and the time stolen from it, all cores together, seconds."""
    times = psutil.cpu_times()._asdict()
    used_s = sum(float(seconds) for name, seconds in times.items() if name not in _NOT_WORK)
    return used_s, float(times.get("steal", 0.0))


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
