"""How far the clock of one machine is ahead of another's, by questions and answers between them. Pure.

Used where several generators make one load: rows of all of them are put on the clock of the machine that measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadtest.rows.columns import GeneratorRow, RequestRow

EXCHANGES = 16
"""Questions to the other machine. Whichever is held up least decides, so that a few slow ones do no harm."""

_DIGITS = 6


@dataclass(frozen=True)
class Exchange:
    """A question of a generator and its answer. Seconds since the epoch, each by the clock of whoever notes it."""

    asked_s: float
    """When the generator sent the question."""
    received_s: float
    """When the question arrived, by the other clock."""
    answered_s: float
    """When the answer was sent, by the other clock."""
    heard_s: float
    """When the answer arrived at the generator."""

    @property
    def round_trip_s(self) -> float:
        """Return how long question and answer were under way together."""
        return (self.heard_s - self.asked_s) - (self.answered_s - self.received_s)

    @property
    def ahead_s(self) -> float:
        """Return how far the generator's clock is ahead if both ways take equally long."""
        return ((self.asked_s - self.received_s) + (self.heard_s - self.answered_s)) / 2


@dataclass(frozen=True)
class ClockOffset:
    """How far a generator's clock is ahead, and by how much that may be wrong. Seconds."""

    ahead_s: float
    uncertainty_s: float


def estimate_offset(exchanges: Sequence[Exchange]) -> ClockOffset:
    """Return the offset by the exchange with the shortest round trip; at least one is needed.

    NTP's clock offset and delay, with the minimum-delay filter (Mills et al. 2010, RFC 5905, sections 8 and 10). The
    truth lies within half a round trip, at whose ends one way takes all of it and the other nothing.
    """
    best = min(exchanges, key=lambda exchange: exchange.round_trip_s)
    return ClockOffset(round(best.ahead_s, _DIGITS), round(max(0.0, best.round_trip_s) / 2, _DIGITS))


def bound_uncertainty_s(before: ClockOffset, after: ClockOffset) -> float:
    """Return by how much the offset before a load may be wrong at any time up to the one after it.

    A clock that drifts one way lies between its two true offsets all the time. Each of these is within its uncertainty,
    and the later one is off by the drift, too.
    """
    drift_s = abs(after.ahead_s - before.ahead_s)
    return round(max(before.uncertainty_s, after.uncertainty_s) + drift_s, _DIGITS)


def corrected_request(row: RequestRow, generator: int, ahead_s: float) -> RequestRow:
    """Return the row of a generator with its times on the clock of the machine that measures."""
    scheduled_unix_s = None if row.scheduled_unix_s is None else round(row.scheduled_unix_s - ahead_s, _DIGITS)
    start_unix_s = round(row.start_unix_s - ahead_s, _DIGITS)
    return replace(row, start_unix_s=start_unix_s, scheduled_unix_s=scheduled_unix_s, generator=generator)


def corrected_second(row: GeneratorRow, generator: int, ahead_s: float) -> GeneratorRow:
    """Return the same for what a generator did up to a second."""
    return replace(row, unix_s=round(row.unix_s - ahead_s, _DIGITS), generator=generator)
