"""Redis is killed, restarted, frozen, full or empty: clients learn it within a second, and jobs go on by themselves."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.classifier.classifier import Classifier
from serve_app.redis.connection import connect
from tests.conftest import Fitted
from tests.jobs import Desk, replica
from tests.redis_server import RedisServer
from tests.serve_app.classifier.test_model_api import assert_error

LOST, BACK = "jobs stand still", "jobs go on"


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a Redis that has on disk what it has acknowledged."""
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.close()


async def expect_quick_503s(desk: Desk, job: str, data: bytes) -> None:
    for call in (
        desk.http.get(f"/jobs/{job}"),
        desk.http.get(f"/jobs/{job}?wait=10"),
        desk.submit(data),
        desk.submit(data, key="key"),
        desk.http.delete(f"/jobs/{job}"),
    ):
        began = time.monotonic()
        answer = await call
        assert time.monotonic() - began < 1
        assert_error(answer, 503, "jobs_unavailable", "Redis", "try again later")
        assert answer.headers["retry-after"] == "2"


async def test_jobs_outlive_a_killed_redis_and_each_picture_counts_once(
    classifier: Classifier, durable_redis: RedisServer, fitted: Fitted, caplog: pytest.LogCaptureFixture
) -> None:
    labels, pictures = list(fitted.pictures), [*fitted.pictures.values()]
    with caplog.at_level(logging.WARNING, "serve_app.jobs"):
        async with replica(classifier, durable_redis.url) as desk:
            job = await desk.accepted(*pictures * 5)
            other = await desk.accepted(*pictures)
            await desk.once(job, "running")
            await asyncio.sleep(0.2)
            durable_redis.kill()
            await expect_quick_503s(desk, job, pictures[0])
            predicted = await desk.http.post("/predict", content=pictures[0])
            assert predicted.json()["prediction"] == labels[0]
            await asyncio.to_thread(durable_redis.start)
            ended = await desk.ended(job)
            assert [result["prediction"]["prediction"] for result in ended["results"]] == labels * 5
            assert (ended["state"], ended["files_done"]) == ("done", 40)
            assert (await desk.ended(other))["state"] == "done"
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if LOST in line]) == 1
    assert len([line for line in lines if BACK in line]) == 1


async def test_a_frozen_redis_is_a_quick_503_and_what_ran_goes_on(
    classifier: Classifier, own_redis: RedisServer, fitted: Fitted
) -> None:
    pictures = [*fitted.pictures.values()]
    async with replica(classifier, own_redis.url) as desk:
        job = await desk.accepted(*pictures * 5)
        await desk.once(job, "running")
        waiter = asyncio.create_task(desk.ended(job))
        await asyncio.sleep(0.1)
        own_redis.freeze()
        try:
            await expect_quick_503s(desk, job, pictures[0])
        finally:
            own_redis.thaw()
        ended = await waiter
        assert (ended["state"], ended["attempts"]) == ("done", 1)


async def test_a_replica_starts_without_redis_and_takes_jobs_once_it_is_there(
    classifier: Classifier, own_redis: RedisServer, fitted: Fitted
) -> None:
    data = fitted.pictures["thing 7"]
    own_redis.stop()
    async with replica(classifier, own_redis.url) as desk:
        await expect_quick_503s(desk, "x" * 22, data)
        await asyncio.to_thread(own_redis.start)
        assert (await desk.ended(await desk.accepted(data)))["state"] == "done"


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
    redis = connect(own_redis.url, 3)
    async with replica(classifier, own_redis.url) as desk:
        with classifier.admission.place():
            jobs = [await desk.accepted(*pictures[:2]) for _ in range(3)]
            await redis.config_set("maxmemory", "1")
            assert_error(await desk.submit(pictures[0]), 503, "overloaded", "no memory left")
        assert {(await desk.ended(job))["state"] for job in jobs[:2]} == {"done"}
        assert (await desk.http.delete(f"/jobs/{jobs[2]}")).status_code in (200, 409)
        await redis.config_set("maxmemory", "0")
        assert (await desk.ended(await desk.accepted(pictures[0])))["state"] == "done"
    await redis.aclose()


async def test_a_replica_that_starts_beside_a_full_redis_works_off_what_is_there(
    classifier: Classifier, own_redis: RedisServer, fitted: Fitted
) -> None:
    """The pictures are what fills it: nobody else would make room."""
    redis = connect(own_redis.url, 3)
    async with replica(classifier, own_redis.url, queue="full") as desk:
        with classifier.admission.place():
            jobs = [await desk.accepted(picture) for picture in fitted.pictures.values()]
            await redis.config_set("maxmemory", "1")
            await desk.jobs.close()
    async with replica(classifier, own_redis.url, queue="full") as desk:
        assert {(await desk.ended(job))["state"] for job in jobs} == {"done"}
    await redis.aclose()
