"""A report as the rules see it, whatever file it came from: rows of printed figures, and what it claims of them.

Made by `published`, `locust_stats` and `own_report`. Holds numbers only as they were printed; computes nothing but
what each rule would have to compute anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import fsum, sqrt
from typing import Literal

from loadtest.audit.interval import Interval, exact, unit_of

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
Unit = Literal["percent", "times"]


@dataclass(frozen=True)
class Amount:
    """By how much something is said to be more or less."""

    value: Interval
    """Its range is what rounding, or cutting off, leaves of it."""
    half_unit: float
    """Of its last digit."""
    unit: Unit

    @classmethod
    def of(cls, number: Decimal, unit: Unit) -> "Amount":
        """Return a claimed number, of which nothing tells whether it was rounded or cut off."""
        half_unit = unit_of(number) / 2
        value = float(number)
        return cls(Interval(value - half_unit, value, value + 2 * half_unit), half_unit, unit)


@dataclass(frozen=True)
class Statement:
    """What the winner is said to have more or less of than the others."""

    text: str
    quantity: Quantity
    endpoint: str | None
    """Of which endpoint; None is all requests, or does not say."""
    sense: Sense
    """Of latency, `less` is the faster one."""
    amount: Amount | None = None


@dataclass(frozen=True)
class Claim:
    """A sentence of a report about its rows."""

    where: str
    """How the report calls it."""
    text: str
    users: int
    winner: str | None
    names_winner: bool = True
    """Whether the sentence itself names a winner; a recommendation may borrow that of its level."""
    says: Sequence[Statement] = ()


@dataclass(frozen=True)
class Conclusion:
    """A sentence about all rows."""

    where: str
    text: str
    target: str | None
    """Which target it recommends."""
    covers_all_levels: bool


@dataclass(frozen=True)
class Table:
    """A report."""

    title: str
    rows: Sequence[Row]
    stated: Sequence[str] = ()
    """What it says of its test, for the reader."""
    claims: Sequence[Claim] = ()
    conclusions: Sequence[Conclusion] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    """What the report calls each target."""
    notes: Sequence[str] = ()

    def level(self, users: int) -> dict[str, Row]:
        """Return the rows at a number of users by target."""
        return {row.target: row for row in self.rows if row.users == users}

    def levels(self) -> list[int]:
        """Return the numbers of users, in the order of the rows."""
        return list(dict.fromkeys(row.users for row in self.rows))


def _drawn(share: float, count: int) -> Interval:
    chance = SIGMAS * sqrt(share * (1 - share) / count)
    return Interval(max(0.0, share - chance), share, min(1.0, share + chance))
