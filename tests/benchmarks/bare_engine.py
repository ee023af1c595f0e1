"""The classifier's engine with decoding and nothing else: no HTTP, no Ray. A process of its own, run by `predictions`.

    python -m tests.benchmarks.bare_engine SETTINGS_JSON

Says on stdout that it is warm, then waits on stdin: each line {"warm_up_s": …, "duration_s": …} is one measurement,
answered by one line. Between them it uses no CPU. Ends with its stdin.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from loadtest.load.pictures import PicturePool
from serve_app.classifier.engines import Engine
from serve_app.classifier.images import Picture, decode_image
from serve_app.classifier.loading import load_and_warm, load_own_engine
from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings

POOL_SIZE = 64
# Pictures under way, in batches of `max_batch`: one in the engine, one being decoded.
IN_FLIGHT = 2


def main() -> None:
    settings = ClassifierSettings.model_validate_json(sys.argv[1])
    prepared = find_or_prepare(settings)
    load = load_own_engine(settings, prepared)
    engine = load_and_warm(load, settings.max_batch, prepared.manifest.geometry).engine
    pool = PicturePool(POOL_SIZE)
    _say({"weights": prepared.manifest.weights, "fingerprint": prepared.fingerprint})
    for line in sys.stdin:
        _say({"images_per_s": measure(engine, pool, settings, **json.loads(line))})


def measure(
    engine: Engine, pool: PicturePool, settings: ClassifierSettings, *, warm_up_s: float, duration_s: float
) -> float:
    """Return pictures per second between two moments of full load."""
    began = time.monotonic() + warm_up_s
    deadline = began + duration_s
    ends: list[float] = []
    for batch_size in _run_batches(engine, pool, settings, deadline):
        ends += [time.monotonic()] * batch_size
    return rate_between(ends, began, deadline)


def rate_between(ends: Sequence[float], began: float, deadline: float) -> float:
    """Return how many per second ended between two moments of full load.

    Whole batches end at once. So that a moment which cuts between two batches does not move the rate, time is counted
    from the last end before `began` to the last one before `deadline`.
    """
    first = max((end for end in ends if end <= began), default=min(ends))
    counted = [end for end in ends if first < end <= deadline]
    return len(counted) / (max(counted) - first) if counted else 0.0


def _run_batches(engine: Engine, pool: PicturePool, settings: ClassifierSettings, deadline: float) -> Iterator[int]:
    """Yield the size of each batch when it is done; the engine computes as many at a time as a replica gives it."""
    waiting: deque[Future[Picture]] = deque()
    running: deque[Future[object]] = deque()
    size = max(1, settings.max_batch // engine.at_once)
    with ThreadPoolExecutor(settings.decode_threads) as decoders, ThreadPoolExecutor(engine.at_once) as threads:
        while time.monotonic() < deadline:
            while len(waiting) < IN_FLIGHT * settings.max_batch:
                waiting.append(decoders.submit(decode_image, pool.next_picture(), settings.max_pixels))
            while len(running) < engine.at_once:
                batch = np.stack([waiting.popleft().result() for _ in range(size)])
                running.append(threads.submit(engine.infer, batch))
            running.popleft().result()
            yield size
        decoders.shutdown(cancel_futures=True)


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
