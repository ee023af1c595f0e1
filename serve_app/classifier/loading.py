"""Loads an engine and warms it, in the threads that will run it. Called where an engine is: a replica, or `Engine`."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from serve_app.classifier.engines import MOST_AT_ONCE, Engine, import_engine
from serve_app.classifier.engines import load_engine as load_named
from serve_app.classifier.families import Geometry
from serve_app.classifier.model_cache import PreparedModel
from serve_app.classifier.pinning import watch_pinning
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import Fault, SetupError

LoadEngine = Callable[[ClassifierSettings, PreparedModel], Callable[[], Engine]]
"""Does what an engine needs that no thread of its own stays from, and returns what loads it."""


@dataclass(frozen=True)
class WarmEngine:
    """An engine that has computed batches of its smallest and largest size."""

    engine: Engine
    picture_s: float
    """Seconds for one picture of a full batch."""
    held_cores: frozenset[int]
    """Cores on which the engine holds its threads; empty when the system places them."""


def load_own_engine(settings: ClassifierSettings, prepared: PreparedModel) -> Callable[[], Engine]:
    """Import the engine that `settings` name, the larger half of loading it. Raises SetupError."""
    import_engine(settings.engine)
    return partial(
        load_named,
        settings.engine,
        prepared.folder,
        threads=settings.thread_count,
        precision=settings.precision,
        max_batch=settings.max_batch,
        gpu_share=prepared.gpu_share,
    )


def load_and_warm(load: Callable[[], Engine], max_batch: int, geometry: Geometry) -> WarmEngine:
    """Return the engine that `load` loads, warm. Raises SetupError."""
    engine = load()
    # The first run builds the kernels and the largest batch the buffers; sizes in between then cost nothing extra.
    _, held_cores = watch_pinning(lambda: _time_batch(engine, 1, geometry))
    took_s = [_time_batch(engine, max_batch, geometry) for _ in range(2)]
    # The shorter one: who also starts now slows the other, and too long an estimate would refuse the first clients.
    return WarmEngine(engine, min(took_s) / max_batch, held_cores)


def engine_threads(settings: ClassifierSettings) -> ThreadPoolExecutor:
    """Return the threads that load the engine and then run it: as many as an engine gains by."""
    return ThreadPoolExecutor(MOST_AT_ONCE, "engine", lower_priority, (settings.niceness,))


def lower_priority(niceness: int) -> None:
    """Lower the priority of the calling thread, where a thread has one of its own."""
    # On Linux the priority belongs to the thread, and the threads that an engine starts inherit it: lookups and this
    # replica's own event loop stay in front of the arithmetic. Elsewhere it would be the whole process.
    if sys.platform == "linux":
        os.nice(niceness)


def _time_batch(engine: Engine, pictures: int, geometry: Geometry) -> float:
    started = perf_counter()
    scores = engine.infer(np.zeros((pictures, geometry.crop, geometry.crop, 3), np.uint8))
    took_s = perf_counter() - started
    if not np.isfinite(scores).all():
        what = f"it gives numbers that are not finite for a batch of {pictures} on {engine.device}"
        raise SetupError(Fault("engine", what, "name another engine, other weights, or `precision: float32`"))
    return took_s
