"""MicroBatcher: batches are what is waiting, rows go back to their senders, nothing waits for ever."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest

from serve_app.classifier.batcher import BatchLimits, Inference, MicroBatcher, OnBatch
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import NotReady

BACKGROUND_BATCH = 2
HANG_S = 60.0


class HeldEngine:
    """An engine that says of each picture its first value, and holds a batch until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Semaphore(0)
        self._begun = threading.Semaphore(0)

    def infer(self, pictures: np.ndarray) -> np.ndarray:
        self.batches.append([int(picture[0]) for picture in pictures])
        self._begun.release()
        assert self.go.acquire(timeout=HANG_S)
        if 13 in self.batches[-1]:
            raise FloatingPointError("thirteen")
        return pictures.astype(np.float32)

    async def begun(self) -> None:
        """Return when one batch more has begun."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=HANG_S)


@asynccontextmanager
async def batching(
    engine: HeldEngine, *, max_batch: int = 4, at_once: int = 1, on_batch: OnBatch = lambda *_: None
) -> AsyncIterator[MicroBatcher]:
    with ThreadPoolExecutor(at_once) as executor:
        batcher = MicroBatcher(engine.infer, executor, BatchLimits(max_batch, at_once, BACKGROUND_BATCH), on_batch)
        try:
            yield batcher
        finally:
            engine.go.release(1000)
            await batcher.close()


def picture(value: int) -> np.ndarray:
    return np.array([value], np.uint8)


async def ask(batcher: MicroBatcher, *values: int, is_background: bool = False) -> list["asyncio.Task[float]"]:
    """Let so many clients send a picture; return when all of them wait."""

    async def one(value: int) -> float:
        return float((await batcher.infer(picture(value), is_background=is_background)).scores[0])

    tasks = [asyncio.create_task(one(value)) for value in values]
    await asyncio.sleep(0)  # each runs until it waits for its answer
    return tasks


async def ask_while_free(engine: HeldEngine, batcher: MicroBatcher, *values: int) -> list["asyncio.Task[float]"]:
    """Let so many clients send a picture to an idle engine; return when it has begun with them."""
    tasks = await ask(batcher, *values)
    await engine.begun()
    return tasks


async def test_a_lone_picture_runs_at_once() -> None:
    engine = HeldEngine()
    async with batching(engine) as batcher:
        await ask(batcher, 1)
        await engine.begun()
        assert engine.batches == [[1]]


async def test_what_arrives_while_the_engine_runs_is_the_next_batch_in_order_of_arrival() -> None:
    engine = HeldEngine()
    async with batching(engine) as batcher:
        tasks = await ask_while_free(engine, batcher, 0) + await ask(batcher, *range(1, 7))
        engine.go.release(10)
        assert await asyncio.gather(*tasks) == list(range(7))
        assert engine.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_failing_batch_fails_its_own_pictures_only() -> None:
    engine = HeldEngine()
    async with batching(engine, max_batch=2) as batcher:
        tasks = await ask_while_free(engine, batcher, 1) + await ask(batcher, 13, 3, 4, 5)
        engine.go.release(10)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answers[0], answers[3], answers[4]] == [1, 4, 5]
        assert all(isinstance(answer, FloatingPointError) for answer in answers[1:3])
        assert batcher.is_running


async def test_a_picture_whose_sender_has_gone_is_not_computed() -> None:
    engine = HeldEngine()
    async with batching(engine) as batcher:
        tasks = await ask_while_free(engine, batcher, 1) + await ask(batcher, 2, 3)
        tasks[1].cancel()
        engine.go.release(10)
        assert (await tasks[0], await tasks[2]) == (1, 3)
        assert engine.batches == [[1], [3]]


@pytest.mark.parametrize("is_background", [False, True])
async def test_a_picture_whose_sender_has_gone_leaves_the_queue_while_the_engine_hangs(*, is_background: bool) -> None:
    engine = HeldEngine()
    async with batching(engine) as batcher:
        tasks = await ask_while_free(engine, batcher, 1)
        tasks += await ask(batcher, 2, 2, is_background=is_background)
        queue = batcher._background if is_background else batcher._waiting
        assert len(queue) == 2
        tasks[2].cancel()
        await asyncio.wait([tasks[2]])
        assert len(queue) == 1
        engine.go.release(10)
        assert (await tasks[0], await tasks[1]) == (1, 2)
        assert engine.batches == [[1], [2]]


async def test_size_and_time_of_each_batch_are_told() -> None:
    engine, told, began_s = HeldEngine(), list[tuple[int, float]](), time.perf_counter()
    async with batching(engine, on_batch=lambda pictures, took_s: told.append((pictures, took_s))) as batcher:
        tasks = await ask_while_free(engine, batcher, 1) + await ask(batcher, 2, 3)
        engine.go.release(10)
        assert await asyncio.gather(*tasks) == [1, 2, 3]
    assert [pictures for pictures, _ in told] == [1, 2]
    assert all(took_s > 0 for _, took_s in told)
    assert sum(took_s for _, took_s in told) <= time.perf_counter() - began_s


async def test_closing_leaves_nobody_waiting() -> None:
    engine = HeldEngine()
    async with batching(engine) as batcher:
        tasks = await ask_while_free(engine, batcher, 1) + await ask(batcher, 2)
        await batcher.close()
        for task in tasks:
            with pytest.raises(NotReady):
                await asyncio.wait_for(task, HANG_S)
        assert not batcher.is_running
        with pytest.raises(NotReady):
            await asyncio.wait_for(batcher.infer(picture(3)), HANG_S)


async def test_an_engine_that_loses_a_row_fails_its_batch_and_no_other() -> None:
    def lose_a_row(pictures: np.ndarray) -> np.ndarray:
        return pictures[1:].astype(np.float32) if 13 in pictures else pictures.astype(np.float32)

    with ThreadPoolExecutor(1) as executor:
        batcher = MicroBatcher(lose_a_row, executor, BatchLimits(8), lambda *_: None)
        with pytest.raises(RuntimeError, match="0 rows for 1 pictures"):
            await batcher.infer(picture(13))
        assert (await batcher.infer(picture(4))).scores[0] == 4
        await batcher.close()


async def test_scores_that_are_no_numbers_fail_their_picture_alone() -> None:
    def infer(pictures: np.ndarray) -> np.ndarray:
        return np.where(pictures == 13, np.nan, pictures).astype(np.float32)

    with ThreadPoolExecutor(1) as executor:
        batcher = MicroBatcher(infer, executor, BatchLimits(8), lambda *_: None)
        bad, good = await asyncio.gather(batcher.infer(picture(13)), batcher.infer(picture(4)), return_exceptions=True)
        await batcher.close()
    assert "not finite" in str(bad)
    assert isinstance(good, Inference)
    assert good.scores[0] == 4


async def test_batches_that_fail_one_after_the_other_are_counted() -> None:
    def infer(pictures: np.ndarray) -> np.ndarray:
        if 12 in pictures:
            raise RuntimeError("twelve")
        return np.where(pictures == 13, np.nan, pictures).astype(np.float32)

    with ThreadPoolExecutor(1) as executor:
        batcher = MicroBatcher(infer, executor, BatchLimits(1), lambda *_: None)
        found = []
        for value in (1, 12, 13, 12, 4, 13):
            with suppress(RuntimeError):
                await batcher.infer(picture(value))
            found.append(batcher.failures)
        await batcher.close()
    assert found == [0, 1, 2, 3, 0, 1]


async def test_pictures_that_do_not_fit_together_fail_their_batch_and_no_other() -> None:
    """As when memory is short while they are put together."""
    with ThreadPoolExecutor(1) as executor:
        batcher = MicroBatcher(lambda pictures: pictures.astype(np.float32), executor, BatchLimits(8), lambda *_: None)
        wider = np.concatenate([picture(1), picture(1)])
        failed = await asyncio.gather(batcher.infer(picture(1)), batcher.infer(wider), return_exceptions=True)
        assert [type(each) for each in failed] == [ValueError, ValueError]
        assert (await batcher.infer(picture(4))).scores[0] == 4
        await batcher.close()


@pytest.mark.parametrize(("max_batch", "of_jobs", "background"), [(8, 2, 2), (1, 2, 1), (4, 64, 4)])
def test_no_batch_of_jobs_is_above_what_the_engine_takes(max_batch: int, of_jobs: int, background: int) -> None:
    settings = ClassifierSettings.model_validate({"max_batch": max_batch, "jobs": {"max_batch": of_jobs}})
    assert BatchLimits.of(settings, 2) == BatchLimits(max_batch, 2, background)


async def test_how_long_a_batch_has_been_running_is_told() -> None:
    engine = HeldEngine()
    async with batching(engine) as batcher:
        assert batcher.running_for_s == 0
        asked_s = time.monotonic()
        tasks = await ask_while_free(engine, batcher, 1)
        running_s = time.monotonic()
        assert 0 < batcher.running_for_s <= time.monotonic() - asked_s
        since_s = time.monotonic() - running_s
        assert since_s <= batcher.running_for_s
        engine.go.release()
        await tasks[0]
        assert batcher.running_for_s == 0


async def test_background_pictures_run_when_no_other_waits_and_a_few_at_a_time() -> None:
    engine = HeldEngine()
    async with batching(engine) as batcher:
        tasks = await ask(batcher, 50, 51, 52, 53, 54, is_background=True)
        await engine.begun()
        tasks += await ask(batcher, 1, 2)
        engine.go.release()
        await engine.begun()
        tasks += await ask(batcher, 3)
        engine.go.release(10)
        assert await asyncio.gather(*tasks) == [50, 51, 52, 53, 54, 1, 2, 3]
        assert engine.batches == [[50, 51], [1, 2], [3], [52, 53], [54]]


async def test_background_batches_are_not_told() -> None:
    engine, told = HeldEngine(), list[int]()
    async with batching(engine, on_batch=lambda pictures, _: told.append(pictures)) as batcher:
        tasks = await ask_while_free(engine, batcher, 1) + await ask(batcher, 50, 51, is_background=True)
        engine.go.release(10)
        await asyncio.gather(*tasks)
    assert told == [1]


async def test_closing_leaves_no_background_picture_waiting() -> None:
    engine = HeldEngine()
    async with batching(engine) as batcher:
        tasks = await ask_while_free(engine, batcher, 1) + await ask(batcher, 50, is_background=True)
        await batcher.close()
        for task in tasks:
            with pytest.raises(NotReady):
                await asyncio.wait_for(task, HANG_S)


async def test_a_second_batch_begins_beside_the_first_and_a_third_waits() -> None:
    engine = HeldEngine()
    async with batching(engine, at_once=2) as batcher:
        tasks = await ask_while_free(engine, batcher, 1)
        tasks += await ask_while_free(engine, batcher, 2)
        tasks += await ask(batcher, 3, 4, 5)
        assert engine.batches == [[1], [2]]
        engine.go.release()
        await engine.begun()
        assert engine.batches == [[1], [2], [3, 4]]
        engine.go.release(10)
        assert await asyncio.gather(*tasks) == [1, 2, 3, 4, 5]


async def test_what_arrives_together_is_divided_among_the_batches_that_run_at_once() -> None:
    engine = HeldEngine()
    async with batching(engine, at_once=2) as batcher:
        tasks = await ask(batcher, 1, 2, 3)
        await engine.begun()
        await engine.begun()
        assert sorted(engine.batches) == [[1, 2], [3]]
        engine.go.release(10)
        assert await asyncio.gather(*tasks) == [1, 2, 3]


async def test_batches_that_run_at_once_share_the_seconds_of_the_engine() -> None:
    engine, told, began_s = HeldEngine(), list[float](), time.monotonic()
    async with batching(engine, at_once=2, on_batch=lambda _, took_s: told.append(took_s)) as batcher:
        tasks = await ask_while_free(engine, batcher, 1)
        tasks += await ask_while_free(engine, batcher, 2)
        both_s = time.monotonic()
        await asyncio.to_thread(time.sleep, 0.1)
        both_s = time.monotonic() - both_s
        engine.go.release(10)
        await asyncio.gather(*tasks)
    assert sum(told) <= time.monotonic() - began_s
    assert min(told) >= both_s / 2


async def test_a_picture_begins_beside_a_background_batch_and_none_of_those_beside_a_picture() -> None:
    engine = HeldEngine()
    async with batching(engine, at_once=2) as batcher:
        tasks = await ask(batcher, 50, 51, 52, 53, is_background=True)
        await engine.begun()
        tasks += await ask_while_free(engine, batcher, 1)
        assert engine.batches == [[50, 51], [1]]
        engine.go.release()  # either of them
        engine.go.release()
        await engine.begun()
        assert engine.batches == [[50, 51], [1], [52, 53]]
        engine.go.release(10)
        assert await asyncio.gather(*tasks) == [50, 51, 52, 53, 1]


async def test_closing_leaves_nobody_waiting_for_one_of_two_batches() -> None:
    engine = HeldEngine()
    async with batching(engine, at_once=2) as batcher:
        tasks = await ask_while_free(engine, batcher, 1)
        tasks += await ask_while_free(engine, batcher, 2)
        await batcher.close()
        for task in tasks:
            with pytest.raises(NotReady):
                await asyncio.wait_for(task, HANG_S)


async def test_a_fault_of_the_batcher_itself_leaves_nobody_waiting() -> None:
    def fail(_pictures: int, _took_s: float) -> None:
        raise ZeroDivisionError

    engine = HeldEngine()
    async with batching(engine, at_once=2, on_batch=fail) as batcher:
        tasks = await ask_while_free(engine, batcher, 1)
        tasks += await ask_while_free(engine, batcher, 2)
        tasks += await ask(batcher, 3)
        engine.go.release(10)
        for task in tasks:
            with pytest.raises(NotReady):
                await asyncio.wait_for(task, HANG_S)
        assert not batcher.is_running
