"""How long tests wait, and how long they let the product wait for Redis.

A process on a busy machine stands still for a second now and then, and the product rightly takes that for a fault of
Redis. So where its time limits are not what a test is about, they are as long as only a hang is.
"""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from serve_app.cache.redis import RedisPredictions, Timing
from serve_app.jobs.queue.timing import JobTiming

HANG_S = 60.0

PATIENT = Timing(
    answer_s=HANG_S,
    unhurried_s=HANG_S,
    subscribe_s=HANG_S,
    claim_s=HANG_S,
    renew_s=0.05,
    look_again_s=0.05,
    probe_s=0.05,
)
"""Predictions: no limit, and no long pause."""

HURRIED = Timing(answer_s=0.05, unhurried_s=0.5, probe_s=0.05)
"""Predictions: the time limit as shipped, so that a test has not long to wait for it."""

PATIENT_JOBS = JobTiming(
    client_s=HANG_S,
    worker_s=HANG_S,
    read_s=0.1,
    listener_s=HANG_S,
    look_s=0.1,
    settle_s=0.1,
    renew_s=0.1,
    sweep_s=0.1,
    give_back_s=HANG_S,
)
"""Jobs: no limit, and no long pause."""


def set_timing(store: RedisPredictions, timing: Timing) -> None:
    """Let a store have other time limits from now on; what it waits for already has those of before."""
    store._timing = timing
    store._reads._patience_s = timing.answer_s / 2


async def until(condition: Callable[[], Any], what: str) -> None:
    """Return once `condition`, a function or coroutine function, is true; fails after HANG_S."""
    deadline = time.monotonic() + HANG_S
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.005)
