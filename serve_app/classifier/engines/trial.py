"""Tries one engine on its prepared model: its scores of some pictures, and how many it computes in a second.

Run by `choice` as a process of its own, `python -m serve_app.classifier.engines.trial`, with a Question as JSON on
stdin. The last line on stderr is the reason of a failure.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from serve_app.classifier.engines import Engine, load_engine
from serve_app.errors import SetupError

ROUNDS = 3
ROUND_S = 1.0


class Question(BaseModel):
    """What to try, and where pictures are and the answer goes: .npz files, arrays of pictures and their scores."""

    folder: Path
    engine: str
    precision: str
    threads: int
    max_batch: int
    gpu_share: float
    pictures: Path
    answer: Path


def try_engine(asked: Question) -> None:
    """Write the answer: `images_per_s`, and scores for each array of pictures. Raises SetupError."""
    engine = load_engine(
        asked.engine,
        asked.folder,
        threads=asked.threads,
        precision=asked.precision,
        max_batch=asked.max_batch,
        gpu_share=asked.gpu_share,
    )
    with np.load(asked.pictures) as given:
        sets = [given[name] for name in given.files]
    scores = [compute_scores(engine, pictures, asked.max_batch) for pictures in sets]
    # The best of several rounds: what else the machine does meanwhile only makes an engine slower.
    batch = sets[0][: max(1, asked.max_batch // engine.at_once)]
    rounds = 0 if asked.precision == "highest" else ROUNDS  # with that precision nothing serves
    images_per_s = max((measure_speed(engine, batch) for _ in range(rounds)), default=0.0)
    np.savez(asked.answer, *scores, images_per_s=images_per_s)


def compute_scores(engine: Engine, pictures: NDArray[np.uint8], max_batch: int) -> NDArray[np.float32]:
    """Return the scores, shape (n, classes), of any number of `pictures`."""
    starts = range(0, len(pictures), max_batch)
    return np.concatenate([engine.infer(pictures[start : start + max_batch]) for start in starts])


def measure_speed(engine: Engine, batch: NDArray[np.uint8]) -> float:
    """Return pictures per second when `batch` is computed as often at a time as the engine gains by."""
    began_s = time.monotonic()

    def compute_batches(_: int) -> int:
        done = 0
        while not done or time.monotonic() - began_s < ROUND_S:
            engine.infer(batch)
            done += len(batch)
        return done

    with ThreadPoolExecutor(engine.at_once) as threads:
        done = sum(threads.map(compute_batches, range(engine.at_once)))
    return done / (time.monotonic() - began_s)


def main() -> int:
    """Try what stdin asks; return 1, with one line on stderr, when the engine cannot be loaded."""
    try:
        try_engine(Question.model_validate_json(sys.stdin.read()))
    except SetupError as exc:
        print(" ".join(str(exc).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
