"""Whether Redis answers, as all loops of a replica see it together: one line in the log at its loss, one at its return.

`run_forever` is those loops' way to live through an outage.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.errors import JobsUnavailable, Overloaded
from serve_app.redis.breaker import Breaker

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

RETRY_S = 0.2
_LONGEST_RETRY_S = 1.0


class Outage:
    """The present state, and since when it has been so."""

    def __init__(self) -> None:
        self._breaker = Breaker(
            "jobs stand still: Redis does not answer or refuses (%s)",
            "jobs go on: Redis answers again after %.1f s",
            patience_s=0,
        )

    @property
    def stable_s(self) -> float:
        """Seconds since Redis has been answering; 0 while it does not."""
        return self._breaker.closed_for_s

    def begin(self, reason: JobsUnavailable) -> None:
        """Note that Redis did not answer."""
        self._breaker.fail(reason.__cause__ or reason)

    def end(self) -> None:
        """Note that Redis answered."""
        if self._breaker.is_open:
            self._breaker.heal()

    async def outlast(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what `call` returns, trying until Redis answers and has room."""
        pause_s = RETRY_S
        while True:
            try:
                answer = await call()
            except (JobsUnavailable, Overloaded) as exc:
                if isinstance(exc, JobsUnavailable):  # a full one answers: what frees memory goes on
                    self.begin(exc)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_RETRY_S)
            else:
                self.end()
                return answer

    async def run_forever(self, step: Callable[[], Awaitable[None]], pause_s: float = 0.0) -> None:
        """Do `step` again and again, whatever happens."""
        while True:
            try:
                await self.outlast(step)
                await asyncio.sleep(pause_s)
            except Exception:  # a fault of ours: jobs must not stand still until somebody starts the replica anew
                logger.exception("a loop of the jobs failed and goes on")
                await asyncio.sleep(_LONGEST_RETRY_S)
