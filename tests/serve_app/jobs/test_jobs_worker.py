"""Workers at a real Redis: claims that lapse, results that count once, dead letters, and who comes first."""

import asyncio
import logging
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from serve_app.classifier.api import ClassScore, ModelName, Prediction
from serve_app.classifier.classifier import Classifier
from serve_app.errors import NotReady
from serve_app.jobs.job import FileResult
from serve_app.jobs.outage import Outage
from serve_app.jobs.worker import Worker
from serve_app.redis.connection import connect
from serve_app.redis.job_claims import JobClaims, Work
from serve_app.redis.job_settings import JobSettings
from serve_app.redis.jobs import JobStore, StoredJob, Submission
from tests.conftest import Fitted
from tests.jobs import DEADLINE_S, LEASE_S, CountedJobs, replica
from tests.redis_server import RedisServer
from tests.serve_app.classifier.test_model_api import stages_ms

POISON = b"poison"
Classify = Callable[[bytes, int], Awaitable[Prediction]]


async def say_what_it_is(picture: bytes, _top_k: int) -> Prediction:
    """A classifier without an engine: the label of a picture is its text."""
    await asyncio.sleep(0)
    label = picture.decode()
    model = ModelName(name="none", engine="tensorflow", precision="float32", weights="none")
    score = ClassScore(label=label, class_id=0, score=1)
    return Prediction(prediction=label, score=1, predictions=[score], model=model, image_sha256="", cached=False)


class Queue:
    """One queue of its own, and workers at it."""

    def __init__(self, url: str, **jobs: object) -> None:
        self.url = url
        self.settings = JobSettings.model_validate({"queue": uuid.uuid4().hex, "lease_s": LEASE_S, **jobs})
        self.store = JobStore(url, self.settings)
        self.counted = CountedJobs()
        self._made: list[JobClaims] = []

    def claims(self) -> JobClaims:
        made = JobClaims(self.url, self.settings)
        self._made.append(made)
        return made

    async def close(self) -> None:
        for made in self._made:
            await made.close()
        await self.store.close()

    async def submit(self, *pictures: bytes) -> str:
        files = [(f"{index}.jpg", picture) for index, picture in enumerate(pictures)]
        return (await self.store.submit(Submission(files, 5, "content"), "")).id

    async def look(self, job: str) -> StoredJob:
        found = await self.store.find(job)
        assert found is not None
        return found

    async def ended(self, job: str) -> StoredJob:
        deadline = time.monotonic() + DEADLINE_S
        while not (found := await self.look(job)).has_ended:
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)
        return found

    @asynccontextmanager
    async def worker(self, classify: Classify = say_what_it_is, *, at_a_time: int = 4) -> AsyncIterator[Worker]:
        claims = self.claims()
        await claims.open()
        outage = Outage()
        worker = Worker(
            claims, classify, lambda: True, outage, self.counted, at_a_time=at_a_time, lease_s=self.settings.lease_s
        )
        worker.start()
        try:
            yield worker
        finally:
            await worker.close()

    async def take_and_fall_silent(self, count: int = 1) -> tuple[JobClaims, list[Work]]:
        """Begin with pictures as a worker does that dies then."""
        claims = self.claims()
        await claims.open()
        taken = [await claims.begin(entry) for entry in await claims.read(count)]
        assert all(isinstance(work, Work) for work in taken)
        return claims, [work for work in taken if isinstance(work, Work)]


def labels(job: StoredJob) -> list[str | None]:
    found = [FileResult.model_validate_json(result) for result in job.results]
    return [result.prediction.prediction if result.prediction else None for result in found]


@pytest.fixture
async def queue(redis_server: RedisServer) -> AsyncIterator[Queue]:
    opened = Queue(redis_server.url)
    yield opened
    await opened.close()


async def test_a_silent_workers_picture_is_taken_over(queue: Queue) -> None:
    job = await queue.submit(b"cat", b"dog")
    await queue.take_and_fall_silent()
    began = time.monotonic()
    async with queue.worker():
        ended = await queue.ended(job)
    assert time.monotonic() - began < LEASE_S + 2.5
    assert (ended.state, labels(ended), ended.attempts) == ("done", ["cat", "dog"], 2)
    assert queue.counted.ended == ["done"]


async def test_the_first_result_counts_whoever_brings_it(queue: Queue) -> None:
    job = await queue.submit(b"cat", b"dog")
    slow, [cat, dog] = await queue.take_and_fall_silent(2)
    await slow.finish(cat, FileResult(name="first", index=0).model_dump_json(), None)
    async with queue.worker():
        assert (await queue.ended(job)).state == "done"
    assert await slow.finish(dog, FileResult(name="late", index=1).model_dump_json(), ("x", "y")) == ""
    assert await slow.finish(cat, FileResult(name="again", index=0).model_dump_json(), None) == ""
    ended = await queue.look(job)
    assert [FileResult.model_validate_json(result).name for result in ended.results] == ["first", "1.jpg"]
    assert (ended.files_done, ended.state) == (2, "done")
    assert (await queue.store.counts()).bytes == 0


async def test_who_renews_its_claims_keeps_them(queue: Queue) -> None:
    await queue.submit(b"cat", b"dog")
    claims, [cat, dog] = await queue.take_and_fall_silent(2)
    other = queue.claims()
    for _ in range(4):
        await asyncio.sleep(LEASE_S / 2)
        assert await claims.renew([cat.entry]) == []
    assert await other.reclaim() == dog.entry
    assert await other.reclaim() is None
    assert await claims.renew([cat.entry, dog.entry]) == [dog.entry]


async def test_a_picture_that_no_worker_survives_becomes_a_dead_letter(redis_server: RedisServer) -> None:
    queue = Queue(redis_server.url, max_attempts=2, lease_s=0.5)
    job = await queue.submit(POISON)
    await queue.take_and_fall_silent()
    await asyncio.sleep(0.55)
    second = queue.claims()
    entry = await second.reclaim()
    assert entry is not None
    assert isinstance(await second.begin(entry), Work)
    async with queue.worker():
        ended = await queue.ended(job)
    assert (ended.state, ended.attempts, ended.files_done) == ("failed", 2, 1)
    assert ended.error is not None
    assert ended.error[0] == "poison"
    assert "after 2 attempts" in ended.error[1]
    [result] = [FileResult.model_validate_json(result) for result in ended.results]
    assert (result.name, result.index) == ("0.jpg", 0)
    assert result.error is not None
    assert result.error.code == "poison"
    assert (queue.counted.dead_letters, queue.counted.ended) == (1, ["failed"])
    redis = connect(redis_server.url, 3)
    prefix = f"serve-app:{{jobs:{queue.settings.queue}}}:"
    letters: Any = await redis.xrange(f"{prefix}dead")
    [(_, letter)] = letters
    assert (letter[b"job"].decode(), letter[b"name"], letter[b"attempts"]) == (job, b"0.jpg", b"2")
    assert await redis.get(letter[b"picture"]) == POISON
    assert await redis.ttl(letter[b"picture"]) > 3000
    await redis.aclose()
    await queue.close()


async def test_a_poison_picture_among_others_fails_alone_and_its_reason_is_told(queue: Queue) -> None:
    async def choke(picture: bytes, top_k: int) -> Prediction:
        if picture == POISON:
            raise FloatingPointError("the engine chokes")
        return await say_what_it_is(picture, top_k)

    job = await queue.submit(b"cat", POISON, b"dog")
    async with queue.worker(choke):
        ended = await queue.ended(job)
    assert (ended.state, labels(ended), ended.attempts) == ("done", ["cat", None, "dog"], 3)
    error = FileResult.model_validate_json(ended.results[1]).error
    assert error is not None
    assert error.code == "poison"
    assert "after 3 attempts; the last one: FloatingPointError" in error.detail


async def test_a_replica_that_is_not_ready_costs_no_attempt(queue: Queue) -> None:
    asked = 0

    async def warm_up(picture: bytes, top_k: int) -> Prediction:
        nonlocal asked
        asked += 1
        if asked < 6:
            raise NotReady("not yet")
        return await say_what_it_is(picture, top_k)

    job = await queue.submit(b"cat")
    async with queue.worker(warm_up):
        ended = await queue.ended(job)
    assert (ended.state, ended.attempts) == ("done", 1)


async def test_a_batch_loop_that_ends_costs_no_attempt(queue: Queue) -> None:
    """Then the batcher cancels whoever waits, which must not be taken for a cancellation of the work."""
    futures: list[asyncio.Future[Prediction]] = []

    async def break_once(picture: bytes, top_k: int) -> Prediction:
        if not futures:
            futures.append(asyncio.get_running_loop().create_future())
            futures[0].cancel()
            return await futures[0]
        return await say_what_it_is(picture, top_k)

    job = await queue.submit(b"cat")
    async with queue.worker(break_once):
        ended = await queue.ended(job)
    assert (ended.state, ended.attempts) == ("done", 1)


async def test_a_worker_that_stops_gives_its_pictures_back_at_once(redis_server: RedisServer) -> None:
    queue = Queue(redis_server.url, lease_s=60)
    begun = asyncio.Event()

    async def never(_picture: bytes, _top_k: int) -> Prediction:
        begun.set()
        await asyncio.sleep(60)
        raise AssertionError

    job = await queue.submit(b"cat")
    async with queue.worker(never):
        await asyncio.wait_for(begun.wait(), 5)
    other = queue.claims()
    entry = await other.reclaim()
    assert entry is not None
    work = await other.begin(entry)
    assert isinstance(work, Work)
    assert (work.job, work.picture) == (job, b"cat")
    assert (await queue.look(job)).attempts == 1
    await queue.close()


async def test_what_was_taken_over_runs_alone(queue: Queue) -> None:
    running: set[bytes] = set()
    beside: dict[bytes, int] = {}

    async def note(picture: bytes, top_k: int) -> Prediction:
        running.add(picture)
        beside[picture] = len(running)
        await asyncio.sleep(0.1)
        beside[picture] = max(beside[picture], len(running))
        running.discard(picture)
        return await say_what_it_is(picture, top_k)

    jobs = [await queue.submit(f"suspect {index}".encode()) for index in range(3)]
    await queue.take_and_fall_silent(3)
    jobs += [await queue.submit(f"other {index}".encode()) for index in range(12)]
    async with queue.worker(note):
        for job in jobs:
            assert (await queue.ended(job)).state == "done"
    assert {beside[picture] for picture in beside if picture.startswith(b"suspect")} == {1}
    assert max(beside.values()) == 4


async def test_a_cancelled_jobs_picture_is_let_go(queue: Queue) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def wait(_picture: bytes, _top_k: int) -> Prediction:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            let_go.set()
        raise AssertionError

    job = await queue.submit(b"cat")
    async with queue.worker(wait):
        await asyncio.wait_for(begun.wait(), 5)
        assert await queue.store.cancel(job) is None
        await asyncio.wait_for(let_go.wait(), 3)
    assert (await queue.look(job)).state == "cancelled"


async def test_several_workers_do_each_picture_once(queue: Queue) -> None:
    seen: list[bytes] = []

    async def note(picture: bytes, top_k: int) -> Prediction:
        seen.append(picture)
        return await say_what_it_is(picture, top_k)

    jobs = [await queue.submit(*(f"{job}-{index}".encode() for index in range(3))) for job in range(30)]
    async with queue.worker(note), queue.worker(note), queue.worker(note):
        for number, job in enumerate(jobs):
            assert labels(await queue.ended(job)) == [f"{number}-{index}" for index in range(3)]
    assert len(seen) == len(set(seen)) == 90
    assert sorted(queue.counted.ended) == ["done"] * 30


async def test_predictions_come_first_and_jobs_do_not_count_for_them(
    classifier: Classifier, model_client: httpx.AsyncClient, redis_server: RedisServer, fitted: Fitted
) -> None:
    data = fitted.pictures["thing 7"]

    async def queued_ms() -> float:
        found = []
        for _ in range(8):
            response = await model_client.post("/predict", content=data)
            assert response.json()["prediction"] == "thing 7"
            found.append(stages_ms(response)["queue"])
            assert classifier.admission.wait_s == 0
        return statistics.median(found)

    idle_ms = await queued_ms()
    inference_ms = stages_ms(await model_client.post("/predict", content=data))["inference"]
    async with replica(classifier, redis_server.url) as desk:
        job = await desk.accepted(*[data] * 60)
        await desk.once(job, "running")
        busy_ms = await queued_ms()
        found = await desk.look(job)
        assert found["state"] == "running"
        # At most one batch of two lies before a prediction.
        assert busy_ms < idle_ms + 4 * inference_ms
        assert (await desk.ended(job))["state"] == "done"


async def test_what_may_cost_jobs_is_said_at_the_start(
    classifier: Classifier, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis = connect(own_redis.url, 3)
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    await redis.aclose()
    with caplog.at_level(logging.WARNING, "serve_app.jobs"):
        async with replica(classifier, own_redis.url):
            await asyncio.sleep(0.2)
    assert "volatile-lru or noeviction, not allkeys-lru" in caplog.text
    assert "set appendonly to yes" in caplog.text


async def test_the_queue_is_counted(classifier: Classifier, redis_server: RedisServer, fitted: Fitted) -> None:
    with classifier.admission.place():
        async with replica(classifier, redis_server.url) as desk:
            await desk.accepted(fitted.pictures["thing 7"])
            await desk.accepted(fitted.pictures["thing 7"])
            await asyncio.sleep(0.3)
            await desk.jobs._count()
            waiting, running, oldest_s = desk.counted.queue[-1]
            assert (waiting, running, desk.counted.submitted) == (2, 0, 2)
            assert 0.25 < oldest_s < 5


@pytest.mark.parametrize("apart_s", [0.15, 0.33])
async def test_a_living_worker_keeps_its_picture_however_short_the_lease(
    redis_server: RedisServer, apart_s: float
) -> None:
    async def take_time(picture: bytes, top_k: int) -> Prediction:
        await asyncio.sleep(4 * LEASE_S)
        return await say_what_it_is(picture, top_k)

    queue = Queue(redis_server.url)
    job = await queue.submit(b"cat", b"dog")
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(queue.worker(take_time))
            await asyncio.sleep(apart_s)
        ended = await queue.ended(job)
    assert (ended.state, ended.attempts) == ("done", 1)
    await queue.close()
