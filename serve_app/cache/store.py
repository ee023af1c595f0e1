"""Where predictions are kept: in Redis, in this process, or nowhere. Opened by `Classifier.load`."""

from typing import Protocol

from cachetools import TTLCache

from serve_app.cache.classification import KEPT_CLASSES, BestClasses
from serve_app.cache.redis import RedisPredictions, Timing
from serve_app.cache.settings import CacheSettings
from serve_app.metrics import Metrics
from serve_app.redis.address import redis_url


class PredictionStore(Protocol):
    """Predictions by key. Whatever happens to them, nothing is raised: at worst a picture is computed once more."""

    @property
    def kind(self) -> str:
        """What it is, for clients and reports."""

    async def open(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """End."""

    async def find_or_claim(self, key: str, who: object = None) -> BestClasses | None:
        """Return what is known, or None: then the caller computes it, and calls `keep` or `give_up`.

        `who` tells callers apart that ask for the same.
        """

    def keep(self, key: str, best: BestClasses) -> None:
        """Take a prediction in, soon."""

    def give_up(self, key: str, who: object = None) -> None:
        """Take in that `who` does not compute after all what `find_or_claim` left to them."""


class MemoryPredictions:
    """The newest and most used predictions, in this process."""

    kind = "memory"

    def __init__(self, max_entries: int, ttl_s: float) -> None:
        self._entries: TTLCache[str, BestClasses] = TTLCache(max_entries, ttl_s)

    async def open(self) -> None:
        """See PredictionStore; there is nothing to do."""

    async def close(self) -> None:
        """See PredictionStore."""
        self._entries.clear()

    async def find_or_claim(self, key: str, who: object = None) -> BestClasses | None:  # noqa: ARG002
        """See PredictionStore; whoever else computes it is in this process, where nobody has to be told."""
        return self._entries.get(key)

    def keep(self, key: str, best: BestClasses) -> None:
        """See PredictionStore."""
        self._entries[key] = best

    def give_up(self, key: str, who: object = None) -> None:
        """See PredictionStore; there are no claims."""


def build_store(settings: CacheSettings, classes: int, metrics: Metrics) -> PredictionStore | None:
    """Return the store that `settings` ask for, not opened yet, or None when the cache is off. Raises SetupError.

    The network tells `classes` apart.
    """
    url = redis_url()
    match settings.kind_with(url):
        case "redis":
            assert url is not None
            return RedisPredictions(
                url,
                ttl_s=settings.ttl_s,
                timing=Timing(answer_s=settings.timeout_s),
                is_possible=lambda best: _is_possible(best, classes),
                metrics=metrics,
            )
        case "memory":
            return MemoryPredictions(settings.max_entries, settings.ttl_s)
        case "off":
            return None


def _is_possible(best: BestClasses, classes: int) -> bool:
    """Return whether an engine with so many `classes` could have said so."""
    class_ids, scores = {class_id for class_id, _ in best}, [score for _, score in best]
    is_whole = len(best) == len(class_ids) == min(KEPT_CLASSES, classes)
    return is_whole and max(class_ids) < classes and scores == sorted(scores, reverse=True)
