"""The load of a plan: what one user does, at which pace, and the warm-up before it."""

from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from loadtest.plan.keys import Name, NonNegativeFinite, PositiveFinite, Strict

Arrivals = Literal["poisson", "constant"]
"""When requests of an open loop start: at random, as those of independent people do, or one every 1 ÷ rate seconds."""

MOST_IN_FLIGHT = 200
"""Requests under way in an open loop by default: by Little's law enough for 200 a second that take 1 s."""


class Endpoint(Strict):
    """One kind of request: the tag of its task in the locustfile is its key in the plan."""

    request: str
    """The name under which Locust counts it."""
    weight: PositiveInt = 1


class Workload(Strict):
    """What one user does."""

    locustfile: Path
    endpoints: dict[Name, Endpoint] = Field(min_length=1)
    wait_s: tuple[NonNegativeFinite, NonNegativeFinite] | None = None
    """Think time between two requests of a user: uniform between these."""
    rate_per_user_rps: PositiveFinite | None = None
    """Instead of a think time: each user keeps to this pace as long as the target answers in time."""
    rate_rps: PositiveFinite | None = None
    """Instead of either, an open loop: this many requests start per second in all, whether earlier ones were answered
    or not. The plan's `users` are then the most that can be under way at a time."""
    arrivals: Arrivals = "poisson"
    options: dict[str, str | int | float] = Field(default={})
    """Further options of the locustfile, given to Locust as --key value."""

    @model_validator(mode="after")
    def _has_one_pace(self) -> Self:
        if sum(pace is not None for pace in (self.wait_s, self.rate_per_user_rps, self.rate_rps)) != 1:
            raise ValueError("give either wait_s (two numbers) or rate_per_user_rps or rate_rps")
        return self

    @field_validator("wait_s")
    @classmethod
    def _is_a_range(cls, wait_s: tuple[float, float] | None) -> tuple[float, float] | None:
        if wait_s and wait_s[0] > wait_s[1]:
            raise ValueError(f"the first number must not be above the second, as in {[*wait_s]}")
        return wait_s

    @property
    def mean_wait_s(self) -> float | None:
        """Return the mean think time Z of a user, seconds; None when users keep to a rate."""
        return sum(self.wait_s) / 2 if self.wait_s else None


class Warmup(Strict):
    """Load before the measured one; its requests are recorded apart and are in no figure."""

    users: PositiveInt = 5
    duration_s: NonNegativeInt = 10
    """Whole seconds, as Locust counts them; 0 leaves the warm-up out."""
