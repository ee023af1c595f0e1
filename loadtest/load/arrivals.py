"""When requests start in an open loop: arrival times that nothing the target does can move. Pure; used by the recorder.

In an open loop, requests come from outside, whether or not earlier ones were answered; in a closed one, a user sends
the next request after the answer to the last. Which of the two a test is changes its latencies by an order of magnitude
(Schroeder, Wierman and Harchol-Balter 2006, "Open versus closed: a cautionary tale").
"""

import numpy as np
from numpy.typing import NDArray

from loadtest.plan.workload import Arrivals


def draw_arrival_times_s(rate_rps: float, duration_s: float, arrivals: Arrivals, seed: int) -> NDArray[np.float64]:
    """Return sorted arrival times within [0, `duration_s`), shape (n,); the same for the same arguments.

    Of a Poisson process, the number of arrivals is Poisson distributed with the mean rate × duration, and given the
    number, their times are independent and uniform (Ross 2014, "Introduction to Probability Models", theorem 5.2).
    """
    if arrivals == "constant":
        count = int(np.ceil(rate_rps * duration_s - 1e-9))
        return np.arange(count, dtype=np.float64) / rate_rps
    random = np.random.default_rng(seed)
    return np.sort(random.uniform(0, duration_s, random.poisson(rate_rps * duration_s)))


def share_of(times_s: NDArray[np.float64], number: int, count: int) -> NDArray[np.float64]:
    """Return the arrivals that generator `number` of `count`, from 1 on, sends: every `count`-th.

    All generators draw the same times from the same seed, so together they send exactly what one would send.
    """
    return times_s[number - 1 :: count]
