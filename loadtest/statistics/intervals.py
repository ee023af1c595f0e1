"""Intervals for shares of failures, of independent samples: hand over as many as the samples at hand are worth."""

from math import sqrt
from statistics import NormalDist

from loadtest.statistics.percentiles import CONFIDENCE


def failures_interval(failures: float, requests: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of the share of failures, from 0 to 1 (the score interval, Wilson 1927).

    Raises ValueError unless 0 <= failures <= requests and requests > 0.
    """
    if not 0 <= failures <= requests or not requests:
        raise ValueError(f"{failures} failures of {requests} requests are no share")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = failures / requests
    middle = share + z**2 / (2 * requests)
    half = z * sqrt(share * (1 - share) / requests + z**2 / (4 * requests**2))
    low, high = ((middle + sign * half) / (1 + z**2 / requests) for sign in (-1, 1))
    # Rounding must not put the observed share outside.
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def failures_interval_percent(failures: int, requests: int) -> tuple[float, float] | None:
    """Return the same in percent, for a report; None where the counts are no share."""
    if not 0 <= failures <= requests or not requests:
        return None
    low, high = failures_interval(failures, requests)
    return round(100 * low, 4), round(100 * high, 4)


def failures_difference_interval(
    first: tuple[float, float], second: tuple[float, float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return the interval of (share of the second − share of the first), from −1 to 1.

    Each is (failures, requests). Newcombe 1998, "Interval estimation for the difference between independent
    proportions", method 10: the hybrid of two score intervals. Raises ValueError like `failures_interval`.
    """
    (low_1, high_1), (low_2, high_2) = (failures_interval(*counts, confidence) for counts in (first, second))
    share_1, share_2 = first[0] / first[1], second[0] / second[1]
    difference = share_2 - share_1
    low = difference - sqrt((share_2 - low_2) ** 2 + (high_1 - share_1) ** 2)
    high = difference + sqrt((high_2 - share_2) ** 2 + (share_1 - low_1) ** 2)
    return low, high
