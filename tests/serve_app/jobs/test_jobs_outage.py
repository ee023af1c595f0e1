"""Redis is killed, restarted, frozen, full or empty: clients learn it at once, and jobs go on by themselves."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.classifier.classifier import Classifier
from serve_app.errors import JobsUnavailable
from serve_app.jobs.queue.calls import JobCalls
from serve_app.jobs.queue.claims import JobClaims
from serve_app.jobs.queue.timing import SHIPPED
from serve_app.redis.connection import connect
from tests.conftest import Fitted
from tests.gate import gate_before
from tests.jobs import Desk, replica
from tests.patience import HANG_S, until
from tests.redis_server import RedisServer, running_redis
from tests.serve_app.classifier.test_model_api import assert_error

LOST, BACK = "jobs stand still", "jobs go on"
SHORT_LEASE_S = 0.5


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a Redis that has on disk what it has acknowledged."""
    with running_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


class Waits:
    """Counts how often requests wait for Redis, apart from what else a replica asks it at the same time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_counted, self._count, call = ContextVar("is_counted", default=False), 0, JobCalls.call

        async def count(calls: JobCalls, make: Callable[[Any], Awaitable[Any]]) -> Any:
            self._count += self._is_counted.get()
            return await call(calls, make)

        monkeypatch.setattr(JobCalls, "call", count)

    async def count(self, request: Callable[[], Awaitable[httpx.Response]]) -> tuple[httpx.Response, int]:
        """Return the answer to `request`, and how often it waited."""
        self._count = 0
        token = self._is_counted.set(True)
        try:
            return await request(), self._count
        finally:
            self._is_counted.reset(token)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


async def expect_quick_503s(desk: Desk, waits: Waits, job: str, data: bytes) -> None:
    """Fail unless each request is told, after one wait for Redis, that it is away."""
    requests: list[Callable[[], Awaitable[httpx.Response]]] = [
        lambda: desk.http.get(f"/jobs/{job}"),
        lambda: desk.http.get(f"/jobs/{job}?wait=10"),
        lambda: desk.submit(data),
        lambda: desk.submit(data, key="key"),
        lambda: desk.http.delete(f"/jobs/{job}"),
    ]
    for request in requests:
        answer, waited = await waits.count(request)
        assert waited == 1
        assert_error(answer, 503, "jobs_unavailable", "Redis", "try again later")
        assert answer.headers["retry-after"] == "2"


def test_one_wait_for_redis_is_less_than_a_second() -> None:
    assert SHIPPED.client_s < 1


def assert_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Fail unless there is a line at each loss of Redis, one at each return, and no other between them."""
    found = [what for record in caplog.records for what in (LOST, BACK) if what in record.getMessage()]
    assert found
    assert found == [LOST, BACK] * (len(found) // 2)


async def test_jobs_outlive_a_killed_redis_and_each_picture_counts_once(
    classifier: Classifier, durable_redis: RedisServer, fitted: Fitted, caplog: pytest.LogCaptureFixture, waits: Waits
) -> None:
    labels, pictures = list(fitted.pictures), [*fitted.pictures.values()]
    with caplog.at_level(logging.WARNING, "serve_app"):
        async with replica(classifier, durable_redis.url, lease_s=SHORT_LEASE_S) as desk:
            job = await desk.accepted(*pictures * 2)
            other = await desk.accepted(*pictures)

            async def is_under_way() -> bool:
                return bool((await desk.look(job))["files_done"])

            await until(is_under_way, "the first result")
            durable_redis.kill()
            await expect_quick_503s(desk, waits, job, pictures[0])
            predicted = await desk.http.post("/predict", content=pictures[0])
            assert predicted.json()["prediction"] == labels[0]
            await until(lambda: LOST in caplog.text, "the loss in the log")
            await asyncio.to_thread(durable_redis.start)
            ended = await desk.ended(job)
            assert [result["prediction"]["prediction"] for result in ended["results"]] == labels * 2
            assert (ended["state"], ended["files_done"]) == ("done", 16)
            assert (await desk.ended(other))["state"] == "done"
            await until(lambda: BACK in caplog.text, "the return in the log")
    assert_told_once(caplog)


async def test_a_frozen_redis_is_a_quick_503_and_what_ran_goes_on(
    classifier: Classifier, own_redis: RedisServer, fitted: Fitted, caplog: pytest.LogCaptureFixture, waits: Waits
) -> None:
    pictures = [*fitted.pictures.values()][:4]  # as many as a worker takes at a time: it asks for no more
    with gate_before(classifier) as gate, caplog.at_level(logging.WARNING, "serve_app"):
        async with replica(classifier, own_redis.url, lease_s=SHORT_LEASE_S) as desk:
            gate.shut()
            job = await desk.accepted(*pictures)
            in_queue = classifier._batcher._background
            await until(lambda: sum(gate.batches) + len(in_queue) == 4, "all pictures at work")
            waiter = asyncio.create_task(desk.ended(job))
            desk.wait_for_redis(0.2)
            own_redis.freeze()
            try:
                await expect_quick_503s(desk, waits, job, pictures[0])
                await until(lambda: LOST in caplog.text, "the loss in the log")
            finally:
                desk.wait_for_redis(HANG_S)
                own_redis.thaw()
            await until(lambda: BACK in caplog.text, "the return in the log")
            gate.release()
            ended = await waiter
            assert (ended["state"], ended["attempts"]) == ("done", 1)
    assert_told_once(caplog)


async def test_a_replica_starts_without_redis_and_takes_jobs_once_it_is_there(
    classifier: Classifier, own_redis: RedisServer, fitted: Fitted, waits: Waits
) -> None:
    data = fitted.pictures["thing 7"]
    own_redis.stop()
    async with replica(classifier, own_redis.url) as desk:
        await expect_quick_503s(desk, waits, "x" * 22, data)
        await asyncio.to_thread(own_redis.start)
        assert (await desk.ended(await desk.accepted(data)))["state"] == "done"


async def test_a_worker_without_pictures_tells_one_loss_and_no_return_while_redis_is_away(
    classifier: Classifier,
    own_redis: RedisServer,
    fitted: Fitted,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried, renew = [], JobClaims.renew

    async def count(claims: JobClaims, entries: list[str]) -> list[str]:
        tried.append(entries)
        return await renew(claims, entries)

    with caplog.at_level(logging.WARNING, "serve_app"):
        async with replica(classifier, own_redis.url, lease_s=SHORT_LEASE_S) as desk:
            await desk.ended(await desk.accepted(fitted.pictures["thing 7"]))
            own_redis.stop()
            await until(lambda: LOST in caplog.text, "the loss in the log")
            monkeypatch.setattr(JobClaims, "renew", count)
            await until(lambda: len(tried) >= 3, "heartbeats of an idle worker")
            assert caplog.text.count(LOST) == 1
            assert BACK not in caplog.text
            await asyncio.to_thread(own_redis.start)
            await until(lambda: BACK in caplog.text, "the return in the log")
    assert tried == [[]] * len(tried)


async def test_a_command_that_redis_refuses_is_told_in_the_log_once(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis = connect(own_redis.url, HANG_S)
    await redis.acl_setuser("default", commands=["-persist"], enabled=True, reset=False)
    calls = JobCalls(own_redis.url, "default", HANG_S)
    for _ in range(2):
        with pytest.raises(JobsUnavailable, match="its operator finds why in the log"):
            await calls.call(lambda client: client.persist("key"))
    assert caplog.text.count("Redis refused a command of the jobs: its user may not do this") == 1
    await calls.close()
    await redis.aclose()


async def test_a_redis_that_lost_everything_gets_new_jobs_done(
    classifier: Classifier, own_redis: RedisServer, fitted: Fitted
) -> None:
    data = fitted.pictures["thing 7"]
    async with replica(classifier, own_redis.url) as desk:
        old = await desk.accepted(data)
        await desk.ended(old)
        own_redis.kill()
        await asyncio.to_thread(own_redis.start)
        new = await desk.accepted(data)
        assert_error(await desk.http.get(f"/jobs/{old}"), 404, "not_found")
        assert (await desk.ended(new))["state"] == "done"


async def test_a_full_redis_takes_no_more_jobs_and_works_off_those_it_has(
    classifier: Classifier, own_redis: RedisServer, fitted: Fitted
) -> None:
    pictures = [*fitted.pictures.values()]
    redis = connect(own_redis.url, HANG_S)
    async with replica(classifier, own_redis.url) as desk:
        with classifier.admission.place():
            jobs = [await desk.accepted(*pictures[:2]) for _ in range(3)]
            await redis.config_set("maxmemory", "1")
            assert_error(await desk.submit(pictures[0]), 503, "overloaded", "no memory left")
            assert (await desk.http.delete(f"/jobs/{jobs[2]}")).json()["state"] == "cancelled"
        assert {(await desk.ended(job))["state"] for job in jobs[:2]} == {"done"}
        await redis.config_set("maxmemory", "0")
        assert (await desk.ended(await desk.accepted(pictures[0])))["state"] == "done"
    await redis.aclose()


async def test_a_replica_that_starts_beside_a_full_redis_works_off_what_is_there(
    classifier: Classifier, own_redis: RedisServer, fitted: Fitted
) -> None:
    """The pictures are what fills it: nobody else would make room."""
    redis = connect(own_redis.url, HANG_S)
    async with replica(classifier, own_redis.url, queue="full") as desk:
        with classifier.admission.place():
            jobs = [await desk.accepted(picture) for picture in fitted.pictures.values()]
            await redis.config_set("maxmemory", "1")
            await desk.jobs.close()
    async with replica(classifier, own_redis.url, queue="full") as desk:
        assert {(await desk.ended(job))["state"] for job in jobs} == {"done"}
    await redis.aclose()
