"""Computes once what several ask for at the same time: one flight for each key, which belongs to all who wait for it.

So nobody's leaving or deadline ends what others wait for, and what nobody waits for any more ends at once. Used by
`Classifier`; knows nothing of pictures.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Flight(Generic[Result]):
    """One computation and those who wait for it."""

    def __init__(
        self, work: Callable[["Flight[Result]"], Coroutine[None, None, Result]], on_desertion: Callable[[], None]
    ) -> None:
        """Begin `work`. `on_desertion` is told when nobody waits any more."""
        self._ends_s: dict[object, float] = {}
        self._on_desertion = on_desertion
        self._task = asyncio.create_task(work(self))

    @property
    def left_s(self) -> float:
        """Seconds until the last of those who wait now will have gone."""
        return max(self._ends_s.values(), default=0.0) - time.monotonic()

    async def wait(self, within_s: float) -> Result:
        """Return the result. Raises what the work raised. `within_s` is told here; who calls keeps to it."""
        who = object()
        self._ends_s[who] = time.monotonic() + within_s
        try:
            return await asyncio.shield(self._task)
        finally:
            del self._ends_s[who]
            if not self._ends_s:
                self._on_desertion()
                self._task.cancel()

    def call_at_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the work has ended, however it ends."""
        self._task.add_done_callback(lambda _: callback())

    async def cancel(self) -> None:
        """End the work; whoever waits is cancelled."""
        self._task.cancel()
        await asyncio.wait([self._task])


class Flights(Generic[Result]):
    """The flights under way."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight[Result]] = {}

    def find(self, key: str) -> Flight[Result] | None:
        """Return the flight that is under way, if there is one."""
        return self._by_key.get(key)

    def begin(self, key: str, work: Callable[[Flight[Result]], Coroutine[None, None, Result]]) -> Flight[Result]:
        """Return a new flight, for which the caller must wait at once."""
        flight = Flight(work, on_desertion=lambda: self._forget(key, flight))
        flight.call_at_end(lambda: self._forget(key, flight))
        self._by_key[key] = flight
        return flight

    async def close(self) -> None:
        """End all of them."""
        for flight in list(self._by_key.values()):
            await flight.cancel()

    def _forget(self, key: str, flight: Flight[Result]) -> None:
        if self._by_key.get(key) is flight:
            del self._by_key[key]
