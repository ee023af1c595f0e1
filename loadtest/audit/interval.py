"""Numbers as reports print them: a value, and the range in which rounding leaves what was measured.

Used by every rule. For numbers from 0 on; knows nothing of reports but how they round.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

_FLOAT_SHARE = 1e-9
"""What calculating with floats may change."""

_LOCUST_STEPS_MS = ((100.0, 1.0), (1000.0, 10.0), (10000.0, 100.0), (math.inf, 1000.0))
"""Limit and step: Locust keeps two significant digits of a latency (`bucket_response_time`)."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A number, and the least and the most that it may stand for."""

    low: float
    value: float
    high: float

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.low + other.low, self.value + other.value, self.high + other.high)

    def __mul__(self, factor: float) -> "Interval":
        return Interval(self.low * factor, self.value * factor, self.high * factor)

    def __truediv__(self, other: "Interval") -> "Interval":
        return Interval(
            _quotient(self.low, other.high), _quotient(self.value, other.value), _quotient(self.high, other.low)
        )

    def through(self, function: Callable[[float], float]) -> "Interval":
        """Return what a monotonic function makes of it."""
        ends = sorted((function(self.low), function(self.high)))
        return Interval(ends[0], function(self.value), ends[1])

    def overlaps(self, other: "Interval") -> bool:
        """Return whether both may stand for the same number."""
        return self.low <= other.high and other.low <= self.high

    @property
    def is_rounded(self) -> bool:
        """Return whether rounding leaves more than the number itself."""
        return self.high - self.low > 10 * _FLOAT_SHARE * abs(self.value)


def exact(value: float) -> Interval:
    """Return a number that was not rounded."""
    return within(value, _FLOAT_SHARE * abs(value))


def within(value: float, margin: float) -> Interval:
    """Return a number that may be off by `margin`; never less than 0."""
    return Interval(max(0.0, value - margin), value, value + margin)


def printed(number: Decimal | int) -> Interval:
    """Return a rounded number: half a unit of its last printed digit either way."""
    return within(float(number), unit_of(number) / 2)


def printed_or_cut(number: Decimal | int) -> Interval:
    """Return a number that was either rounded or cut off, as Locust's console cuts averages."""
    rounded = printed(number)
    return Interval(rounded.low, rounded.value, float(number) + unit_of(number))


def printed_percentile(number: Decimal | int) -> Interval:
    """Return a percentile in ms, rounded as printed; one of two digits may be Locust's, which has no more."""
    step_ms = _locust_step_ms(float(number)) if is_on_locust_step(float(number)) else 0.0
    return within(float(number), max(unit_of(number), step_ms) / 2)


def locust_percentile(value_ms: float) -> Interval:
    """Return a percentile as Locust writes it, in ms."""
    return within(value_ms, _locust_step_ms(value_ms) / 2)


def is_on_locust_step(value_ms: float) -> bool:
    """Return whether Locust can have made a latency by rounding."""
    return value_ms % _locust_step_ms(value_ms) == 0


def _locust_step_ms(value_ms: float) -> float:
    return next(step_ms for below_ms, step_ms in _LOCUST_STEPS_MS if value_ms < below_ms)


def unit_of(number: Decimal | int) -> float:
    """Return what the last printed digit of a number counts."""
    exponent = Decimal(number).as_tuple().exponent
    return 10.0**exponent if isinstance(exponent, int) else math.nan


def _quotient(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor > 0 else math.inf
