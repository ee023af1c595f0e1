"""One replica's classifier: cache, decode pool, batcher, engine thread and labels put together."""

import asyncio
import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Literal, Self

from serve_app.cache.cache import PredictionCache
from serve_app.cache.classification import Classification
from serve_app.cache.store import build_store
from serve_app.classifier.admission import Admission, Reservation
from serve_app.classifier.answer import ModelName, Prediction, describe_classification
from serve_app.classifier.batcher import BatchLimits, MicroBatcher
from serve_app.classifier.engines import MOST_FAILURES, STUCK_AFTER_S, Engine
from serve_app.classifier.fingerprint import fingerprint_model
from serve_app.classifier.images import Picture, decode_image, warm_up_decoder
from serve_app.classifier.loading import LoadEngine, engine_threads, load_and_warm, load_own_engine, lower_priority
from serve_app.classifier.model_cache import PreparedModel, find_or_prepare
from serve_app.classifier.scores import best_classes
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.shared_engine import SharedEngine
from serve_app.errors import DeadlineExceeded, NotReady
from serve_app.metrics import CACHE_LOOKUPS, MISSED_DEADLINES, Metrics
from serve_app.uploads import HeldUpload

logger = logging.getLogger(__name__)

STUCK_WITH_SHARED_ENGINE_S = 600
"""Such an engine is watched and replaced by itself, and what it had is sent again: no replica need end with it."""
LOWEST_PRIORITY = 19
HASHED_AT_ONCE_BYTES = 131_072
"""Up to here the event loop hashes an upload itself: handing it to a thread would cost as much."""

CacheUse = Literal["full", "keep", "none"]
"""What a request lets the cache do: answer it and keep the answer, only keep it, or neither."""

Places = Admission | Reservation
"""Has a place in the queue for a picture: one that is free, or one that its request holds already."""


class Classifier:
    """Classifies pictures from when `load` returns until `close`."""

    def __init__(
        self,
        settings: ClassifierSettings,
        prepared: PreparedModel,
        pools: "_Pools",
        batcher: MicroBatcher,
        admission: Admission,
    ) -> None:
        self.settings = settings
        self.prepared = prepared
        self.admission = admission
        self.model = ModelName(
            name=prepared.manifest.name,
            engine=settings.engine,
            precision=settings.precision,
            weights=prepared.manifest.weights,
        )
        """What every answer is signed with."""
        self.held_cores: frozenset[int] = frozenset()
        """Cores on which the engine holds its threads; empty when the system places them."""
        self.device = "cpu"
        """What the engine computes on: `cpu`, or the name of a GPU."""
        self.has_tf32 = False
        """Whether the engine multiplies float32 as TF32."""
        self.engine: Engine | None = None
        """What `load` has loaded."""
        self._pools = pools
        self._batcher = batcher
        self._cache: PredictionCache | None = None
        self._background_decoder = asyncio.Semaphore(1)  # the other threads stay free for whom a client waits

    @classmethod
    async def load(
        cls,
        settings: ClassifierSettings,
        metrics: Metrics | None = None,
        load_engine: LoadEngine = load_own_engine,
        gpu_share: float = 0.0,
    ) -> Self:
        """Return a warm classifier that counts into `metrics`, whose engine has so much of a GPU.

        Raises SetupError if its model cannot be had.
        """
        metrics = metrics or Metrics()
        pools = _Pools(settings)
        run = asyncio.get_running_loop().run_in_executor
        try:
            prepared = await run(pools.load, partial(find_or_prepare, settings, gpu_share=gpu_share))
            settings = prepared.settle(settings)
            load = await run(pools.load, load_engine, settings, prepared)
            _tell_weights(prepared)
            store = build_store(settings.cache, len(prepared.manifest.labels), metrics)
            pools.load.shutdown(wait=False)
            await run(pools.decode, warm_up_decoder)
            started = perf_counter()
            warm = await run(pools.engine, load_and_warm, load, settings.max_batch, prepared.manifest.geometry)
        except BaseException:
            pools.shut_down()
            raise
        logger.info("%s engine loaded and warm in %.1f s", settings.engine, perf_counter() - started)
        admission = Admission(settings, metrics, picture_s=warm.picture_s)
        batcher = MicroBatcher(
            warm.engine.infer,
            pools.engine,
            BatchLimits.of(settings, warm.engine.at_once),
            admission.learn,
        )
        classifier = cls(settings, prepared, pools, batcher, admission)
        classifier.held_cores = warm.held_cores
        classifier.engine = warm.engine
        classifier.device, classifier.has_tf32 = warm.engine.device, warm.engine.has_tf32
        if store is not None:
            await store.open()
            classifier._cache = PredictionCache(store, fingerprint_model(settings, prepared), metrics)
        return classifier

    @property
    def cache_kind(self) -> str:
        """Where predictions are kept: redis, memory or off."""
        return "off" if self._cache is None else self._cache.kind

    def check_ready(self) -> None:
        """Return if pictures can be classified.

        Raises NotReady when the batch loop has ended, or the engine hangs or fails again and again.
        """
        if self._batcher.running_for_s > (limit_s := stuck_after_s(self.settings)):
            raise NotReady(f"the engine has not come back for {limit_s} s; Serve will replace the replica")
        if self._batcher.failures >= MOST_FAILURES and not self.settings.shared_engine:
            failures = self._batcher.failures
            raise NotReady(f"{failures} batches have failed one after the other; Serve will replace the replica")
        if not self._batcher.is_running:
            raise NotReady("the batch loop of this replica has ended; Serve will replace the replica")

    def is_idle(self) -> bool:
        """Tell whether no client waits for a prediction. Raises NotReady when none can be computed."""
        self.check_ready()
        return self.admission.is_idle

    async def classify(
        self, upload: HeldUpload, deadline_s: float, use: CacheUse = "full", places: Places | None = None
    ) -> Classification:
        """Return what the network finds in `upload`; its marks are the ends of cache, decode, queue and inference.

        `upload` is freed once it is decoded, or goes over to those who wait for the same picture. Raises the errors of
        decode_image, NotReady, Overloaded (before decoding), and DeadlineExceeded after `deadline_s`; a picture that
        waits then, and for which no other request does, never reaches the engine. `places` are those that the caller
        has in the queue already.
        """
        places = places or self.admission
        try:
            async with asyncio.timeout(deadline_s):
                if self._cache is None or use != "full":
                    answer = await self._compute(upload, deadline_s, places)
                else:
                    image_sha256 = await self._hash(upload)
                    answer = await self._cache.find_or_compute(
                        image_sha256,
                        upload,
                        deadline_s,
                        lambda upload, within_s: self._compute(upload, within_s, places, image_sha256),
                        partial(places.share, upload.account),
                    )
        except TimeoutError as exc:
            self.admission.metrics.count(MISSED_DEADLINES)
            raise DeadlineExceeded(f"no answer within {deadline_s:g} s; try again later") from exc
        if self._cache is not None and use != "full":
            self.admission.metrics.count(CACHE_LOOKUPS, "skipped")
            if use == "keep":
                self._cache.keep(answer)
        return answer

    def describe(self, found: Classification, top_k: int) -> Prediction:
        """Return the public form of what the network found."""
        return describe_classification(found, top_k, self.prepared.manifest.labels, self.model)

    async def predict_in_background(self, data: bytes, top_k: int) -> Prediction:
        """Return the answer about a job's picture, computed after all pictures of client requests.

        Raises the errors of decode_image and of the engine, NotReady, and TimeoutError when decoding does not end.
        """
        run = asyncio.get_running_loop().run_in_executor
        async with self._background_decoder, asyncio.timeout(STUCK_AFTER_S):
            decoded = await run(self._pools.decode, self._decode_and_hash, data)
        inference = await self._batcher.infer(decoded.picture, is_background=True)
        return self.describe(Classification(best_classes(inference.scores), decoded.image_sha256), top_k)

    async def close(self) -> None:
        """Stop taking pictures, free the threads and leave a shared engine to others."""
        if self._cache is not None:
            await self._cache.close()
        is_computing = self._batcher.running_for_s > 0
        await self._batcher.close()
        self._pools.shut_down()
        # The connection of a batch that is under way ends with the process: without it, the batch would be sent again.
        if isinstance(self.engine, SharedEngine) and not is_computing:
            self.engine.close()

    async def _hash(self, upload: HeldUpload) -> str:
        if len(upload.data) <= HASHED_AT_ONCE_BYTES:
            return _sha256(upload.data)
        return await upload.read_in(self._pools.hash, _sha256)

    def _decode_and_hash(self, data: bytes, image_sha256: str | None = None) -> "_Decoded":
        started = perf_counter()
        settings, geometry = self.settings, self.prepared.manifest.geometry
        picture = decode_image(data, settings.max_pixels, geometry, draft=settings.reduced_decoding)
        return _Decoded(picture, image_sha256 or _sha256(data), started, perf_counter())

    def _decode_and_learn(self, data: bytes, image_sha256: str | None) -> "_Decoded":
        """Decode a client's picture, and have it told how long that took: also if the client has gone, or it failed."""
        started = perf_counter()
        try:
            return self._decode_and_hash(data, image_sha256)
        finally:
            self.admission.learn_decoding(perf_counter() - started)

    async def _compute(
        self, upload: HeldUpload, within_s: float, places: Places, image_sha256: str | None = None
    ) -> Classification:
        """Return what the network finds, for somebody who waits for `within_s`; frees the upload once it is decoded."""
        decode = partial(self._decode_and_learn, image_sha256=image_sha256)
        with places.place(within_s, upload.account):
            decoded = await upload.read_in(self._pools.decode, decode)
            upload.free()
            inference = await self._batcher.infer(decoded.picture)
        return Classification(
            best_classes(inference.scores),
            decoded.image_sha256,
            (
                ("queue", decoded.started),
                ("decode", decoded.ended),
                ("queue", inference.started),
                ("inference", inference.ended),
            ),
        )


def stuck_after_s(settings: ClassifierSettings) -> int:
    """Return after how many seconds a batch of a replica will not come back."""
    return STUCK_WITH_SHARED_ENGINE_S if settings.shared_engine else STUCK_AFTER_S


@dataclass(frozen=True)
class _Decoded:
    picture: Picture
    image_sha256: str
    started: float
    ended: float


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Pools:
    """The threads of one replica: some decode, as many hash large uploads, MOST_AT_ONCE run the engine; one loads it.

    Who hashes does not decode, so a picture that the cache knows waits for nobody's decoding.
    """

    def __init__(self, settings: ClassifierSettings) -> None:
        # Much of a start is the import of TensorFlow, CPU that replicas which serve must not lack.
        self.load = ThreadPoolExecutor(1, "load", lower_priority, (LOWEST_PRIORITY,))
        self.decode = ThreadPoolExecutor(settings.decode_threads, "decode", lower_priority, (settings.niceness,))
        self.hash = ThreadPoolExecutor(settings.decode_threads, "hash", lower_priority, (settings.niceness,))
        self.engine = engine_threads(settings)

    def shut_down(self) -> None:
        self.load.shutdown(wait=False, cancel_futures=True)
        self.decode.shutdown(wait=False, cancel_futures=True)
        self.hash.shutdown(wait=False, cancel_futures=True)
        self.engine.shutdown(wait=False, cancel_futures=True)


def _tell_weights(prepared: PreparedModel) -> None:
    if prepared.manifest.labels_from == "placeholder" and prepared.manifest.weights != "random":
        logger.warning("PLACEHOLDER LABELS: the classes have numbers for names; set `labels:` to a file or URL.")
    if prepared.manifest.weights == "random":
        logger.warning(
            "RANDOM WEIGHTS: the predictions mean nothing. %s Set `weights:` to a file, a URL or `imagenet` "
            "in the config for real ones.",
            prepared.note or "",
        )
