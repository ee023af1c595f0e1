"""The session's classifier once more, with other settings and an engine whose batches wait until a test lets them go.

Loading an engine takes seconds and how fast it is differs; here everything else of a replica is new, and the engine
takes as long as the test wants.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import numpy as np

from serve_app.cache.cache import PredictionCache
from serve_app.cache.store import build_store
from serve_app.classifier.admission import Admission
from serve_app.classifier.api import build_model_api
from serve_app.classifier.batcher import BatchLimits, Infer, MicroBatcher, Scores
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.settings import ClassifierSettings
from serve_app.entrance.guard import Guard
from serve_app.metrics import Metrics
from serve_app.open_inference.api import add_inference_routes
from serve_app.open_inference.inference import Inference
from tests.patience import until

HANG_S = 60.0


class HeldEngine:
    """An engine that computes nothing before `release`."""

    def __init__(self, infer: Infer) -> None:
        self._infer = infer
        self._begun = threading.Semaphore(0)
        self._go = threading.Event()
        self.pictures = 0
        """Of all batches so far."""

    def infer(self, pictures: np.ndarray) -> Scores:
        self.pictures += len(pictures)
        self._begun.release()
        assert self._go.wait(HANG_S)
        return self._infer(pictures)

    async def begun(self) -> None:
        """Return when one batch more has begun."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=HANG_S)

    def release(self) -> None:
        """Let it compute, from now on."""
        self._go.set()


@dataclass(frozen=True)
class Held:
    """A replica without Ray."""

    client: httpx.AsyncClient
    """Of its API, below /model as Serve mounts it."""
    engine: HeldEngine
    classifier: Classifier
    _batcher: MicroBatcher

    @property
    def waiting(self) -> int:
        """Pictures that are decoded and not yet in a batch."""
        return len(self._batcher._waiting)


@asynccontextmanager
async def held(
    loaded: Classifier, metrics: Metrics, guard: Guard | None = None, /, *, picture_s: float = 0.1, **args: object
) -> AsyncIterator[Held]:
    """Run a classifier with the engine and threads of `loaded`, and `args` over its settings.

    It begins with `picture_s` for what the engine takes for a picture, seconds; what `args` do not say is unhurried.
    Predictions are kept only where `args` have `cache`. `guard` stands in front, if there is one. In the end, no client
    may hold anything.
    """
    settings = ClassifierSettings.model_validate({**loaded.settings.model_dump(), **args})
    engine = HeldEngine(loaded._batcher._infer)
    admission = Admission(settings, metrics, picture_s=picture_s)
    batcher = MicroBatcher(engine.infer, loaded._pools.engine, BatchLimits(settings.max_batch), admission.learn)
    classifier = Classifier(settings, loaded.prepared, loaded._pools, batcher, admission)
    store = build_store(settings.cache, len(loaded.prepared.manifest.labels), metrics) if "cache" in args else None
    if store is not None:
        await store.open()
        classifier._cache = PredictionCache(store, "a model", metrics)
    api = build_model_api(classifier)
    add_inference_routes(api, Inference(classifier))
    (guard or Guard(None)).protect(api)
    transport = httpx.ASGITransport(api, root_path="/model", raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/model") as client:
        try:
            yield Held(client, engine, classifier, batcher)
        finally:
            engine.release()
            if classifier._cache is not None:
                await classifier._cache.close()
            await batcher.close()
    await until(lambda: not _held_by_clients(classifier, guard), "that no client holds anything any more")


def _held_by_clients(classifier: Classifier, guard: Guard | None) -> dict[str, int]:
    """Return what is held of a replica by name, without what is nothing."""
    accounts = guard._shares._accounts.values() if guard and guard._shares else ()
    held = {f"{resource} of {each.name}": count for each in accounts for resource, count in each._held.items()}
    admission = classifier.admission
    counts = {"places": admission._taken, "shared places": admission._sharing, "bytes": admission.uploads._held_bytes}
    return {name: count for name, count in (held | counts).items() if count}


async def in_two_parts(data: bytes, half_sent: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    """Send half of an upload; the rest comes when `go_on` is set."""
    yield data[: len(data) // 2]
    half_sent.set()
    await go_on.wait()
    yield data[len(data) // 2 :]
