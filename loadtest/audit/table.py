"""A report as the rules see it, whatever file it came from: rows of printed figures, and what it claims of them.

Made by `published`, `locust_stats` and `own_report`. Contains numbers as they were printed, and computes only what
several rules need.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import fsum, sqrt
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from loadtest.audit.interval import Interval, exact, unit_of
from loadtest.plan.keys import Strict

SIGMAS = 4.0
"""Chance goes beyond this in 1 of 16,000 figures, so hardly ever in a report."""

LOCUST_SPAWN_RATE_PER_S = 1.0
"""Where a report does not say how fast the users came: Locust's default, which is slow."""


@dataclass(frozen=True)
class Printed:
    """What a report prints of one kind of requests in one row; None for what it does not print."""

    requests: int | None = None
    failures: int | None = None
    failures_percent: Interval | None = None
    rps: Interval | None = None
    avg_ms: Interval | None = None
    percentiles_ms: Sequence[tuple[float, Interval]] = ()
    """Share and value, by share; the median has the share 0.5."""
    min_ms: Interval | None = None
    max_ms: Interval | None = None
    timed: int | None = None
    """How many requests the latencies are of: all, or those with a right answer."""

    @property
    def median_ms(self) -> Interval | None:
        """Return the median."""
        return next((value for share, value in self.percentiles_ms if share == 0.5), None)  # noqa: PLR2004 # the median


@dataclass(frozen=True)
class Window:
    """The time that a row is of."""

    stated_s: Interval | None = None
    """How long it was by the report's own words: a range, if it states one."""
    is_exact: bool = False
    """Whether RPS is requests ÷ this very time; otherwise it is of a run that began and ended about then."""
    is_steady: bool = False
    """All users are there from its begin to its end, and are in the middle of what they do at both."""
    ramp_s: float = 0.0
    """How long it takes at its begin until the last user has come."""
    runs: int = 1
    """How many runs are pooled."""


@dataclass(frozen=True)
class Row:
    """One row of a report: a target at a number of users."""

    name: str
    target: str
    users: int
    all: Printed
    """All endpoints together."""
    parts: Mapping[str, Printed] = field(default_factory=dict)
    """Its endpoints."""
    parts_are_all: bool = False
    """Whether every request belongs to one of the parts."""
    parts_share_window: bool = True
    window: Window = Window()
    wait_s: tuple[float, float] | None = None
    """Think time between two requests of a user; None where it says nothing about the row."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """How often each part is chosen; counts of requests, where printed, come first."""
    covers_failures: bool = True
    """Whether the latencies are of failed requests too."""
    may_lack_times: bool = False
    """Whether requests without a response time may be among those counted, as Locust counts them."""
    generator_share: float = 0.0
    """Of the users' time: what the load generator may take for itself before its run counts as not valid."""

    @property
    def kinds(self) -> dict[str, Printed]:
        """Return the figures of all requests and of each endpoint, by what a finding calls them."""
        return {self.name: self.all} | {f"{self.name}, {name}": part for name, part in self.parts.items()}

    @property
    def mean_wait_s(self) -> float | None:
        """Return the mean think time."""
        return sum(self.wait_s) / 2 if self.wait_s else None

    @property
    def has_all_times(self) -> bool:
        """Return whether every counted request has a response time, as far as the row tells.

        With one that has none, the counts no longer make the mean of all from the endpoints' means, where these differ.
        """
        if not self.may_lack_times:
            return True
        mixed, whole = self.mixed_avg_ms(), self.all.avg_ms
        means = {part.avg_ms.value for part in self.parts.values() if part.requests and part.avg_ms is not None}
        return len(means) > 1 and mixed is not None and whole is not None and mixed.overlaps(whole)

    def shares(self) -> dict[str, Interval] | None:
        """Return the share of each part among all timed requests; None when the row does not tell.

        From counts they are exact. From weights they are what chance makes of them in so many requests: a binomial
        share p of n requests has the standard deviation √(p (1 − p) ÷ n).
        """
        if not self.parts or not self.parts_are_all:
            return None
        counts = {name: part.timed for name, part in self.parts.items() if part.timed is not None}
        if len(counts) == len(self.parts):
            total = sum(counts.values())
            return {name: exact(count / total) for name, count in counts.items()} if total else None
        if not self.all.timed or any(name not in self.weights for name in self.parts):
            return None
        total_weight = sum(self.weights[name] for name in self.parts)
        return {name: _drawn(self.weights[name] / total_weight, self.all.timed) for name in self.parts}

    def mixed_avg_ms(self) -> Interval | None:
        """Return the mean of all requests by the means of the parts: Σ share × mean.

        With shares from weights, chance moves it by the standard deviation √((Σ p m² − (Σ p m)²) ÷ n).
        """
        shares = self.shares()
        if shares is None:
            return None
        known = {name: self.parts[name].avg_ms for name, share in shares.items() if share.value > 0}
        means = {name: mean for name, mean in known.items() if mean is not None}
        if len(means) < len(known) or not means:
            return None
        low, value, high = (
            fsum(shares[name].value * getattr(mean, end) for name, mean in means.items())
            for end in ("low", "value", "high")
        )
        chance = SIGMAS * self._mix_deviation_ms(shares, means)
        return Interval(max(0.0, low - chance), value, high + chance)

    def _mix_deviation_ms(self, shares: Mapping[str, Interval], means: Mapping[str, Interval]) -> float:
        if not any(share.is_rounded for share in shares.values()) or not self.all.timed:
            return 0.0
        mean = fsum(shares[name].value * means[name].value for name in means)
        square = fsum(shares[name].value * means[name].value ** 2 for name in means)
        return sqrt(max(0.0, square - mean**2) / self.all.timed)


Quantity = Literal["throughput", "failures", "latency"]
Sense = Literal["more", "less", "same"]

MOST = 10**12
"""Of any figure: what is above is a slip, and its square may be too large for a float."""

_Share = Annotated[Decimal, Field(gt=0, le=MOST)]
_Name = Annotated[str, BeforeValidator(lambda name: str(name) if isinstance(name, int) else name)]
"""Of a target; a number of instances is one."""


class Stated(Strict, allow_inf_nan=False):
    """A part of a file whose numbers are finite."""


class Statement(Stated):
    """What the winner is said to have more or less of than the others."""

    text: str
    """The words that say it: a part of the claim's."""
    quantity: Quantity
    endpoint: str | None = None
    """Of which endpoint; None is all requests, or does not say."""
    sense: Sense
    """Of latency, `less` is the faster one."""
    percent: _Share | None = None
    times: _Share | None = None
    """Instead of percent; neither where the words hold no number."""

    @model_validator(mode="after")
    def _has_one_amount(self) -> Self:
        given = [amount for amount in (self.percent, self.times) if amount is not None]
        if len(given) > 1 or (given and self.sense == "same"):
            raise ValueError("give either percent or times, and neither with the sense `same`")
        return self

    @property
    def half_unit(self) -> float:
        """Return half a unit of the last digit of the claimed number; NaN without one."""
        number = self.percent or self.times
        return math.nan if number is None else unit_of(number) / 2

    @property
    def amount(self) -> Interval | None:
        """Return the claimed number with what rounding, or cutting off, leaves of it."""
        number = self.percent or self.times
        if number is None:
            return None
        value = float(number)
        return Interval(value - self.half_unit, value, value + 2 * self.half_unit)


_KINDS = {
    "because": {"users", "winner", "because", "says"},
    "recommendation": {"users", "recommendation", "says"},
    "bottom_line": {"bottom_line", "target", "all_levels"},
}


class Claim(Stated):
    """A sentence of a report about the rows at a number of users, or about all rows, with what it says as data."""

    users: PositiveInt | None = None
    winner: _Name | None = None
    because: str | None = None
    recommendation: str | None = None
    """For one number of users; of the winner that the report names there."""
    says: list[Statement] = []
    bottom_line: str | None = None
    target: _Name | None = None
    """The one that the bottom line recommends."""
    all_levels: bool = False
    """Whether the bottom line is for every number of users."""

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        kinds = [kind for kind in _KINDS if kind in self.model_fields_set]
        about_level = kinds in (["because"], ["recommendation"])
        if len(kinds) != 1 or self.model_fields_set - _KINDS[kinds[0]] or (about_level and self.users is None):
            raise ValueError(
                "give either users, winner, because and says, or users, recommendation and says, or bottom_line, "
                "target and all_levels, as in tests/audits/published_report.yaml"
            )
        unquoted = [one.text for one in self.says if one.text not in self.text]
        if unquoted:
            raise ValueError(f"says: {', '.join(map(repr, unquoted))} is no part of {self.text!r}")
        return self

    @property
    def text(self) -> str:
        """Return the sentence."""
        return self.because or self.recommendation or self.bottom_line or ""

    @property
    def where(self) -> str:
        """Return what to call it."""
        if self.users is None:
            return "bottom_line"
        return f"claim at {self.users} users" if self.because is not None else f"recommendation_at_{self.users}"

    @property
    def names_winner(self) -> bool:
        """Return whether the sentence itself names a winner; a recommendation borrows that of its level."""
        return self.because is not None and self.winner is not None


@dataclass(frozen=True)
class Table:
    """A report."""

    title: str
    rows: Sequence[Row]
    stated: Sequence[str] = ()
    """What it says of its test, for the reader."""
    claims: Sequence[Claim] = ()
    """Those about one number of users."""
    conclusions: Sequence[Claim] = ()
    """Those about all rows."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the report calls each target."""
    notes: Sequence[str] = ()

    def level(self, users: int | None) -> dict[str, Row]:
        """Return the rows at a number of users by target."""
        return {row.target: row for row in self.rows if row.users == users}

    def title_of(self, target: str | None) -> str:
        """Return what the report calls a target."""
        return self.names.get(target or "", target or "")


def _drawn(share: float, count: int) -> Interval:
    chance = SIGMAS * sqrt(share * (1 - share) / count)
    return Interval(max(0.0, share - chance), share, min(1.0, share + chance))
