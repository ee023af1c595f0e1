"""Answers for bytes that were, or just are being, classified for somebody else: from the store, or by sharing a flight.

Called by `Classifier` with the hash of an upload and what computes it. Only whole successes are kept.
"""

from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import replace
from time import perf_counter

from serve_app.cache.classification import Classification
from serve_app.cache.flights import Flight, Flights
from serve_app.cache.store import PredictionStore
from serve_app.metrics import CACHE_LOOKUPS, Metrics
from serve_app.uploads import HeldUpload

Compute = Callable[[HeldUpload, float], Coroutine[None, None, Classification]]
"""Computes an upload's classes for somebody who waits for so many seconds, and frees the upload when it can."""

Share = Callable[[], AbstractContextManager[None]]
"""Holds a place for a picture that waits for another's flight, or raises Overloaded."""


class PredictionCache:
    """One replica's use of a store, until `close`."""

    def __init__(
        self,
        store: PredictionStore,
        fingerprint: str,
        metrics: Metrics,
    ) -> None:
        """Use `store`, which is open, for the model that `fingerprint` stands for."""
        self._store = store
        self._fingerprint = fingerprint
        self._metrics = metrics
        self._flights = Flights[Classification]()

    @property
    def kind(self) -> str:
        """Where predictions are kept: redis or memory."""
        return self._store.kind

    async def find_or_compute(
        self, image_sha256: str, upload: HeldUpload, within_s: float, compute: Compute, share: Share
    ) -> Classification:
        """Return the answer for `upload`, which goes over to a flight or is freed; `compute` is called at most once.

        Raises what `compute` raises, for all who wait for it, and Overloaded when too many do. `within_s` is the
        caller's own time limit, which this does not keep; `share` is called if another's picture is waited for.
        Where clients have shares, only uploads of one client share a flight, which may end in ShareExceeded.
        """
        client = upload.account.name if upload.account.share < 1 else ""
        key = f"{client}:{image_sha256}"
        flight = self._flights.find(key)
        if flight is None:
            held = upload.hand_over()
            flight = self._flights.begin(key, lambda begun: self._look_or_compute(image_sha256, held, begun, compute))
            flight.call_at_end(held.free)
            answer = await flight.wait(within_s)
            self._metrics.count(CACHE_LOOKUPS, "hit" if answer.cached else "miss")
            return answer
        upload.free()
        with share():
            answer = await flight.wait(within_s)
        self._metrics.count(CACHE_LOOKUPS, "shared")
        return replace(answer, marks=(("cache", perf_counter()),), cached=True)

    def keep(self, answer: Classification) -> None:
        """Take an answer in that was computed without asking here."""
        self._store.keep(self._key(answer.image_sha256), answer.best)

    async def close(self) -> None:
        """End what is under way, and the store."""
        await self._flights.close()
        await self._store.close()

    def _key(self, image_sha256: str) -> str:
        return f"{self._fingerprint}:{image_sha256}"

    async def _look_or_compute(
        self, image_sha256: str, upload: HeldUpload, flight: Flight[Classification], compute: Compute
    ) -> Classification:
        key = self._key(image_sha256)
        best = await self._store.find_or_claim(key, flight)  # clients with shares have a flight each
        looked = ("cache", perf_counter())
        if best is not None:
            return Classification(best, image_sha256, (looked,), cached=True)
        try:
            answer = await compute(upload, flight.left_s)
        except BaseException:
            self._store.give_up(key, flight)
            raise
        self._store.keep(key, answer.best)
        return replace(answer, marks=(looked, *answer.marks))
