"""What the figures of a target at one number of users say of where its time and its CPU went. Read by `bottleneck`.

The laws are those of operational analysis: Denning and Buzen, "The Operational Analysis of Queueing Network Models",
ACM Computing Surveys 10 (3), 1978; Lazowska, Zahorjan, Graham and Sevcik, "Quantitative System Performance", 1984,
chapters 3 (utilisation law, Little's law, interactive response time law) and 5 (asymptotic bounds).
"""

import re
from dataclasses import dataclass
from functools import cached_property
from math import fsum
from typing import Literal

from loadtest.figures.figures import CellFigures, PointFigures, RoleFigures
from loadtest.plan.targets import KIT_ROLES, STOLEN
from loadtest.plan.workload import Workload

FULL_PERCENT = 90.0
"""Of a core, or of all of them: from here on it counts as used up. A thread that is always busy shows 95 to 100 % of a
core, less what the rest of the machine takes from it."""

LOCK_SHARED_PERCENT = 105.0
"""Of a core: the most that threads use together which take turns at a lock such as Python's interpreter lock. What they
do outside of it, such as system calls, comes on top."""

_QUEUE = re.compile("queue|wait", re.IGNORECASE)


@dataclass(frozen=True)
class CpuUse:
    """How near a role is to the most CPU that it can use."""

    role: RoleFigures
    percent: float
    """Of that most."""
    of: Literal["cores", "thread", "lock"]
    """That most: all cores; one core, for its busiest thread; one core a process, for threads that take turns."""


@dataclass(frozen=True)
class Cores:
    """Those of a machine."""

    machine: int
    usable_or_none: float | None = None

    @property
    def usable(self) -> float:
        """Return those that the test may use; part of one where a container's CPU quota says so."""
        return self.machine if self.usable_or_none is None else min(self.usable_or_none, self.machine)


@dataclass(frozen=True)
class Level:
    """One cell or point with requests in its steady window, and what surrounded it."""

    figures: CellFigures | PointFigures
    workload: Workload
    machine: Cores

    @property
    def cores(self) -> float:
        """Return the cores that the target may use, all its processes together."""
        return self.machine.usable

    @property
    def users(self) -> int:
        """Return N, the number of users."""
        return self.figures.users

    @property
    def rps(self) -> float:
        """Return X, the throughput."""
        return (self.figures.steady and self.figures.steady.rps) or 0.0

    @property
    def latency_s(self) -> float:
        """Return R, the mean latency of right answers."""
        return ((self.figures.steady and self.figures.steady.avg_ms) or 0.0) / 1000

    @property
    def has_latency(self) -> bool:
        """Return whether there is any right answer."""
        return self.figures.steady is not None and self.figures.steady.avg_ms is not None

    @property
    def under_way(self) -> float:
        """Return X R, the mean number of requests under way (Little's law)."""
        return self.rps * self.latency_s

    @cached_property
    def stages_percent(self) -> dict[str, float]:
        """Return each stage's share of the mean latency, over all endpoints whose answers carry stages."""
        spent_ms: dict[str, float] = {}
        for part in self.figures.endpoints:
            for stage in part.stages:
                answers = part.steady.requests - part.steady.failures
                spent_ms[stage.name] = spent_ms.get(stage.name, 0.0) + answers * stage.avg_ms
        whole_ms = fsum(
            (part.steady.requests - part.steady.failures) * (part.steady.avg_ms or 0.0)
            for part in self.figures.endpoints
            if part.stages
        )
        return {name: 100 * part_ms / whole_ms for name, part_ms in spent_ms.items()} if whole_ms else {}

    @property
    def queue_percent(self) -> float | None:
        """Return the share of the mean latency in stages named for a queue or for waiting; None without stages."""
        stages = self.stages_percent
        return fsum(percent for name, percent in stages.items() if _QUEUE.search(name)) if stages else None

    @property
    def unexplained_percent(self) -> float | None:
        """Return the share of the mean latency that no stage explains; None without stages."""
        return 100 - fsum(self.stages_percent.values()) if self.stages_percent else None

    @property
    def longest_stage(self) -> tuple[str, float] | None:
        """Return the stage, other than queues, with the largest share, and that share in percent."""
        working = [(name, percent) for name, percent in self.stages_percent.items() if not _QUEUE.search(name)]
        return max(working, key=lambda stage: stage[1], default=None)

    @property
    def unqueued_s(self) -> float:
        """Return the mean latency without the stages in which requests only wait."""
        return self.latency_s * (1 - (self.queue_percent or 0.0) / 100)

    @property
    def worked_s(self) -> float:
        """Return the part of the mean latency in stages other than queues; 0 without stages."""
        return self.latency_s * (fsum(self.stages_percent.values()) - (self.queue_percent or 0.0)) / 100

    def role(self, name: str) -> RoleFigures | None:
        """Return what the processes of a role used."""
        return next((role for role in self.figures.roles if role.role == name), None)

    def cpu_percent(self, name: str) -> float:
        """Return the CPU of a role, 0 when it is not there; 100 is one core."""
        role = self.role(name)
        return role.cpu_percent if role else 0.0

    @property
    def generator_cpu_percent(self) -> float:
        """Return the CPU of the load generator, 100 being one core; of several, that of the busiest."""
        each = [generator.cpu_percent for generator in self.figures.generators]
        return max(each) if each else self.cpu_percent("load_generator")

    @property
    def target_roles(self) -> list[RoleFigures]:
        """Return the roles of the target that have a process."""
        own = [role for role in self.figures.roles if role.role not in KIT_ROLES or role.role == "target_other"]
        return [role for role in own if role.processes]

    @property
    def target_cpu_percent(self) -> float:
        """Return the CPU of all the target's roles; 100 is one core."""
        return fsum(role.cpu_percent for role in self.target_roles)

    @property
    def others_cpu_percent(self) -> float:
        """Return the CPU of programs that are no part of the test; 100 is one core."""
        known = fsum(role.cpu_percent for role in self.figures.roles if role.role not in ("machine", STOLEN))
        return max(0.0, self.cpu_percent("machine") - known)

    @property
    def core_percent(self) -> float:
        """Return what one core can give: 100 less its part of what the machine's host takes away."""
        return max(1.0, 100 - self.cpu_percent(STOLEN) / self.machine.machine)

    @property
    def is_machine_full(self) -> bool:
        """Return whether all cores are in use, by whomever."""
        used_percent = self.cpu_percent("machine") + self.cpu_percent(STOLEN)
        return used_percent >= FULL_PERCENT * self.machine.machine

    @property
    def is_share_full(self) -> bool:
        """Return whether the test has used up the cores that it may use, where it may not use all."""
        own_percent = self.target_cpu_percent + self.cpu_percent("load_generator") + self.cpu_percent("kit")
        return self.cores < self.machine.machine and own_percent >= FULL_PERCENT * self.cores

    def crowd_of(self, role: RoleFigures) -> tuple[float, float] | None:
        """Return how many busy threads a role has on how many cores, where they are most to a core; None if unknown."""
        if role.crowd_threads is not None and role.crowd_cores is not None:
            return role.crowd_threads, min(role.crowd_cores, self.cores)
        return None if role.busy_threads is None else (role.busy_threads, self.cores)  # of an older kit

    def cpu_use(self, role: RoleFigures, *, with_lock: bool = True) -> CpuUse:
        """Return how near a role is to the most CPU that it can use: the nearest of the three limits that it has.

        Without the lock where requests hardly wait: two threads with half a core each need not take turns then.
        """
        per_process_percent = role.cpu_percent / max(1, role.processes)
        thread_percent = 100 * (role.busiest_thread_percent or 0.0) / self.core_percent
        lock_percent = 100 * per_process_percent / self.core_percent
        uses = [
            CpuUse(role, 100 * role.cpu_percent / (self.core_percent * self.cores), "cores"),
            CpuUse(role, thread_percent, "thread"),
        ]
        if with_lock and thread_percent < FULL_PERCENT <= lock_percent <= LOCK_SHARED_PERCENT:
            uses.append(CpuUse(role, min(lock_percent, 100.0), "lock"))
        return max(uses, key=lambda use: use.percent)

    @property
    def busiest(self) -> CpuUse | None:
        """Return the role of the target that is nearest to the most CPU that it can use; None when none was seen."""
        return max(map(self.cpu_use, self.target_roles), key=lambda use: use.percent, default=None)

    @property
    def busiest_without_lock(self) -> CpuUse | None:
        """Return the same, where requests hardly wait for each other."""
        uses = [self.cpu_use(role, with_lock=False) for role in self.target_roles]
        return max(uses, key=lambda use: use.percent, default=None)

    def think_percent(self) -> float:
        """Return for how much of its time a user thinks, by the plan: Z ÷ (R + Z)."""
        if self.workload.mean_wait_s is not None:
            cycle_s = self.latency_s + self.workload.mean_wait_s
            return 100 * self.workload.mean_wait_s / cycle_s if cycle_s else 100.0
        period_s = 1 / self.workload.rate_per_user_rps if self.workload.rate_per_user_rps else 0.0
        return 100 * max(0.0, 1 - self.latency_s / period_s) if period_s else 0.0

    def light_load_rps(self, idle_s: float) -> float | None:
        """Return N ÷ (Z + R0), what the users would send if no request waited for another; None without a pace.

        The bound of a lightly loaded system (Lazowska et al. 1984, chapter 5); `idle_s` is R0. Users who keep to a rate
        send at that rate as long as R0 is shorter than its period.
        """
        if self.workload.mean_wait_s is not None:
            cycle_s = self.workload.mean_wait_s + idle_s
            return self.users / cycle_s if cycle_s else None
        if self.workload.rate_per_user_rps is not None:
            return self.users / max(1 / self.workload.rate_per_user_rps, idle_s)
        return None

    def light_load_percent(self, idle_s: float) -> float | None:
        """Return how much of N ÷ (Z + R0) is sent; None without a pace.

        With a think time by the mean latency, (Z + R0) ÷ (Z + R): by the interactive response time law that is the
        same, and chance in the number of requests does not blur it.
        """
        if self.workload.mean_wait_s is not None:
            cycle_s = self.workload.mean_wait_s + self.latency_s
            return 100 * (self.workload.mean_wait_s + idle_s) / cycle_s if cycle_s else None
        most_rps = self.light_load_rps(idle_s)
        return min(100.0, 100 * self.rps / most_rps) if most_rps else None
