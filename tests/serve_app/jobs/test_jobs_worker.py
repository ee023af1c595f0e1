"""Workers at a real Redis: claims that lapse, results that count once, dead letters, and who comes first."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import pytest
from redis.asyncio import Redis

from serve_app.classifier.answer import ClassScore, ModelName, Prediction
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.job_settings import JobSettings
from serve_app.errors import NotReady
from serve_app.jobs.job import FileResult
from serve_app.jobs.outage import Outage
from serve_app.jobs.queue.claims import DeadLetter, JobClaims, Work
from serve_app.jobs.queue.scripts import GROUP
from serve_app.jobs.queue.submit import JobStore, StoredJob, Submission
from serve_app.jobs.queue.timing import JobTiming
from serve_app.jobs.worker import CheckIdle, Worker
from serve_app.metrics import JOBS_DEAD_LETTERS, JOBS_OLDEST_S, JOBS_QUEUED, JOBS_RUNNING, JOBS_SUBMITTED
from serve_app.redis.connection import connect
from serve_app.redis.keys import jobs_of
from tests.conftest import Fitted
from tests.counted import Counted
from tests.gate import gate_before
from tests.jobs import LEASE_S, replica
from tests.patience import HANG_S, PATIENT_JOBS, until
from tests.redis_server import RedisServer

POISON = b"poison"
SHORT_LEASE_S = 0.5
LONG_SILENT_MS = 3_600_000
Classify = Callable[[bytes, int], Awaitable[Prediction]]


async def say_what_it_is(picture: bytes, _top_k: int) -> Prediction:
    """A classifier without an engine: the label of a picture is its text."""
    await asyncio.sleep(0)
    label = picture.decode()
    model = ModelName(name="none", engine="tensorflow", precision="float32", weights="none")
    score = ClassScore(label=label, class_id=0, score=1)
    return Prediction(prediction=label, score=1, predictions=[score], model=model, image_sha256="", cached=False)


def is_always_idle() -> bool:
    return True


async def fall_silent(redis: Redis, claims: JobClaims, entry: str) -> None:
    """Make Redis see no sign of life about an entry for longer than any lease, from whoever of `claims` holds it."""
    found: Any = await redis.xpending_range(claims._stream, GROUP, entry, entry, 1)
    holder = found[0]["consumer"].decode()
    assert holder.startswith(claims._worker)
    await redis.xclaim(claims._stream, GROUP, holder, 0, [entry], idle=LONG_SILENT_MS, justid=True)


class Queue:
    """One queue of its own, and workers at it."""

    def __init__(self, url: str, timing: JobTiming = PATIENT_JOBS, **jobs: object) -> None:
        self.url = url
        self.timing = timing
        self.settings = JobSettings.model_validate({"queue": uuid.uuid4().hex, "lease_s": LEASE_S, **jobs})
        self.store = JobStore(url, self.settings, timing)
        self.counted = Counted()
        self._made: list[JobClaims] = []

    def claims(self) -> JobClaims:
        made = JobClaims(self.url, self.settings, self.timing)
        self._made.append(made)
        return made

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
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
        async def has_ended() -> bool:
            return (await self.look(job)).state.has_ended

        await until(has_ended, f"the end of job {job}")
        return await self.look(job)

    async def counted_ends(self, *states: str) -> None:
        """Return once the workers have counted exactly these ends, which they do after telling them to Redis."""
        await until(lambda: self.counted.ended_jobs == sorted(states), f"the count of {states}")

    @asynccontextmanager
    async def worker(
        self, classify: Classify = say_what_it_is, is_idle: CheckIdle = is_always_idle
    ) -> AsyncIterator[Worker]:
        claims = self.claims()
        await claims.open()
        lease_s = self.settings.lease_s
        worker = Worker(
            claims, classify, is_idle, Outage(), self.counted, at_a_time=4, lease_s=lease_s, timing=self.timing
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

    async def let_lapse(self, claims: JobClaims, *taken: Work) -> None:
        """Make Redis see no sign of life about these pictures for longer than any lease."""
        async with connect(self.url, HANG_S) as redis:
            for work in taken:
                await fall_silent(redis, claims, work.entry)


def labels(job: StoredJob) -> list[str | None]:
    found = [FileResult.model_validate_json(result) for result in job.results]
    return [result.prediction.prediction if result.prediction else None for result in found]


@pytest.fixture
async def queue(redis_server: RedisServer) -> AsyncIterator[Queue]:
    async with Queue(redis_server.url) as opened:
        yield opened


async def test_a_silent_workers_picture_is_taken_over_when_its_lease_is_over(redis_server: RedisServer) -> None:
    async with Queue(redis_server.url, lease_s=SHORT_LEASE_S) as queue:
        job = await queue.submit(b"cat", b"dog")
        began = time.monotonic()
        await queue.take_and_fall_silent()
        async with queue.worker():
            ended = await queue.ended(job)
            assert time.monotonic() - began >= SHORT_LEASE_S
            await queue.counted_ends("done")
        assert (ended.state, labels(ended), ended.attempts) == ("done", ["cat", "dog"], 2)


async def test_the_first_result_counts_whoever_brings_it(queue: Queue) -> None:
    job = await queue.submit(b"cat", b"dog")
    slow, [cat, dog] = await queue.take_and_fall_silent(2)
    await slow.finish(cat, FileResult(name="first", index=0).model_dump_json(), None)
    await queue.let_lapse(slow, dog)
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
    assert await other.reclaim() is None
    await queue.let_lapse(claims, cat, dog)
    assert await claims.renew([cat.entry]) == []
    assert await other.reclaim() == dog.entry
    assert await other.reclaim() is None
    assert await claims.renew([cat.entry, dog.entry]) == [dog.entry]


async def test_a_picture_that_no_worker_survives_becomes_a_dead_letter(redis_server: RedisServer) -> None:
    async with Queue(redis_server.url, max_attempts=2) as queue:
        job = await queue.submit(POISON)
        first, [work] = await queue.take_and_fall_silent()
        await queue.let_lapse(first, work)
        second = queue.claims()
        assert await second.reclaim() == work.entry
        assert isinstance(await second.begin(work.entry), Work)
        await queue.let_lapse(second, work)
        async with queue.worker():
            ended = await queue.ended(job)
            await queue.counted_ends("failed")
        assert (ended.state, ended.attempts, ended.files_done) == ("failed", 2, 1)
        assert ended.error is not None
        assert ended.error[0] == "poison"
        assert "after 2 attempts" in ended.error[1]
        [result] = [FileResult.model_validate_json(result) for result in ended.results]
        assert (result.name, result.index) == ("0.jpg", 0)
        assert result.error is not None
        assert result.error.code == "poison"
        assert queue.counted.of(JOBS_DEAD_LETTERS)[""] == 1
        redis = connect(redis_server.url, HANG_S)
        prefix = jobs_of(queue.settings.queue)
        letters: Any = await redis.xrange(f"{prefix}dead")
        [(_, letter)] = letters
        assert (letter[b"job"].decode(), letter[b"name"], letter[b"attempts"]) == (job, b"0.jpg", b"2")
        assert await redis.get(letter[b"picture"]) == POISON
        assert 3600 - HANG_S < await redis.ttl(letter[b"picture"]) <= 3600
        await redis.aclose()


async def test_a_picture_whose_entry_is_lost_on_its_way_from_redis_costs_no_attempt(redis_server: RedisServer) -> None:
    async with Queue(redis_server.url, max_attempts=2) as queue, connect(redis_server.url, HANG_S) as redis:
        job = await queue.submit(b"cat")
        claims = queue.claims()
        await claims.open()
        [entry] = await claims.read(1)
        for _ in range(3):
            await fall_silent(redis, claims, entry)
            claims = queue.claims()
            assert await claims.reclaim() == entry
        for _ in range(2):  # the answer to the first one is lost, and the same worker asks again
            assert isinstance(await claims.begin(entry), Work)
        assert (await queue.look(job)).attempts == 1
        await fall_silent(redis, claims, entry)
        other = queue.claims()
        assert await other.reclaim() == entry
        assert isinstance(await other.begin(entry), Work)
        assert (await queue.look(job)).attempts == 2
        await fall_silent(redis, other, entry)
        assert await claims.reclaim() == entry
        assert isinstance(await claims.begin(entry), DeadLetter)


async def test_a_poison_picture_among_others_fails_alone_and_its_reason_is_told(redis_server: RedisServer) -> None:
    async with Queue(redis_server.url, lease_s=SHORT_LEASE_S) as queue:

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


async def test_a_picture_that_was_given_back_is_free_though_its_worker_renews_it_in_that_moment(queue: Queue) -> None:
    await queue.submit(b"cat")
    claims, [work] = await queue.take_and_fall_silent()
    await claims.give_back(work.entry)
    assert await claims.renew([work.entry]) == []
    assert await queue.claims().reclaim() == work.entry


async def test_a_worker_that_stops_gives_its_pictures_back_at_once(queue: Queue) -> None:
    begun = asyncio.Event()

    async def never(_picture: bytes, _top_k: int) -> Prediction:
        begun.set()
        return await asyncio.Future()

    job = await queue.submit(b"cat")
    async with queue.worker(never):
        await asyncio.wait_for(begun.wait(), HANG_S)
    other = queue.claims()
    entry = await other.reclaim()
    assert entry is not None
    work = await other.begin(entry)
    assert isinstance(work, Work)
    assert (work.job, work.picture) == (job, b"cat")
    assert (await queue.look(job)).attempts == 1


async def test_what_was_taken_over_runs_alone(queue: Queue) -> None:
    running: set[bytes] = set()
    beside: dict[bytes, int] = {}
    full = asyncio.Event()

    async def note(picture: bytes, top_k: int) -> Prediction:
        running.add(picture)
        if len(running) == 4:
            full.set()
        if picture.startswith(b"other"):
            await full.wait()
        for _ in range(20):  # questions to Redis: a worker that began with another picture would need two
            beside[picture] = max(beside.get(picture, 0), len(running))
            await queue.store.counts()
        running.discard(picture)
        return await say_what_it_is(picture, top_k)

    jobs = [await queue.submit(f"suspect {index}".encode()) for index in range(3)]
    silent, taken = await queue.take_and_fall_silent(3)
    await queue.let_lapse(silent, *taken)
    jobs += [await queue.submit(f"other {index}".encode()) for index in range(12)]
    async with queue.worker(note):
        for job in jobs:
            assert (await queue.ended(job)).state == "done"
    assert {picture: count for picture, count in beside.items() if picture.startswith(b"suspect")} == {
        b"suspect 0": 1,
        b"suspect 1": 1,
        b"suspect 2": 1,
    }
    assert max(beside.values()) == 4


async def test_no_picture_of_a_job_begins_while_a_client_waits(queue: Queue) -> None:
    asked, is_idle = 0, False

    def tell_idle() -> bool:
        nonlocal asked
        asked += 1
        return is_idle

    job = await queue.submit(b"cat")
    async with queue.worker(is_idle=tell_idle):
        await until(lambda: asked > 3, "questions whether a client waits")
        assert (await queue.look(job)).state == "queued"
        is_idle = True
        assert (await queue.ended(job)).state == "done"


async def test_a_cancelled_jobs_picture_is_let_go(queue: Queue) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def wait(_picture: bytes, _top_k: int) -> Prediction:
        begun.set()
        try:
            return await asyncio.Future()
        finally:
            let_go.set()

    job = await queue.submit(b"cat")
    async with queue.worker(wait):
        await asyncio.wait_for(begun.wait(), HANG_S)
        assert await queue.store.cancel(job) is None
        await asyncio.wait_for(let_go.wait(), HANG_S)
    assert (await queue.look(job)).state == "cancelled"


async def test_several_workers_do_each_picture_once_and_count_each_end(redis_server: RedisServer) -> None:
    """They renew their claims all the time, also in the moment in which a picture and its claim come to an end."""
    async with Queue(redis_server.url, replace(PATIENT_JOBS, renew_s=0.001)) as queue:
        seen: list[bytes] = []

        async def note(picture: bytes, top_k: int) -> Prediction:
            seen.append(picture)
            return await say_what_it_is(picture, top_k)

        jobs = [await queue.submit(*(f"{job}-{index}".encode() for index in range(3))) for job in range(30)]
        async with queue.worker(note), queue.worker(note), queue.worker(note):
            for number, job in enumerate(jobs):
                assert labels(await queue.ended(job)) == [f"{number}-{index}" for index in range(3)]
            await queue.counted_ends(*["done"] * 30)
        assert len(seen) == len(set(seen)) == 90


async def test_a_prediction_comes_before_all_pictures_of_jobs_and_these_do_not_count_for_it(
    classifier: Classifier, redis_server: RedisServer, fitted: Fitted
) -> None:
    data = fitted.pictures["thing 7"]
    batcher = classifier._batcher
    with gate_before(classifier) as gate:
        async with replica(classifier, redis_server.url) as desk:
            gate.shut()
            job = await desk.accepted(*[fitted.pictures["thing 433"]] * 6)
            await until(lambda: sum(gate.batches) + len(batcher._background) == 4, "all that a worker takes at a time")
            assert classifier.admission.wait_s == 0
            predicted = asyncio.create_task(desk.http.post("/predict", content=data))
            await until(lambda: len(gate.batches) == 2, "the prediction in the engine, beside the job's pictures")
            assert (await desk.look(job))["state"] == "running"
            gate.release()
            assert (await predicted).json()["prediction"] == "thing 7"
            assert (await desk.ended(job))["state"] == "done"
    assert sum(gate.batches) == 7
    assert gate.batches[0] <= 2  # of the job, in the engine already
    assert gate.batches[1] == 1  # the client's, though two and more of the job were there before, and waited


async def test_what_may_cost_jobs_is_said_at_the_start(
    classifier: Classifier, own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis = connect(own_redis.url, HANG_S)
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    await redis.aclose()
    with caplog.at_level(logging.WARNING, "serve_app"):
        async with replica(classifier, own_redis.url):
            await until(lambda: len(caplog.records) == 2, "two warnings")
    assert "volatile-lru or noeviction, not allkeys-lru" in caplog.text
    assert "set appendonly to yes" in caplog.text


async def test_the_queue_is_counted(classifier: Classifier, redis_server: RedisServer, fitted: Fitted) -> None:
    with classifier.admission.place():
        async with replica(classifier, redis_server.url) as desk:
            began = time.monotonic()
            await desk.accepted(fitted.pictures["thing 7"])
            await desk.accepted(fitted.pictures["thing 7"])

            async def has_aged() -> bool:
                await desk.jobs._count()
                return desk.counted.told(JOBS_OLDEST_S)[-1] >= 0.05

            await until(has_aged, "the age of the oldest job")
            waiting, running, oldest_s = (
                desk.counted.told(of)[-1] for of in (JOBS_QUEUED, JOBS_RUNNING, JOBS_OLDEST_S)
            )
            assert (waiting, running, desk.counted.of(JOBS_SUBMITTED)[""]) == (2, 0, 2)
            assert oldest_s < time.monotonic() - began + 1  # by the clock of Redis, which is another


async def test_a_living_worker_renews_its_claims_in_a_fifth_of_the_lease(redis_server: RedisServer) -> None:
    """However short the lease: here nothing else makes it renew for as long as this test may take."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def take_time(picture: bytes, top_k: int) -> Prediction:
        begun.set()
        await go_on.wait()
        return await say_what_it_is(picture, top_k)

    async with Queue(redis_server.url, replace(PATIENT_JOBS, renew_s=10 * HANG_S), lease_s=SHORT_LEASE_S) as queue:
        job = await queue.submit(b"cat")
        async with queue.worker(take_time) as worker, connect(queue.url, HANG_S) as redis:
            await asyncio.wait_for(begun.wait(), HANG_S)
            claims, [entry] = worker._claims, worker._running

            async def is_renewed() -> bool:
                [claim] = await redis.xpending_range(claims._stream, GROUP, "-", "+", 1)
                return int(claim["time_since_delivered"]) < LONG_SILENT_MS

            for _ in range(3):
                await fall_silent(redis, claims, entry)
                await until(is_renewed, "the renewal of the claim")
            go_on.set()
            ended = await queue.ended(job)
        assert (ended.state, ended.attempts) == ("done", 1)
