"""Jobs that replicas of 0.1.0 left in Redis, queued, begun and ended, are the jobs of this version."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from serve_app.classifier.classifier import Classifier
from serve_app.jobs.job import FileResult
from serve_app.jobs.queue.scripts import GROUP
from serve_app.metrics import JOBS_DEAD_LETTERS
from serve_app.redis.connection import connect
from serve_app.redis.keys import jobs_of
from tests.conftest import Fitted
from tests.jobs import Desk, replica
from tests.patience import HANG_S
from tests.redis_server import RedisServer
from tests.serve_app.jobs.test_jobs_worker import LONG_SILENT_MS, Queue, labels
from tests.version_0_1_0 import ROOT, RUN_S, run_with_version_0_1_0

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * RUN_S)]

QUEUE = "of-0-1-0"


@dataclass(frozen=True)
class Left:
    """The ids of the jobs by what became of them in 0.1.0, and the answer that it gave for the one that was done."""

    code: str
    queued: str
    running: str
    done: str
    cancelled: str
    poison: str
    done_answer: str


@pytest.fixture(scope="module")
def pictures(fitted: Fitted) -> dict[str, bytes]:
    return dict(list(fitted.pictures.items())[:3])


@pytest.fixture(scope="module")
def left(
    version_0_1_0: Path, classifier: Classifier, fitted: Fitted, pictures: dict[str, bytes], module_redis: RedisServer
) -> Left:
    files = [str(fitted.folder / "pictures" / f"{label.split()[1]}.jpg") for label in pictures]
    settings = classifier.settings.model_dump_json(exclude_unset=True)
    script = ROOT / "tests/leave_jobs.py"
    printed = run_with_version_0_1_0(version_0_1_0, script, module_redis.url, QUEUE, settings, *files)
    found = Left(**json.loads(printed.splitlines()[-1]))
    assert Path(found.code).is_relative_to(version_0_1_0)
    return found


@pytest.fixture(scope="module")
async def desk(left: Left, classifier: Classifier, module_redis: RedisServer) -> AsyncIterator[Desk]:
    """A replica of this version, for which what the dead ones had begun has lapsed."""
    assert left
    async with connect(module_redis.url, HANG_S) as redis:
        await let_all_lapse(redis, QUEUE)
    async with replica(classifier, module_redis.url, queue=QUEUE) as opened:
        yield opened


async def let_all_lapse(redis: Redis, queue: str) -> None:
    """Make Redis see no sign of life about everything that a worker holds for longer than any lease."""
    stream = f"{jobs_of(queue)}stream"
    held: Any = await redis.xpending_range(stream, GROUP, "-", "+", 1000)
    assert held, "no worker of 0.1.0 died with a picture in its hands"
    for entry in held:
        await redis.xclaim(stream, GROUP, entry["consumer"], 0, [entry["message_id"]], idle=LONG_SILENT_MS, justid=True)


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_what_was_not_done_is_done_with_each_pictures_own_result(
    state: str, left: Left, desk: Desk, pictures: dict[str, bytes]
) -> None:
    ended = await desk.ended(getattr(left, state))
    assert (ended["state"], ended["files_done"]) == ("done", len(pictures))
    found = {result["index"]: result["prediction"]["prediction"] for result in ended["results"]}
    assert [found[index] for index in range(len(pictures))] == list(pictures)


async def test_what_had_ended_is_answered_as_before(left: Left, desk: Desk) -> None:
    assert (await desk.http.get(f"/jobs/{left.done}")).json() == json.loads(left.done_answer)
    assert (await desk.look(left.cancelled))["state"] == "cancelled"


async def test_a_repeated_request_finds_its_job(left: Left, desk: Desk, pictures: dict[str, bytes]) -> None:
    again = await desk.submit(*pictures.values(), key="order-7")
    assert (again.status_code, again.json()["id"]) == (202, left.queued)
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await desk.submit(*reversed(pictures.values()), key="order-7")
    assert other.status_code == 422


async def test_nothing_of_the_work_is_left(left: Left, desk: Desk, module_redis: RedisServer) -> None:
    for job in (left.queued, left.running):
        await desk.ended(job)
    counts = await desk.jobs.store.counts()
    assert (counts.waiting, counts.running) == (0, 0)
    async with connect(module_redis.url, HANG_S) as redis:
        stream = f"{jobs_of(QUEUE)}stream"
        assert await redis.xpending_range(stream, GROUP, "-", "+", 1000) == []
        assert await redis.xlen(stream) == 0


async def test_a_picture_that_workers_of_0_1_0_did_not_survive_is_a_dead_letter(
    left: Left, module_redis: RedisServer
) -> None:
    async with Queue(module_redis.url, queue=f"{QUEUE}-poison", max_attempts=2) as queue:
        async with queue.worker():
            ended = await queue.ended(left.poison)
        assert (ended.state, labels(ended), ended.attempts) == ("done", [None, "dog"], 2)
        error = FileResult.model_validate_json(ended.results[0]).error
        assert error is not None
        assert error.code == "poison"
        assert queue.counted.of(JOBS_DEAD_LETTERS)[""] == 1
        async with connect(module_redis.url, HANG_S) as redis:
            letters: Any = await redis.xrange(f"{jobs_of(queue.settings.queue)}dead")
        [(_, letter)] = letters
        assert (letter[b"job"].decode(), letter[b"attempts"]) == (left.poison, b"2")
