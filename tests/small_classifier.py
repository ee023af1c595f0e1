"""A replica's classifier whose network is a function, for tests of what stands before and around the engine.

The session's classifier has a real engine, and takes seconds to load.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from serve_app.cache.cache import PredictionCache
from serve_app.cache.store import build_store
from serve_app.classifier.admission import Admission
from serve_app.classifier.api import build_model_api
from serve_app.classifier.batcher import BatchLimits, Infer, MicroBatcher, Scores
from serve_app.classifier.classifier import Classifier, _Pools
from serve_app.classifier.model_cache import Manifest, PreparedModel
from serve_app.classifier.settings import ClassifierSettings
from serve_app.open_inference.api import add_inference_routes
from serve_app.open_inference.inference import Inference
from tests.counted import Counted

CLASSES = 10


@dataclass(frozen=True)
class Network:
    """A function that finds classes, and their labels."""

    infer: Infer
    labels: list[str]
    at_once: int = 1
    """So many batches at the same time."""


def _find_first(pictures: np.ndarray) -> Scores:
    scores = np.arange(CLASSES, 0, -1, dtype=np.float32)
    return np.tile(scores / scores.sum(), (len(pictures), 1))


FIRST = Network(_find_first, [str(index) for index in range(CLASSES)])
"""Finds class 0 in every picture, then class 1 and so on."""


@asynccontextmanager
async def small_classifier(metrics: Counted, network: Network = FIRST, /, **args: object) -> AsyncIterator[Classifier]:
    """Run a classifier with the settings `args`. It keeps nothing unless these have `cache: {store: memory}`."""
    settings = ClassifierSettings.model_validate({"cache": {"store": "off"}, **args})
    manifest = Manifest(
        name="resnet50",
        weights="random",
        weights_sha256=None,
        labels_from="placeholder",
        labels=network.labels,
    )
    pools, admission = _Pools(settings), Admission(settings, metrics, picture_s=0.001)
    batcher = MicroBatcher(network.infer, pools.engine, BatchLimits.of(settings, network.at_once), admission.learn)
    prepared = PreparedModel(folder=Path(), fingerprint="a model", manifest=manifest)
    classifier = Classifier(settings, prepared, pools, batcher, admission)
    store = build_store(settings.cache, len(network.labels), metrics)
    if store is not None:
        classifier._cache = PredictionCache(store, "a model", metrics)
    try:
        yield classifier
    finally:
        await classifier.close()


@asynccontextmanager
async def client_of(classifier: Classifier) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the classifier's whole API, below /model as Serve mounts it."""
    api = build_model_api(classifier)
    add_inference_routes(api, Inference(classifier))
    transport = httpx.ASGITransport(api, root_path="/model", raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/model") as client:
        yield client
