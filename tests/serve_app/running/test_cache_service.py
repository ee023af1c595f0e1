"""The prediction cache of the running service: two replicas behind HAProxy, a real Redis, and both being killed."""

import asyncio
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from loadtest.load.pictures import PicturePool
from tests.conftest import Fitted
from tests.patience import HANG_S, until
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.service import PATIENT_MODEL, START_S, Service, adapted, launcher, own_environment, service, write_config

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy is there on Linux only"),
]

PATIENT = {"cache": {"timeout_s": 1}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted, module_redis: RedisServer) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    config = write_config(
        folder, adapted("two_replicas.yaml", port=port, model_args=fitted.args | PATIENT_MODEL | PATIENT)
    )
    environment = own_environment(folder) | {"REDIS_URL": module_redis.url}
    with service(launcher(config), environment, folder, port) as started:
        started.wait_until_ready()
        wait_for_replicas(started, 2)
        yield started


def wait_for_replicas(running: Service, count: int) -> None:
    running.wait_for_ready_block()
    running.wait_for(lambda: len(running.replicas("model")) == count, f"{count} replicas")
    running.wait_until_routed()


async def post(running: Service, pictures: list[bytes]) -> list[httpx.Response | BaseException]:
    """Post all of them at once, each on a connection of its own."""
    limits = httpx.Limits(max_connections=len(pictures))
    async with httpx.AsyncClient(base_url=running.url, timeout=START_S, limits=limits) as client:
        sent = (client.post("/model/predict", content=picture) for picture in pictures)
        return list(await asyncio.gather(*sent, return_exceptions=True))


def count_cached(responses: list[httpx.Response | BaseException]) -> Counter[bool]:
    return Counter(response.json()["cached"] for response in responses if isinstance(response, httpx.Response))


async def test_a_hundred_equal_pictures_are_computed_once_and_not_once_per_request(running: Service) -> None:
    for _ in range(5):
        picture = PicturePool(1).next_picture()
        computed = count_cached(await post(running, [picture] * 100))
        # A replica that waits longer for Redis than timeout_s, on a busy machine, computes the picture too, once.
        assert computed.total() == 100
        assert computed[False] in {1, 2}
    assert "cache: redis" in running.printed()


async def test_equal_pictures_are_answered_when_a_replica_is_killed_with_them(running: Service) -> None:
    """Whichever replica has claimed the picture: the others wait for it, and one takes over."""
    pool, picture = PicturePool(32), PicturePool(1).next_picture()

    async def later(after_s: float) -> list[httpx.Response | BaseException]:
        await asyncio.sleep(after_s)
        return await post(running, [picture] * 40)

    async def kill(after_s: float) -> None:
        await asyncio.sleep(after_s)
        running.replicas("model")[0].send_signal(signal.SIGKILL)

    busy = post(running, [pool.next_picture() for _ in range(60)])
    _, responses, _ = await asyncio.gather(busy, later(0.3), kill(0.6))
    right = [found for found in responses if isinstance(found, httpx.Response) and found.status_code == 200]
    assert len(right) >= 15  # about half of them were in the other one
    assert len({found.json()["prediction"] for found in right}) == 1

    async def is_kept() -> bool:
        return count_cached(await post(running, [picture])) == {True: 1}

    await until(is_kept, "the prediction in Redis")
    assert count_cached(await post(running, [picture] * 10)) == {True: 10}
    wait_for_replicas(running, 2)


async def test_predictions_go_on_while_redis_is_away_and_it_is_taken_back(
    running: Service, module_redis: RedisServer
) -> None:
    pool = PicturePool(8)
    module_redis.freeze()
    for _ in range(3):
        responses = await post(running, [pool.next_picture() for _ in range(10)])
        assert [found.status_code for found in responses if isinstance(found, httpx.Response)] == [200] * 10
    module_redis.thaw()
    module_redis.kill()
    computed = count_cached(await post(running, [pool.next_picture()] * 4))
    assert computed.total() == 4 > computed[True]
    module_redis.start()
    picture, deadline = pool.next_picture(), time.monotonic() + HANG_S
    while count_cached(await post(running, [picture] * 4)) != {True: 4}:
        assert time.monotonic() < deadline, "never taken back"
        await asyncio.sleep(0.5)


def test_the_counts_are_exported(running: Service) -> None:
    def are_exported() -> bool:
        text = running.metrics()
        found = set(re.findall(r'^ray_classifier_cache_lookups_total{.*result="(\w+)"', text, re.MULTILINE))
        return {"hit", "miss", "shared"} <= found and "ray_classifier_cache_faults_total{" in text

    running.wait_for(are_exported, "exported metrics")
