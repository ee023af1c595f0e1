"""Takes what is waiting and runs it as one batch: no timer, so a lone picture never waits for company.

While the engine runs, arrivals queue up; when it is done, the next batch takes them. Batches thus grow exactly when
the engine is the bottleneck. Called by `Classifier`; knows nothing of pictures' origin, TensorFlow or Ray.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.images import Picture
from serve_app.errors import NotReady

Scores = NDArray[np.float32]
Infer = Callable[[NDArray[np.uint8]], Scores]
OnBatch = Callable[[int, float], None]


@dataclass(frozen=True)
class Inference:
    """One picture's scores, shape (classes,), and when its batch ran (time.perf_counter() seconds)."""

    scores: Scores
    started: float
    ended: float
    batch_size: int


@dataclass(frozen=True)
class _Waiting:
    picture: Picture
    answer: asyncio.Future[Inference]


class MicroBatcher:
    """Runs `infer` in `executor`, one batch at a time, first come first served, background last.

    `on_batch` is told of each batch that came back and was not background: how many pictures, and how many seconds. The
    queue has no bound of its own: who comes in is decided before decoding (`admission`). A background picture begins
    only when no other waits, in batches of `max_background_batch`: longer no client's picture waits for one.
    """

    def __init__(
        self,
        infer: Infer,
        executor: Executor,
        *,
        max_batch: int,
        on_batch: OnBatch,
        max_background_batch: int = 1,
    ) -> None:
        self._infer = infer
        self._executor = executor
        self._max_batch = max_batch
        self._max_background_batch = max_background_batch
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._background: deque[_Waiting] = deque()
        self._running: list[_Waiting] = []
        self._run_began = 0.0
        self._arrival = asyncio.Event()
        self._loop_task = asyncio.create_task(self._run_batches())
        # However the loop ends, nobody may be left waiting for it.
        self._loop_task.add_done_callback(lambda _: self._give_up())

    @property
    def is_running(self) -> bool:
        """False once the batch loop has ended, after which no picture is ever answered."""
        return not self._loop_task.done()

    @property
    def running_for_s(self) -> float:
        """Seconds since the running batch went to the engine; 0 between batches."""
        return time.monotonic() - self._run_began if self._run_began else 0.0

    async def infer(self, picture: Picture, *, is_background: bool = False) -> Inference:
        """Return the scores of `picture` (uint8, one engine input).

        Raises NotReady once the batch loop has ended, and what the engine raised.
        """
        if not self.is_running:
            raise NotReady("the batch loop of this replica has ended; try again")
        waiting = _Waiting(picture, asyncio.get_running_loop().create_future())
        (self._background if is_background else self._waiting).append(waiting)
        self._arrival.set()
        return await waiting.answer

    async def close(self) -> None:
        """Stop the batch loop; whoever still waits, in the queue or for the running batch, is cancelled."""
        self._loop_task.cancel()
        await asyncio.wait([self._loop_task])

    def _give_up(self) -> None:
        for waiting in (*self._running, *self._waiting, *self._background):
            waiting.answer.cancel()

    async def _run_batches(self) -> None:
        while True:
            await self._arrival.wait()
            self._running = _take(self._waiting, self._max_batch)
            on_batch = self._on_batch
            if not self._running:
                self._running = _take(self._background, self._max_background_batch)
                on_batch = _tell_nobody
            if not self._waiting and not self._background:
                self._arrival.clear()
            if self._running:
                await self._run(self._running, on_batch)

    async def _run(self, batch: list[_Waiting], on_batch: OnBatch) -> None:
        pictures = np.stack([waiting.picture for waiting in batch])
        run = asyncio.get_running_loop().run_in_executor(self._executor, _timed, self._infer, pictures)
        self._run_began = time.monotonic()
        await asyncio.wait([run])
        self._run_began = 0.0
        fault = run.exception()
        if fault is None:
            _, started, ended = run.result()
            on_batch(len(batch), ended - started)
        for row, waiting in enumerate(batch):
            if waiting.answer.done():
                continue
            if fault is not None:
                waiting.answer.set_exception(fault)
            else:
                scores, started, ended = run.result()
                waiting.answer.set_result(Inference(scores[row], started, ended, len(batch)))


def _take(waiting: deque[_Waiting], count: int) -> list[_Waiting]:
    batch: list[_Waiting] = []
    while waiting and len(batch) < count:
        first = waiting.popleft()
        # Whoever asked for it has gone: computing it would delay the others for nothing.
        if not first.answer.cancelled():
            batch.append(first)
    return batch


def _tell_nobody(_pictures: int, _took_s: float) -> None:
    pass


def _timed(infer: Infer, pictures: NDArray[np.uint8]) -> tuple[Scores, float, float]:
    started = time.perf_counter()
    scores = infer(pictures)
    if len(scores) != len(pictures):
        raise RuntimeError(f"the engine gave {len(scores)} rows for {len(pictures)} pictures")
    return scores, started, time.perf_counter()
