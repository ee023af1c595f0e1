"""Jobs of the real service, HAProxy and two replicas included, while replicas and Redis die."""

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import httpx
import pytest

from loadtest.load.pictures import PicturePool
from tests.conftest import Fitted
from tests.job_faults import Plan, alternate, count_pictures, describe, make_uploads, run_jobs
from tests.patience import HANG_S
from tests.ports import free_port
from tests.redis_server import RedisServer, running_redis
from tests.service import (
    PATIENT_MODEL,
    START_S,
    Service,
    adapted,
    launcher,
    own_environment,
    service,
    write_config,
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy is there on Linux only"),
]
JOBS = 150


@dataclass(frozen=True)
class Running:
    service: Service
    redis: RedisServer


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("durable")
    port = free_port()
    config = write_config(folder, adapted("two_replicas.yaml", port=port, model_args=fitted.args | PATIENT_MODEL))
    with running_redis(folder, "--appendonly", "yes", "--appendfsync", "always") as redis:
        environment = own_environment(folder) | {"REDIS_URL": redis.url}
        with service(launcher(config), environment, folder, port) as started:
            started.wait_until_ready()
            yield Running(started, redis)


def ended(http: httpx.Client, location: str) -> dict[str, Any]:
    """Return a job once it has ended."""
    deadline = time.monotonic() + START_S
    while True:
        job: dict[str, Any] = http.get(location, params={"wait": 15}).raise_for_status().json()
        if job["state"] not in ("queued", "running"):
            return job
        assert time.monotonic() < deadline, job


def test_a_job_comes_back_through_haproxy_and_a_long_poll(running: Running, fitted: Fitted) -> None:
    with httpx.Client(base_url=running.service.url, timeout=START_S) as http:
        files = [("file", (label, data)) for label, data in fitted.pictures.items()]
        taken = http.post("/model/jobs", files=files)
        assert taken.status_code == 202, taken.text
        job = ended(http, taken.headers["location"])
        assert [result["prediction"]["prediction"] for result in job["results"]] == list(fitted.pictures)


def test_a_large_batch_comes_through_haproxy(running: Running, fitted: Fitted) -> None:
    data = fitted.pictures["thing 7"]
    padded = data + bytes(4_000_000)
    with httpx.Client(base_url=running.service.url, timeout=START_S) as http:
        taken = http.post("/model/jobs", files=[("file", padded)] * 10)
        job = ended(http, taken.headers["location"])
        assert [result["prediction"]["prediction"] for result in job["results"]] == ["thing 7"] * 10
        refused = http.post("/model/jobs", files=[("file", padded)] * 14)
        assert (refused.status_code, refused.json()["code"]) == (413, "upload_too_large")


async def test_no_job_is_lost_stuck_or_ended_twice_while_replicas_and_redis_are_killed(
    running: Running, fitted: Fitted
) -> None:
    pictures = cycle(fitted.pictures.values())
    uploads = make_uploads(JOBS, lambda: next(pictures))
    account = await run_jobs(
        running.service, running.redis, uploads, Plan(alternate(2, 1), every_s=4, limit_s=400, submit_per_s=8)
    )
    assert account.is_clean, describe(account)
    assert account.states["done"] + account.codes["poison"] >= JOBS
    assert max(account.recovered_s, default=0) < HANG_S


async def test_a_service_that_stops_does_not_wait_for_jobs(running: Running) -> None:
    """They wait in Redis for the next start."""
    pool = PicturePool(4)
    async with httpx.AsyncClient(base_url=running.service.url, timeout=START_S) as http:
        files = [("file", pool.next_picture()) for _ in range(400)]
        taken = await http.post("/model/jobs", files=files)
    assert taken.status_code == 202, taken.text
    await asyncio.to_thread(running.service.stop)
    assert await count_pictures(running.redis) > 0
