"""Upload bytes in memory: what is accounted for while threads work on an upload whose client has gone."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

import pytest

from serve_app.classifier.classifier import HASHED_AT_ONCE_BYTES
from serve_app.errors import DeadlineExceeded, Overloaded
from serve_app.uploads import HeldUpload, UploadBudget, free_all, work_for
from tests.counted import Counted
from tests.patience import HANG_S, until
from tests.small_classifier import small_classifier


class Living(bytes):
    """Bytes of which is known how many are in memory."""

    in_memory = 0

    def __new__(cls, size: int) -> Self:
        Living.in_memory += size
        return super().__new__(cls, size)

    def __del__(self) -> None:
        Living.in_memory -= len(self)


@contextmanager
def busy(threads: ThreadPoolExecutor) -> Iterator[None]:
    """Keep all `threads` from beginning anything while the block runs."""
    go_on = threading.Event()
    all_busy = threading.Barrier(threads._max_workers + 1)
    for _ in range(threads._max_workers):
        threads.submit(lambda: (all_busy.wait(HANG_S), go_on.wait(HANG_S)))
    try:
        all_busy.wait(HANG_S)
        yield
    finally:
        go_on.set()


def held_upload(budget: UploadBudget, size: int) -> HeldUpload:
    upload = HeldUpload(budget)
    upload.add(size)
    upload.data = Living(size)
    return upload


@pytest.mark.parametrize(("store", "pool"), [("off", "decode"), ("memory", "hash")])
async def test_uploads_past_their_deadline_leave_memory_before_a_thread_gets_to_them(store: str, pool: str) -> None:
    """Without a cache they wait to be decoded, with one to be hashed."""
    async with small_classifier(Counted(), cache={"store": store}) as classifier:
        with busy(getattr(classifier._pools, pool)):
            for _ in range(3):
                upload = held_upload(classifier.admission.uploads, HASHED_AT_ONCE_BYTES + 1)
                with pytest.raises(DeadlineExceeded):
                    await classifier.classify(upload, deadline_s=0.01)
                upload.free()
            await asyncio.sleep(0)
            left = Living.in_memory
    assert left == 0


@pytest.mark.parametrize("leave", [HeldUpload.free, HeldUpload.hand_over])
async def test_an_upload_counts_until_the_thread_that_has_it_is_done(leave: Callable[[HeldUpload], object]) -> None:
    """Whatever its holder does with it then."""
    budget = UploadBudget(100, 100, lambda _: Overloaded("no memory"))
    upload = held_upload(budget, 100)
    has_begun, go_on = threading.Event(), threading.Event()

    def work(data: bytes) -> int:
        has_begun.set()
        assert go_on.wait(HANG_S)
        return len(data)

    with ThreadPoolExecutor(1) as threads:
        reading = asyncio.create_task(upload.read_in(threads, work))
        await until(has_begun.is_set, "the thread")
        reading.cancel()
        await asyncio.wait([reading])
        leave(upload)
        assert (budget._held_bytes, Living.in_memory) == (100, 100)
        go_on.set()
        await until(lambda: budget._held_bytes == 0, "the end of the work")
    await until(lambda: Living.in_memory == 0, "that the upload is not in memory")


async def test_what_a_thread_was_to_get_leaves_memory_with_who_waited_for_it() -> None:
    """Also where it is no upload's data: a part of a request, say."""
    with ThreadPoolExecutor(1) as threads, busy(threads):
        waiting = asyncio.create_task(work_for([], len, Living(100), threads=threads))
        await asyncio.sleep(0)
        assert Living.in_memory == 100
        waiting.cancel()
        await asyncio.wait([waiting])
        del waiting
        await until(lambda: Living.in_memory == 0, "that it is not in memory")


async def test_all_uploads_of_a_request_count_until_the_thread_that_takes_it_apart_is_done() -> None:
    budget = UploadBudget(100, 100, lambda _: Overloaded("no memory"))
    uploads = [held_upload(budget, 60), held_upload(budget, 40)]
    has_begun, go_on = threading.Event(), threading.Event()

    def work(_: bytes) -> None:
        has_begun.set()
        assert go_on.wait(HANG_S)

    waiting = asyncio.create_task(work_for(uploads, work, b"the request"))
    await until(has_begun.is_set, "the thread")
    waiting.cancel()
    await asyncio.wait([waiting])
    free_all(uploads)
    assert budget._held_bytes == 100
    go_on.set()
    await until(lambda: budget._held_bytes == 0, "the end of the work")


async def test_an_upload_that_was_read_is_still_its_holders() -> None:
    upload = held_upload(UploadBudget(100, 100, lambda _: Overloaded("no memory")), 7)
    with ThreadPoolExecutor(1) as threads:
        assert await upload.read_in(threads, len) == 7
        with pytest.raises(TypeError):
            await upload.read_in(threads, abs)  # type: ignore[arg-type]
    assert len(upload.data) == 7
    upload.free()
    assert Living.in_memory == 0
