"""Where predictions are kept: in Redis, in this process, or nowhere; and what decides that a kept one is the answer.

A prediction is the best classes of a picture, as many as anyone may ask for. Opened by `Classifier.load`.
"""

import hashlib
import json
from importlib.metadata import version
from typing import Protocol

from cachetools import TTLCache

from serve_app.cache.redis import BestClasses, RedisPredictions, Timing
from serve_app.classifier.images import DECODING
from serve_app.classifier.metrics import Metrics
from serve_app.classifier.model_cache import CONVERTERS, RECIPE, PreparedModel
from serve_app.classifier.settings import ClassifierSettings
from serve_app.redis.address import redis_url

KEPT_CLASSES = 10
"""The most that a client may ask for."""


class PredictionStore(Protocol):
    """Predictions by key. Whatever happens to them, nothing is raised: at worst a picture is computed once more."""

    @property
    def kind(self) -> str:
        """What it is, for clients and reports."""

    async def open(self) -> None:
        """Begin."""

    async def close(self) -> None:
        """End."""

    async def find_or_claim(self, key: str) -> BestClasses | None:
        """Return what is known, or None: then the caller computes it, and calls `keep` or `give_up`."""

    def keep(self, key: str, best: BestClasses) -> None:
        """Take a prediction in, soon."""

    def give_up(self, key: str) -> None:
        """Take in that the caller does not compute after all what `find_or_claim` left to it."""


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

    async def find_or_claim(self, key: str) -> BestClasses | None:
        """See PredictionStore; whoever else computes it is in this process, where nobody has to be told."""
        return self._entries.get(key)

    def keep(self, key: str, best: BestClasses) -> None:
        """See PredictionStore."""
        self._entries[key] = best

    def give_up(self, key: str) -> None:
        """See PredictionStore; there are no claims."""


def build_store(settings: ClassifierSettings, prepared: PreparedModel, metrics: Metrics) -> PredictionStore | None:
    """Return the store that `settings` ask for, not opened yet, or None when the cache is off. Raises SetupError."""
    url, cache = redis_url(), settings.cache
    match cache.kind_with(url):
        case "redis":
            assert url is not None
            return RedisPredictions(
                url,
                ttl_s=cache.ttl_s,
                timing=Timing(answer_s=cache.timeout_s),
                is_possible=lambda best: _is_possible(best, len(prepared.manifest.labels)),
                metrics=metrics,
            )
        case "memory":
            return MemoryPredictions(cache.max_entries, cache.ttl_s)
        case "off":
            return None


def _is_possible(best: BestClasses, classes: int) -> bool:
    """Return whether an engine with so many `classes` could have said so."""
    class_ids, scores = {class_id for class_id, _ in best}, [score for _, score in best]
    is_whole = len(best) == len(class_ids) == KEPT_CLASSES
    return is_whole and max(class_ids) < classes and scores == sorted(scores, reverse=True)


def fingerprint_model(settings: ClassifierSettings, prepared: PreparedModel) -> str:
    """Return a name for everything that decides a picture's scores, besides its bytes.

    Labels are no part of it: what is kept are class indices. Nor are limits: a picture that one configuration answered
    is right for another.
    """
    manifest = prepared.manifest
    parts = {
        "network": manifest.name,
        "weights": manifest.weights_sha256 or manifest.weights,
        "seed": settings.seed if manifest.weights == "random" else None,
        "recipe": RECIPE,
        "engine": settings.engine,
        "precision": settings.precision,
        "versions": {name: version(name) for name in CONVERTERS[settings.engine]},
        "decoding": DECODING,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
