"""The longest time that a run can take: the sum of the time limits of the plan and of the kit."""

from typing import Protocol

from loadtest.plan.plan import Plan
from loadtest.plan.targets import Target
from loadtest.plan.workload import Workload

STOP_COMMAND_S = 60.0
"""For a target's `stop` to end."""
STRAGGLERS_S = 3.0
"""For processes that a target left behind, until they are killed."""
_START_GRACE_S = 60.0
"""For Locust to start and draw its pictures: seconds, more on a loaded machine."""


class Load(Protocol):
    """What every plan says of its loads."""

    @property
    def drain_s(self) -> float:
        """The longest wait for answers after a load."""

    @property
    def workload(self) -> Workload:
        """What sets its pace."""


def longest_cell_s(plan: Plan, target: Target) -> float:
    """Return the longest time, in seconds, that one cell can take, from the start of its target to its stop.

    Reading the target's metrics and description, which takes less than a second unless it hangs, is not counted.
    """
    settle_s = 2 * plan.metrics.settle_s if plan.metrics else 0
    load_s = longest_warmup_s(plan) + longest_load_s(plan, plan.duration_s)
    return longest_start_and_stop_s(target) + settle_s + load_s


def longest_warmup_s(plan: Plan) -> float:
    """Return the longest time, in seconds, that the plan's warm-up can take; 0 where it has none."""
    return longest_load_s(plan, plan.warmup.duration_s) if plan.warmup.duration_s else 0


def longest_start_and_stop_s(target: Target) -> float:
    """Return the longest time, in seconds, for a target to become ready and, if the kit starts it, to stop."""
    ready_s = target.ready_timeout_s + (target.replicas.wait_s if target.replicas else 0)
    if target.start is None:
        return ready_s
    return ready_s + target.stop_timeout_s + STRAGGLERS_S + (STOP_COMMAND_S if target.stop is not None else 0)


def longest_load_s(plan: Load, duration_s: float, *, is_open: bool | None = None) -> float:
    """Return after how many seconds a load of `duration_s` must have ended, its last answers included.

    `is_open` says whether it is an open loop; by default that is as in the plan.
    """
    if is_open is None:
        is_open = plan.workload.rate_rps is not None
    return duration_s + (longest_sending_s(plan) if is_open else 0) + plan.drain_s + _START_GRACE_S


def longest_sending_s(plan: Load) -> float:
    """Return how long after its load an open loop may send what was due before, seconds; it waits for answers then."""
    return plan.drain_s / 2
