"""Jobs of the real service, HAProxy and two replicas included, while replicas and Redis die."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import httpx
import pytest

from tests.conftest import Fitted
from tests.job_faults import Plan, alternate, describe, make_uploads, run_jobs
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.service import Service, adapted, launcher, own_environment, service, write_config

pytestmark = [
    pytest.mark.long,
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
    redis = RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always")
    port = free_port()
    config = write_config(folder, adapted("two_replicas.yaml", port=port, model_args=fitted.args))
    environment = own_environment(folder) | {"REDIS_URL": redis.url}
    with service(launcher(config), environment, folder, port) as started:
        started.wait_until_ready()
        yield Running(started, redis)
    redis.close()


def test_a_job_comes_back_through_haproxy_and_a_long_poll(running: Running, fitted: Fitted) -> None:
    with httpx.Client(base_url=running.service.url, timeout=30) as http:
        files = [("file", (label, data)) for label, data in fitted.pictures.items()]
        taken = http.post("/model/jobs", files=files)
        assert taken.status_code == 202, taken.text
        job = http.get(taken.headers["location"], params={"wait": 15}).json()
        assert [result["prediction"]["prediction"] for result in job["results"]] == list(fitted.pictures)


def test_a_large_batch_comes_through_haproxy(running: Running, fitted: Fitted) -> None:
    data = fitted.pictures["thing 7"]
    padded = data + bytes(4_000_000)
    with httpx.Client(base_url=running.service.url, timeout=60) as http:
        job = http.post("/model/jobs", files=[("file", padded)] * 10).json()
        ended = http.get(f"/model/jobs/{job['id']}", params={"wait": 15}).json()
        assert [result["prediction"]["prediction"] for result in ended["results"]] == ["thing 7"] * 10
        refused = http.post("/model/jobs", files=[("file", padded)] * 14)
        assert (refused.status_code, refused.json()["code"]) == (413, "upload_too_large")


async def test_no_job_is_lost_stuck_or_ended_twice_while_replicas_and_redis_are_killed(
    running: Running, fitted: Fitted
) -> None:
    pictures = cycle(fitted.pictures.values())
    uploads = make_uploads(JOBS, lambda: next(pictures))
    account = await run_jobs(
        running.service, running.redis, uploads, Plan(alternate(2, 1), every_s=7, limit_s=100, submit_per_s=8)
    )
    assert account.is_clean, describe(account)
    assert account.states["done"] + account.codes["poison"] >= JOBS
    assert max(account.recovered_s, default=0) < 10


def test_the_service_stops_as_quickly_with_jobs_and_a_long_poll(running: Running, fitted: Fitted) -> None:
    with httpx.Client(base_url=running.service.url, timeout=30) as http:
        http.post("/model/jobs", files=[("file", fitted.pictures["thing 7"])] * 400)
    began = time.monotonic()
    running.service.stop()
    assert time.monotonic() - began < 12
