"""Retries transient errors: after the time in Retry-After, or else with exponential backoff and jitter.

The only module that imports tenacity. The ItemError itself says whether it is transient.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import tenacity

from serve_app.client.errors import NO_ANSWER, ItemError

Answer = TypeVar("Answer")
Tell = Callable[[ItemError, float], None]
"""Called with an error and the seconds until the next attempt."""

_FIRST_S, _MOST_S = 0.25, 10.0
_backoff = tenacity.wait_random_exponential(multiplier=_FIRST_S, max=_MOST_S)


@dataclass(frozen=True)
class Patience:
    """The limits of one answer: `retries` attempts after the first (None: no limit), all within `give_up_after_s`."""

    retries: int | None
    give_up_after_s: float
    tell: Tell

    async def insist(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what `ask` returns, after at most `give_up_after_s`. Raises the ItemError of the last attempt.

        A Retry-After beyond the remaining time ends the attempts at once.
        """
        last: list[ItemError] = []

        def before_sleep(state: tenacity.RetryCallState) -> None:
            last[:] = [_error_of(state)]
            self.tell(last[0], state.upcoming_sleep)

        stop: tenacity.stop.stop_base = tenacity.stop_before_delay(self.give_up_after_s)
        if self.retries is not None:
            stop = stop | tenacity.stop_after_attempt(self.retries + 1)
        insisting = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=_wait_s,
            stop=stop,
            before_sleep=before_sleep,
            reraise=True,
        )
        try:
            async with asyncio.timeout(self.give_up_after_s):
                async for attempt in insisting:
                    with attempt:
                        return await ask()
        except TimeoutError:
            before = f"; the error before: {last[0].detail}" if last else ""
            raise ItemError(
                NO_ANSWER, f"no answer within {self.give_up_after_s:g} s{before}", is_transient=True
            ) from None
        raise AssertionError("tenacity returns or raises")


def read_retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None if it is neither."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # OverflowError: a year or an offset of twenty digits
        return None
    if moment.tzinfo is None:  # dates in HTTP are GMT
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, ItemError) and error.is_transient


def _wait_s(state: tenacity.RetryCallState) -> float:
    asked_s = _error_of(state).retry_after_s
    if asked_s is None:
        return _backoff(state)
    # Never earlier than Retry-After; a little later, so that clients rejected together do not return together.
    return asked_s + random.uniform(0, min(1.0, 0.1 + asked_s / 4))


def _error_of(state: tenacity.RetryCallState) -> ItemError:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, ItemError)
    return error
