"""What an overload test asks, and where its raw rows are. Read by the measuring side and by the figures.

overload.json                what was asked, the capacity, and the figures
plan.json                    the question, and the plan whose target, workload and roles are used
warmup.csv                   one RequestRow for each request of the warm-up, which is made at each start
capacity/                    requests.csv of the saturated closed loop that shows the capacity, and its moments.json
levels/10x/level.json        when what happened at ten times the capacity
levels/10x/requests.csv      one RequestRow for each request of the overload; resources.csv likewise for each role
levels/10x/neighbour/        the same for a light load beside it, before, during and after
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import NonNegativeFloat, PositiveFloat

from loadtest.plan.keys import Strict
from loadtest.plan.plan import Plan
from loadtest.rows.run_folder import Moments

SETTLE_S = 3.0
"""Of the closed loop that measures the capacity: by then connections and batches have built up, and counting begins."""
LEAST_SATURATING_S = 5
NEIGHBOUR_RPS = 11.0
"""Of the light load: ten light requests and one heavy one a second, at constant intervals."""
NEIGHBOUR_WEIGHT = 10
"""Light requests for each heavy one of the light load."""
NEIGHBOUR_IN_FLIGHT = 60
"""Requests of the light load that may be under way at a time."""


class Promises(Strict, use_attribute_docstrings=True):
    """What must hold at every level. The descriptions are the help of the command's options."""

    goodput_percent: PositiveFloat = 95
    """promise: least goodput, percent of that at the lowest multiple."""
    refusal_ms: PositiveFloat = 200
    """promise: longest latency of a refusal, milliseconds."""
    neighbour_ratio: PositiveFloat = 2
    """promise: highest p95 of the light endpoint, as a multiple of its idle p95."""
    recovery_s: PositiveFloat = 5
    """promise: longest time from the end of the load until the latency of heavy requests is normal, seconds."""
    memory_percent: PositiveFloat = 25
    """promise: most growth of the target's memory during the load, percent."""


class Question(Strict, use_attribute_docstrings=True):
    """What is asked: how a target holds multiples of its capacity."""

    heavy: str = "predict"
    """the endpoint to overload."""
    light: str = "lookup"
    """the endpoint whose latency must not suffer."""
    times: list[PositiveFloat]
    """Multiples of the capacity, in the order of measuring; the lowest is what the others are compared with."""
    seconds: PositiveFloat
    """Of each level's load."""
    idle_s: PositiveFloat = 15
    """seconds of the light load alone before each level."""
    tail_s: PositiveFloat = 15
    """seconds of the light load alone after each level."""
    capacity_rps: PositiveFloat | None = None
    """None: measured first, with users without think time."""
    saturating_users: int = 16
    saturating_s: int = 20
    """seconds of the closed loop that measures the capacity, at least 5."""
    promises: Promises = Promises()


class Asked(Strict):
    """What plan.json holds."""

    plan: Plan
    question: Question


class LevelRecord(Strict):
    """How one level went; moments in seconds since the epoch."""

    times: float
    asked_rps: float
    idle_from_unix_s: float
    idle_to_unix_s: float
    moments: Moments
    """Of the overload."""
    light_moments: Moments | None = None
    """Of the light load; None in the folders of earlier versions, which cut its last answers off."""
    ended_unix_s: NonNegativeFloat

    @property
    def began_unix_s(self) -> float:
        """Return when all users of the overload were there."""
        return self.moments.spawned_unix_s or self.moments.started_unix_s


@dataclass(frozen=True)
class OverloadFolder:
    """The layout of the folder of an overload test."""

    path: Path

    @property
    def record(self) -> Path:
        """Return where the result is."""
        return self.path / "overload.json"

    @property
    def plan(self) -> Path:
        """Return where the plan is."""
        return self.path / "plan.json"

    @property
    def capacity(self) -> Path:
        """Return the folder of the load that shows the capacity."""
        return self.path / "capacity"

    @property
    def capacity_moments(self) -> Path:
        """Return where it says when that load began and ended."""
        return self.capacity / "moments.json"

    def level(self, times: float) -> Path:
        """Return the folder of one level."""
        return self.path / "levels" / f"{times:g}x"

    def level_record(self, times: float) -> Path:
        """Return where it says how a level went."""
        return self.level(times) / "level.json"

    def neighbour(self, times: float) -> Path:
        """Return the folder of the light load beside one level."""
        return self.level(times) / "neighbour"
