"""Takes what is waiting and runs it as a batch: no timer, so a lone picture never waits for company.

While the engine is full, arrivals queue up; when a batch is done, the next one takes them. Batches thus grow exactly
when the engine is the bottleneck. Called by `Classifier`; knows nothing of pictures' origin, TensorFlow or Ray.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.engines import has_answers
from serve_app.classifier.images import Picture
from serve_app.classifier.settings import ClassifierSettings
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
class BatchLimits:
    """How much the engine computes at a time."""

    pictures: int
    """Of all batches together."""
    batches: int = 1
    background_pictures: int = 1
    """In a batch that no client waits for."""

    @classmethod
    def of(cls, settings: ClassifierSettings, at_once: int) -> Self:
        """Return the limits for an engine that computes so many batches at once, each of at most `max_batch`."""
        return cls(settings.max_batch, at_once, min(settings.jobs.max_batch, settings.max_batch))


@dataclass(frozen=True, eq=False)
class _Waiting:
    picture: Picture
    answer: asyncio.Future[Inference]


@dataclass(eq=False)
class _Run:
    """A batch in the engine."""

    batch: list[_Waiting]
    on_batch: OnBatch
    began: float = field(default_factory=time.monotonic)
    engine_s: float = 0.0


class MicroBatcher:
    """Runs `infer` in `executor`, first come first served, background last.

    `on_batch` is told of each batch that came back and was not background: how many pictures, and how many seconds of
    the engine. Batches that run at the same time share these seconds equally. The queue has no bound of its own: who
    comes in is decided before decoding (`admission`), and a picture leaves it with its caller. Background pictures
    begin only when no other waits or runs.
    """

    def __init__(self, infer: Infer, executor: Executor, limits: BatchLimits, on_batch: OnBatch) -> None:
        self._infer = infer
        self._executor = executor
        self._limits = limits
        self._max_batch = max(1, limits.pictures // limits.batches)
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._background: deque[_Waiting] = deque()
        self._running: list[_Run] = []
        self._shared_at = 0.0
        self.failures = 0
        """Batches without an answer since the last one that had some."""
        self._change = asyncio.Event()
        self._loop_task = asyncio.create_task(self._run_batches())
        # However the loop ends, nobody may be left waiting for it.
        self._loop_task.add_done_callback(lambda _: self._give_up())

    @property
    def is_running(self) -> bool:
        """False once the batch loop has ended, after which no picture is ever answered."""
        return not self._loop_task.done()

    @property
    def running_for_s(self) -> float:
        """Seconds since the oldest batch that runs went to the engine; 0 between batches."""
        return max((time.monotonic() - run.began for run in self._running), default=0.0)

    async def infer(self, picture: Picture, *, is_background: bool = False) -> Inference:
        """Return the scores of `picture` (uint8, one engine input).

        Raises NotReady once the batch loop has ended, and what the engine raised.
        """
        if not self.is_running:
            raise _ended()
        waiting = _Waiting(picture, asyncio.get_running_loop().create_future())
        queue = self._background if is_background else self._waiting
        queue.append(waiting)
        self._change.set()
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            with suppress(ValueError):  # it is in a batch already
                queue.remove(waiting)
            raise

    async def close(self) -> None:
        """Stop the batch loop; whoever still waits, in the queue or for a running batch, gets NotReady."""
        self._loop_task.cancel()
        await asyncio.wait([self._loop_task])

    def _give_up(self) -> None:
        running = [waiting for run in self._running for waiting in run.batch]
        for waiting in (*running, *self._waiting, *self._background):
            if not waiting.answer.done():
                waiting.answer.set_exception(_ended())

    async def _run_batches(self) -> None:
        async with asyncio.TaskGroup() as runs:
            while True:
                await self._change.wait()
                self._change.clear()
                while run := self._next_run():
                    self._share_out()
                    self._running.append(run)
                    runs.create_task(self._run(run))

    def _next_run(self) -> "_Run | None":
        free = self._limits.batches - len(self._running)
        if free and (batch := _take(self._waiting, min(self._max_batch, -(-len(self._waiting) // free)))):
            return _Run(batch, self._on_batch)
        if not self._running and (batch := _take(self._background, self._limits.background_pictures)):
            return _Run(batch, _tell_nobody)
        return None

    async def _run(self, run: "_Run") -> None:
        pictures = [waiting.picture for waiting in run.batch]
        computing = asyncio.get_running_loop().run_in_executor(self._executor, _timed, self._infer, pictures)
        await asyncio.wait([computing])
        self._share_out()
        fault = computing.exception()
        if fault is None:
            run.on_batch(len(run.batch), run.engine_s)
        self.failures = 0 if fault is None and has_answers(computing.result()[0]) else self.failures + 1
        for row, waiting in enumerate(run.batch):
            if waiting.answer.done():
                continue
            if fault is not None:
                waiting.answer.set_exception(fault)
            else:
                scores, started, ended = computing.result()
                if np.isfinite(scores[row]).all():
                    waiting.answer.set_result(Inference(scores[row], started, ended, len(run.batch)))
                else:
                    waiting.answer.set_exception(RuntimeError("the engine gave scores that are not finite numbers"))
        self._running.remove(run)
        self._change.set()

    def _share_out(self) -> None:
        """Give the time since the last call to the batches that have run since then, in equal shares."""
        now = time.monotonic()
        for run in self._running:
            run.engine_s += (now - self._shared_at) / len(self._running)
        self._shared_at = now


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


def _ended() -> NotReady:
    return NotReady("the batch loop of this replica has ended; try again")


def _timed(infer: Infer, pictures: Sequence[Picture]) -> tuple[Scores, float, float]:
    started = time.perf_counter()
    scores = infer(np.stack(pictures))
    if len(scores) != len(pictures):
        raise RuntimeError(f"the engine gave {len(scores)} rows for {len(pictures)} pictures")
    return scores, started, time.perf_counter()
