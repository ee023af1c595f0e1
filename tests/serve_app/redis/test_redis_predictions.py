"""Predictions in a real Redis: shared, claimed, expired; and what becomes of them while Redis fails in every way."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import redis
from redis.asyncio import Redis

from serve_app.redis.predictions import CLAIM_S, PREFIX, BestClasses, RedisPredictions
from tests.redis_server import RedisServer

BEST: BestClasses = [(number, 1 / (number + 2)) for number in range(10)]
OTHERS: BestClasses = [(number + 500, 1 / (number + 3)) for number in range(10)]
TIMEOUT_S = 0.05
HEALED_S = 4.0


class Faults:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.faults = Counter[str]()
        self.breaker: list[bool] = []

    def count_cache_fault(self, fault: str) -> None:
        self.faults[fault] += 1

    def set_cache_breaker(self, *, is_open: bool) -> None:
        self.breaker.append(is_open)


class Store(RedisPredictions):
    """A store whose predictions have ten classes below 1000, and what it counted."""

    def __init__(self, url: str, ttl_s: float = 60) -> None:
        self.counted = Faults()
        super().__init__(
            url,
            ttl_s=ttl_s,
            timeout_s=TIMEOUT_S,
            is_possible=lambda best: len(best) == 10 and max(best)[0] < 1000,
            metrics=self.counted,
        )


@asynccontextmanager
async def stores(url: str, count: int = 1, ttl_s: float = 60) -> AsyncIterator[list[Store]]:
    opened = [Store(url, ttl_s) for _ in range(count)]
    for store in opened:
        await store.open()
    try:
        yield opened
    finally:
        for store in opened:
            await store.close()


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    """The address of an empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
async def raw(url: str) -> AsyncIterator[Redis]:
    """A plain client of it."""
    async with Redis.from_url(url) as client:
        yield client


async def until(condition: Callable[[], bool], what: str, within_s: float = HEALED_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


async def written(raw: Redis, key: str) -> None:
    """Return when a result, and no claim, stands at `key`."""
    deadline = time.monotonic() + 2
    while not (await value(raw, key)).startswith(b"["):
        assert time.monotonic() < deadline, "never written"
        await asyncio.sleep(0.005)


async def value(raw: Redis, key: str) -> bytes:
    found = await raw.get(PREFIX + key)
    assert not isinstance(found, str)
    return found or b""


async def test_what_one_replica_keeps_another_finds_unchanged(url: str, raw: Redis) -> None:
    async with stores(url, 2) as (one, other):
        assert await one.find_or_claim("k") is None
        one.keep("k", BEST)
        await written(raw, "k")
        assert await other.find_or_claim("k") == BEST
        assert await other.find_or_claim("another model's k") is None


async def test_a_prediction_expires(url: str, raw: Redis) -> None:
    async with stores(url, ttl_s=0.2) as [store]:
        store.keep("k", BEST)
        await written(raw, "k")
        assert 0 < await raw.pttl(PREFIX + "k") <= 200
        await asyncio.sleep(0.25)
        assert await store.find_or_claim("k") is None


async def test_everything_in_redis_expires(url: str, raw: Redis) -> None:
    """So `volatile-lru` may evict it, and nothing is left of a service that is gone."""
    async with stores(url) as [store]:
        await store.find_or_claim("claimed")
        store.keep("kept", BEST)
        await written(raw, "kept")
        keys = await raw.keys()
        assert len(keys) == 2
        assert all([await raw.pttl(key) > 0 for key in keys])


async def test_who_finds_a_claim_waits_for_the_result_and_hears_of_it_at_once(url: str) -> None:
    async with stores(url, 3) as (one, *others):
        await one.find_or_claim("k")
        waiting = [asyncio.create_task(other.find_or_claim("k")) for other in others]
        await asyncio.sleep(0.4)  # past the first look again, so only a message can be quick
        assert not any(task.done() for task in waiting)
        began = time.monotonic()
        one.keep("k", BEST)
        assert await asyncio.gather(*waiting) == [BEST, BEST]
        assert time.monotonic() - began < 0.1


async def test_a_claim_lives_as_long_as_its_holder_computes(url: str) -> None:
    async with stores(url, 2) as (one, other):
        await one.find_or_claim("k")
        waiting = asyncio.create_task(other.find_or_claim("k"))
        await asyncio.sleep(1.4 * CLAIM_S)
        assert not waiting.done()
        one.keep("k", BEST)
        assert await waiting == BEST


async def test_what_is_given_up_goes_to_one_of_those_who_wait_at_once(url: str) -> None:
    async with stores(url, 3) as (one, *others):
        await one.find_or_claim("k")
        waiting = [asyncio.create_task(other.find_or_claim("k")) for other in others]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        one.give_up("k")
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert time.monotonic() - began < 0.1
        assert [task.result() for task in done] == [None]
        heir = others[waiting.index(done.pop())]
        heir.keep("k", OTHERS)
        assert await pending.pop() == OTHERS


async def test_a_killed_holders_claim_passes_to_one_of_those_who_wait(url: str, raw: Redis) -> None:
    """SIGKILL: nobody renews or takes back the claim, which is all that another replica sees of it."""
    await raw.set(PREFIX + "k", "?somebody who was killed", px=round(1000 * CLAIM_S))
    async with stores(url, 2) as both:
        began = time.monotonic()
        waiting = [asyncio.create_task(store.find_or_claim("k")) for store in both]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert 0.5 * CLAIM_S < time.monotonic() - began < CLAIM_S + 0.6
        assert [task.result() for task in done] == [None]
        both[waiting.index(done.pop())].keep("k", BEST)
        assert await pending.pop() == BEST


async def test_a_wait_that_is_cancelled_leaves_no_claim_behind(url: str, raw: Redis) -> None:
    async with stores(url, 2) as (one, other):
        await one.find_or_claim("k")
        waiting = asyncio.create_task(other.find_or_claim("k"))
        await asyncio.sleep(0.1)
        waiting.cancel()
        one.give_up("k")
        await asyncio.sleep(0.1)
        assert await raw.get(PREFIX + "k") is None


async def test_a_replica_that_stops_in_order_gives_its_claims_back(url: str, raw: Redis) -> None:
    async with stores(url) as [store]:
        await store.find_or_claim("k")
        store.give_up("k")
        store.keep("kept", BEST)
    assert await raw.get(PREFIX + "k") is None
    assert (await value(raw, "kept")).startswith(b"[")


GARBAGE = {
    "no JSON": b"\x80\x02]q\x00.",
    "other JSON": b'{"a": 1}',
    "too few classes": b"[[1,0.5]]",
    "classes that the model has not": b"[" + b",".join(b"[%d,0.1]" % (995 + n) for n in range(10)) + b"]",
    "negative classes": b"[" + b",".join(b"[-%d,0.1]" % n for n in range(10)) + b"]",
    "scores that are none": b"[" + b",".join(b"[%d,1.5]" % n for n in range(10)) + b"]",
    "scores that are no numbers": b"[" + b",".join(b"[%d,NaN]" % n for n in range(10)) + b"]",
    "texts": b"[" + b",".join(b'["%d","0.1"]' % n for n in range(10)) + b"]",
    "half a value": b"[[1,0.5],[2,0.",
    "ten megabytes": b"[" + b" " * 10_000_000 + b"]",
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_is_a_miss_and_is_replaced(url: str, raw: Redis, name: str) -> None:
    await raw.set(PREFIX + "k", GARBAGE[name])
    async with stores(url) as [store]:
        assert await store.find_or_claim("k") is None
        assert store.counted.faults == {"garbage": 1}
        store.keep("k", BEST)
        await asyncio.sleep(0.05)
        assert await store.find_or_claim("k") == BEST
        assert store.counted.breaker == [False]


@pytest.mark.parametrize("fill", ["lpush", "sadd"])
async def test_another_type_at_the_key_is_a_miss_and_is_replaced(url: str, raw: Redis, fill: str) -> None:
    await getattr(raw, fill)(PREFIX + "k", "x")
    async with stores(url) as [store]:
        assert await store.find_or_claim("k") is None
        store.keep("k", BEST)
        await asyncio.sleep(0.05)
        assert await store.find_or_claim("k") == BEST
        assert store.counted.faults == {"garbage": 1}


async def fail_until_open(store: Store) -> float:
    """Look up until the breaker opens; return how long that took at most, and in all."""
    began = time.monotonic()
    while not store.counted.breaker[-1]:
        assert await store.find_or_claim("k") is None
        assert time.monotonic() - began < 1
    return time.monotonic() - began


async def timed_lookups(store: Store, count: int) -> float:
    began = time.monotonic()
    for number in range(count):
        assert await store.find_or_claim(f"new {number}") is None
        store.keep(f"new {number}", BEST)
    return time.monotonic() - began


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name.startswith("serve_app.redis")]


@pytest.mark.parametrize("fault", ["freeze", pytest.param("kill", marks=pytest.mark.long)])
async def test_a_redis_that_fails_is_left_alone_after_a_tenth_of_a_second_and_taken_back(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level(logging.INFO)
    async with stores(own_redis.url) as [store]:
        store.keep("before", BEST)
        await asyncio.sleep(0.05)
        assert await store.find_or_claim("before") == BEST
        getattr(own_redis, fault)()
        assert await fail_until_open(store) < 0.25
        assert await timed_lookups(store, 1000) < 0.1
        await asyncio.sleep(1.2)  # past the first attempt to heal
        assert store.counted.breaker == [False, True]
        assert len(lines(caplog)) == 1
        assert "without the shared cache" in lines(caplog)[0]

        own_redis.thaw() if fault == "freeze" else own_redis.start()
        await until(lambda: store.counted.breaker[-1] is False, "healing")
        assert await store.find_or_claim("after") is None
        store.keep("after", OTHERS)
        await asyncio.sleep(0.05)
        assert await store.find_or_claim("after") == OTHERS
        assert len(lines(caplog)) == 2
        assert "answers again" in lines(caplog)[1]


async def test_a_burst_meets_a_frozen_redis_and_is_held_up_once(own_redis: RedisServer) -> None:
    async with stores(own_redis.url) as [store]:
        own_redis.freeze()
        began = time.monotonic()
        found = await asyncio.gather(*(store.find_or_claim(f"k{number}") for number in range(200)))
        assert found == [None] * 200
        assert time.monotonic() - began < 0.4
        own_redis.thaw()


async def test_who_waits_for_another_replica_when_redis_freezes_goes_on_alone(own_redis: RedisServer) -> None:
    async with stores(own_redis.url, 2) as (one, other):
        await one.find_or_claim("k")
        waiting = asyncio.create_task(other.find_or_claim("k"))
        await asyncio.sleep(0.1)
        own_redis.freeze()
        began = time.monotonic()
        assert await waiting is None
        assert time.monotonic() - began < 0.5
        own_redis.thaw()


async def test_a_restart_of_redis_between_two_requests_is_not_even_noticed(own_redis: RedisServer) -> None:
    async with stores(own_redis.url) as [store]:
        await store.find_or_claim("k")
        own_redis.stop()
        own_redis.start()
        assert await store.find_or_claim("another") is None
        store.keep("another", BEST)
        await asyncio.sleep(0.05)
        assert await store.find_or_claim("another") == BEST
        assert store.counted.breaker == [False]


async def test_a_redis_that_is_down_at_the_start_is_taken_when_it_comes(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.stop()
    async with stores(own_redis.url) as [store]:
        assert store.counted.breaker == [True, True]
        assert await timed_lookups(store, 100) < 0.05
        own_redis.start()
        await until(lambda: store.counted.breaker[-1] is False, "healing")
    assert sum("without the shared cache" in line for line in lines(caplog)) == 1


async def test_a_full_redis_still_answers_what_it_has_and_is_no_fault_of_reading(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with stores(own_redis.url) as [store], Redis.from_url(own_redis.url) as raw:
        store.keep("before", BEST)
        await written(raw, "before")
        await raw.config_set("maxmemory-policy", "noeviction")
        await raw.config_set("maxmemory", 1)
        for number in range(20):
            assert await store.find_or_claim(f"k{number}") is None
            store.keep(f"k{number}", BEST)
            await asyncio.sleep(0.005)
        assert await store.find_or_claim("before") == BEST
        assert store.counted.breaker == [False]
        assert store.counted.faults["write_refused"] >= 20
        assert store.counted.faults["unreachable"] == 0
        assert len(lines(caplog)) == 1
        assert "refuses to store" in lines(caplog)[0]
        await raw.config_set("maxmemory", 0)
        store.keep("after", BEST)
        await written(raw, "after")


async def test_with_volatile_lru_a_full_redis_makes_room_and_keeps_what_never_expires(own_redis: RedisServer) -> None:
    async with stores(own_redis.url) as [store], Redis.from_url(own_redis.url) as raw:
        await raw.set("a job", "x" * 1000)
        await raw.config_set("maxmemory-policy", "volatile-lru")
        used = (await raw.info("memory"))["used_memory"]
        await raw.config_set("maxmemory", used + 300_000)
        for number in range(2000):
            store.keep(f"k{number}", BEST)
            if number % 50 == 49:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.1)
        assert store.counted.faults == {}
        assert (await raw.info("stats"))["evicted_keys"] > 100
        assert len(await raw.keys()) > 500
        assert await raw.get("a job") == b"x" * 1000


async def test_a_slow_redis_is_left_alone(own_redis: RedisServer) -> None:
    """Each command waits for another that takes twice the time limit."""
    async with stores(own_redis.url) as [store]:
        busy = Redis.from_url(own_redis.url)
        sleeping = asyncio.create_task(_keep_busy(busy, 2 * TIMEOUT_S, 0.7))
        await asyncio.sleep(0.05)
        assert await fail_until_open(store) < 0.5
        assert await timed_lookups(store, 200) < 0.1
        await sleeping
        await busy.aclose()
        await until(lambda: store.counted.breaker[-1] is False, "healing", 6)


async def _keep_busy(client: Redis, each_s: float, for_s: float) -> None:
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        await client.execute_command("DEBUG", "SLEEP", each_s)  # type: ignore[no-untyped-call]


async def test_what_answers_in_another_protocol_is_left_alone() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n:12x\r\n*-9\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with stores(f"redis://127.0.0.1:{port}/0") as [store]:
            assert await timed_lookups(store, 100) < 0.05
            assert store.counted.breaker[-1] is True


async def test_a_user_who_may_not_read_is_a_failure_that_does_not_flap(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(own_redis.url) as raw:
        raw.acl_setuser("default", commands=["-getrange"], enabled=True, nopass=True, keys=["*"], channels=["*"])
    async with stores(own_redis.url) as [store]:
        await asyncio.sleep(1.2)
        assert await store.find_or_claim("k") is None
        assert store.counted.breaker[-1] is True
        assert len(lines(caplog)) == 1


async def test_writes_are_bounded_while_redis_takes_none(own_redis: RedisServer) -> None:
    async with stores(own_redis.url) as [store]:
        own_redis.freeze()
        for number in range(1000):
            store.keep(f"k{number}", BEST)
        assert store.counted.faults == {"write_dropped": 1000 - 256}
        own_redis.thaw()


async def test_a_password_never_stands_in_the_log(own_redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    own_redis.stop()
    url = own_redis.url.replace("redis://", "redis://user:secret-password@")
    async with stores(url) as [store]:
        assert await store.find_or_claim("k") is None
    own_redis.start()
    async with stores(url) as [store]:
        assert await store.find_or_claim("k") is None
    assert lines(caplog)
    assert "secret-password" not in caplog.text
