"""Predictions in a real Redis: shared, claimed, expired; and what becomes of them while Redis fails in every way."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import redis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from serve_app.cache.classification import BestClasses
from serve_app.cache.redis import _AT_A_TIME, _MOST_UNWRITTEN, RedisPredictions, Timing
from serve_app.metrics import CACHE_BREAKER_OPEN, CACHE_FAULTS
from serve_app.redis.keys import PREDICTIONS
from tests.counted import Counted
from tests.patience import HANG_S, HURRIED, PATIENT, set_timing, until
from tests.redis_server import LateRedis, RedisServer

BEST: BestClasses = [(number, 1 / (number + 2)) for number in range(10)]
OTHERS: BestClasses = [(number + 500, 1 / (number + 3)) for number in range(10)]
MESSAGES_ONLY = replace(PATIENT, look_again_s=10 * HANG_S)


class Store(RedisPredictions):
    """A store whose predictions have ten classes below 1000, and what it counted."""

    def __init__(self, url: str, timing: Timing = PATIENT, ttl_s: float = 60) -> None:
        self.counted = Counted()
        self.looks = 0
        self.probes = 0
        super().__init__(
            url,
            ttl_s=ttl_s,
            timing=timing,
            is_possible=lambda best: len(best) == 10 and max(best)[0] < 1000,
            metrics=self.counted,
        )

    @property
    def is_left_alone(self) -> bool:
        """Whether the breaker is open, as told last."""
        return bool(self.counted.told(CACHE_BREAKER_OPEN)[-1])

    async def _look(self, key: str, who: object) -> object:  # type: ignore[override]
        try:
            return await super()._look(key, who)
        finally:
            self.looks += 1

    async def _probe(self) -> None:
        try:
            await super()._probe()
        finally:
            self.probes += 1


@asynccontextmanager
async def stores(url: str, count: int = 1, timing: Timing = PATIENT, ttl_s: float = 60) -> AsyncIterator[list[Store]]:
    opened = [Store(url, timing, ttl_s) for _ in range(count)]
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


async def written(raw: Redis, key: str, best: BestClasses = BEST) -> None:
    """Return when a result stands at `key`."""

    async def is_there() -> bool:
        with suppress(ResponseError, ValueError):  # another type, or no JSON
            return bool(json.loads(await raw.getrange(PREDICTIONS + key, 0, 4096)) == [list(pair) for pair in best])
        return False

    await until(is_there, f"the result at {key}")


async def subscribed(raw: Redis, key: str, count: int) -> None:
    """Return when so many wait for the message about `key`."""

    async def are_there() -> bool:
        [(_, found)] = await raw.pubsub_numsub(PREDICTIONS + key)
        return bool(found == count)

    await until(are_there, f"{count} who wait")


async def gone(raw: Redis, key: str) -> None:
    """Return when nothing stands at `key`."""

    async def is_gone() -> bool:
        return not await raw.exists(PREDICTIONS + key)

    await until(is_gone, f"the end of {key}")


async def value(raw: Redis, key: str) -> bytes:
    found = await raw.get(PREDICTIONS + key)
    assert not isinstance(found, str)
    return found or b""


async def first_of(waiting: list["asyncio.Task[BestClasses | None]"]) -> tuple[int, "asyncio.Task[BestClasses | None]"]:
    """Return which of two came to compute, and the other, which still waits."""
    done, [other] = await asyncio.wait(waiting, timeout=HANG_S, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [None]
    return waiting.index(done.pop()), other


async def test_what_one_replica_keeps_another_finds_unchanged(url: str, raw: Redis) -> None:
    async with stores(url, 2) as (one, other):
        assert await one.find_or_claim("k") is None
        one.keep("k", BEST)
        await written(raw, "k")
        assert await other.find_or_claim("k") == BEST
        assert await other.find_or_claim("another model's k") is None


async def test_a_prediction_expires(url: str, raw: Redis) -> None:
    async with stores(url, ttl_s=600) as [store]:
        store.keep("k", BEST)
        await written(raw, "k")
        assert 600_000 - 1000 * HANG_S < await raw.pttl(PREDICTIONS + "k") <= 600_000
        await raw.pexpire(PREDICTIONS + "k", 1)
        await gone(raw, "k")
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
        assert await raw.pttl(PREDICTIONS + "claimed") <= 1000 * PATIENT.claim_s


async def test_who_finds_a_claim_waits_for_the_result_and_hears_of_it_by_message(url: str) -> None:
    async with stores(url, 3, MESSAGES_ONLY) as (one, *others):
        await one.find_or_claim("k")
        waiting = [asyncio.create_task(other.find_or_claim("k")) for other in others]
        await until(lambda: [other.looks for other in others] == [2, 2], "the look that follows the subscription")
        assert not any(task.done() for task in waiting)
        one.keep("k", BEST)
        async with asyncio.timeout(HANG_S):
            assert await asyncio.gather(*waiting) == [BEST, BEST]


async def test_a_claim_is_renewed_as_long_as_its_holder_computes(url: str, raw: Redis) -> None:
    async with stores(url, 2) as (one, other):
        await one.find_or_claim("k")
        waiting = asyncio.create_task(other.find_or_claim("k"))

        async def has_an_end() -> bool:
            return bool(await raw.pttl(PREDICTIONS + "k") > 0)

        for _ in range(3):
            await raw.persist(PREDICTIONS + "k")  # so that only a renewal gives it an end again
            await until(has_an_end, "the renewal of the claim")
        assert not waiting.done()
        one.keep("k", BEST)
        assert await waiting == BEST


async def test_what_is_given_up_goes_to_one_of_those_who_wait_by_message(url: str) -> None:
    async with stores(url, 3, MESSAGES_ONLY) as (one, *others):
        await one.find_or_claim("k")
        waiting = [asyncio.create_task(other.find_or_claim("k")) for other in others]
        await until(lambda: [other.looks for other in others] == [2, 2], "the look that follows the subscription")
        one.give_up("k")
        heir, other = await first_of(waiting)
        others[heir].keep("k", OTHERS)
        async with asyncio.timeout(HANG_S):
            assert await other == OTHERS


async def test_what_one_of_two_callers_in_a_replica_gives_up_is_claimed_until_the_other_has_it(
    url: str, raw: Redis
) -> None:
    async with stores(url) as [store]:
        assert [await store.find_or_claim("k", who) for who in ("leaves", "stays")] == [None, None]
        store.give_up("k", "leaves")
        store.give_up("k", "never had it")
        store.keep("later", BEST)
        await written(raw, "later")
        assert await value(raw, "k") == store._claim
        store.give_up("k", "stays")
        await gone(raw, "k")


async def test_a_killed_holders_claim_passes_to_one_of_those_who_wait(url: str, raw: Redis) -> None:
    """SIGKILL: nobody renews or takes back the claim, which is all that another replica sees of it."""
    await raw.set(PREDICTIONS + "k", "?somebody who was killed", px=300)
    async with stores(url, 2) as both:
        waiting = [asyncio.create_task(store.find_or_claim("k")) for store in both]
        heir, other = await first_of(waiting)
        assert await value(raw, "k") == both[heir]._claim
        both[heir].keep("k", BEST)
        assert await other == BEST


async def test_a_wait_that_is_cancelled_leaves_no_claim_behind(url: str, raw: Redis) -> None:
    async with stores(url, 2, MESSAGES_ONLY) as (one, other):
        await one.find_or_claim("k")
        waiting = asyncio.create_task(other.find_or_claim("k"))
        await until(lambda: other.looks == 2, "the look that follows the subscription")
        waiting.cancel()
        await asyncio.wait([waiting])
        one.give_up("k")
        await gone(raw, "k")
        await subscribed(raw, "k", 0)
        assert not other._claimed


async def test_a_replica_that_stops_in_order_gives_its_claims_back(url: str, raw: Redis) -> None:
    async with stores(url) as [store]:
        await store.find_or_claim("k")
        store.give_up("k")
        store.keep("kept", BEST)
    assert await raw.get(PREDICTIONS + "k") is None
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
    await raw.set(PREDICTIONS + "k", GARBAGE[name])
    async with stores(url) as [store]:
        assert await store.find_or_claim("k") is None
        assert store.counted.of(CACHE_FAULTS) == {"garbage": 1}
        store.keep("k", BEST)
        await written(raw, "k")
        assert await store.find_or_claim("k") == BEST
        assert store.counted.told(CACHE_BREAKER_OPEN) == [False]


@pytest.mark.parametrize("fill", ["lpush", "sadd"])
async def test_another_type_at_the_key_is_a_miss_and_is_replaced(url: str, raw: Redis, fill: str) -> None:
    await getattr(raw, fill)(PREDICTIONS + "k", "x")
    async with stores(url) as [store]:
        assert await store.find_or_claim("k") is None
        store.keep("k", BEST)
        await written(raw, "k")
        assert await store.find_or_claim("k") == BEST
        assert store.counted.of(CACHE_FAULTS) == {"garbage": 1}


async def fail_until_open(store: Store) -> int:
    """Look up what Redis has until it is left alone; return how many lookups asked it in vain."""
    while not store.is_left_alone:
        assert await store.find_or_claim("before") is None
    return store.counted.of(CACHE_FAULTS)["unreachable"]


async def assert_left_alone(store: Store) -> None:
    """Fail if lookups or results go to Redis, which would be counted as its faults."""
    before = store.counted.of(CACHE_FAULTS).copy()
    for number in range(1000):
        assert await store.find_or_claim(f"new {number}") is None
        store.keep(f"new {number}", BEST)
    assert store.counted.of(CACHE_FAULTS) == before
    assert not store._unwritten


async def probed_in_vain(store: Store) -> None:
    """Return when Redis was looked after twice more, and did not answer in time."""
    before = store.probes
    await until(lambda: store.probes >= before + 2, "attempts to heal")
    assert store.is_left_alone


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.message for record in caplog.records if record.name.startswith(("serve_app.cache", "serve_app.redis"))
    ]


@pytest.mark.parametrize("fault", ["freeze", "kill"])
async def test_a_redis_that_fails_is_left_alone_and_taken_back(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level(logging.INFO)
    async with stores(own_redis.url) as [store]:
        store.keep("before", BEST)
        async with Redis.from_url(own_redis.url) as raw:
            await written(raw, "before")
        assert await store.find_or_claim("before") == BEST
        set_timing(store, HURRIED)
        getattr(own_redis, fault)()
        asked = await fail_until_open(store)
        assert asked == 2 if fault == "freeze" else asked >= 2  # a killed one refuses at once
        await assert_left_alone(store)
        await probed_in_vain(store)
        assert store.counted.told(CACHE_BREAKER_OPEN) == [False, True]
        assert len(lines(caplog)) == 1
        assert "without the shared cache" in lines(caplog)[0]

        set_timing(store, PATIENT)
        await asyncio.to_thread(own_redis.thaw if fault == "freeze" else own_redis.start)
        await until(lambda: not store.is_left_alone, "healing")
        assert await store.find_or_claim("after") is None
        store.keep("after", OTHERS)
        async with Redis.from_url(own_redis.url) as raw:
            await written(raw, "after", OTHERS)
        assert await store.find_or_claim("after") == OTHERS
        assert len(lines(caplog)) == 2
        assert "answers again" in lines(caplog)[1]


async def test_a_burst_meets_a_frozen_redis_and_is_held_up_once(own_redis: RedisServer) -> None:
    async with stores(own_redis.url) as [store]:
        set_timing(store, HURRIED)
        own_redis.freeze()
        found = await asyncio.gather(*(store.find_or_claim(f"k{number}") for number in range(200)))
        assert found == [None] * 200
        # Some ask; some more may have been on their way when those had waited in vain.
        assert 2 <= store.counted.of(CACHE_FAULTS)["unreachable"] <= 2 * _AT_A_TIME
        own_redis.thaw()


async def test_who_gets_no_turn_within_the_time_of_a_lookup_goes_on_alone_and_redis_is_not_blamed(url: str) -> None:
    async with stores(url) as [store]:
        set_timing(store, HURRIED)
        async with AsyncExitStack() as others:
            for _ in range(_AT_A_TIME):
                await others.enter_async_context(store._at_a_time)
            async with asyncio.timeout(HANG_S):
                assert await store.find_or_claim("k") is None
        set_timing(store, PATIENT)
        assert not store._claimed
        assert store.counted.of(CACHE_FAULTS).total() == 0
        assert await store.find_or_claim("k") is None
        assert list(store._claimed) == ["k"]


async def test_redis_has_the_rest_of_a_lookups_time_after_its_turn_and_half_of_it_at_least(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stores(url) as [store]:
        limits_s: list[float] = []
        send = store._send

        async def note(commands: Iterable[tuple[str | bytes | int, ...]], timeout_s: float) -> list[Any]:
            limits_s.append(timeout_s)
            return await send(commands, timeout_s)

        monkeypatch.setattr(store, "_send", note)
        async with AsyncExitStack() as others:
            for _ in range(_AT_A_TIME):
                await others.enter_async_context(store._at_a_time)
            looking = asyncio.create_task(store.find_or_claim("k"))
            await asyncio.sleep(0.01)
        assert await looking is None
        assert PATIENT.answer_s / 3 < limits_s[0] < PATIENT.answer_s


async def test_who_waits_for_another_replica_and_gets_no_turn_waits_on(url: str) -> None:
    async with stores(url, 2) as (one, other):
        assert await one.find_or_claim("k") is None
        set_timing(other, replace(PATIENT, answer_s=4))  # half of it for a turn, and the rest for Redis
        waiting = asyncio.create_task(other.find_or_claim("k"))
        await until(lambda: other._waited_for == 1, "that the other replica waits")
        async with AsyncExitStack() as all_turns:
            for _ in range(_AT_A_TIME):
                await all_turns.enter_async_context(other._at_a_time)
            before = other.looks
            await until(lambda: other.looks > before, "a look that gets no turn")
            set_timing(other, PATIENT)
        one.keep("k", BEST)
        assert await waiting == BEST


async def test_who_waits_for_another_replica_when_redis_freezes_goes_on_alone(own_redis: RedisServer) -> None:
    timing = replace(PATIENT, answer_s=HANG_S / 3, look_again_s=0.5)
    async with stores(own_redis.url, 2, timing) as (one, other):
        await one.find_or_claim("k")
        waiting = asyncio.create_task(other.find_or_claim("k"))
        await until(lambda: other.looks == 2, "the look that follows the subscription")
        assert not waiting.done()
        set_timing(other, HURRIED)
        own_redis.freeze()
        async with asyncio.timeout(HANG_S):
            assert await waiting is None
        set_timing(one, HURRIED)
        own_redis.thaw()


async def test_a_restart_of_redis_between_two_requests_costs_a_miss_at_most(own_redis: RedisServer) -> None:
    async with stores(own_redis.url) as [store]:
        await store.find_or_claim("k")
        store.give_up("k")
        async with Redis.from_url(own_redis.url) as raw:
            await gone(raw, "k")  # a claim would be renewed, perhaps in the moment of the restart
        await asyncio.to_thread(own_redis.stop)
        await asyncio.to_thread(own_redis.start)
        assert await store.find_or_claim("another") is None
        store.keep("another", BEST)
        async with Redis.from_url(own_redis.url) as raw:
            await written(raw, "another")
        assert await store.find_or_claim("another") == BEST
        assert store.counted.told(CACHE_BREAKER_OPEN) == [False]
        assert (
            store.counted.of(CACHE_FAULTS)["unreachable"] <= 1
        )  # that its connection has ended is known when it is used


async def test_a_redis_that_is_down_at_the_start_is_taken_when_it_comes(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own_redis.stop()
    async with stores(own_redis.url) as [store]:
        assert store.counted.told(CACHE_BREAKER_OPEN) == [True, True]
        await assert_left_alone(store)
        await probed_in_vain(store)
        own_redis.start()
        await until(lambda: not store.is_left_alone, "healing")
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
        await until(lambda: store.counted.of(CACHE_FAULTS)["write_refused"] >= 40, "the refusal of claims and results")
        assert await store.find_or_claim("before") == BEST
        assert store.counted.told(CACHE_BREAKER_OPEN) == [False]
        assert store.counted.of(CACHE_FAULTS)["unreachable"] == 0
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
                await until(lambda: not store._unwritten, "the writing")

        async def has_all() -> bool:
            return int((await raw.info("commandstats"))["cmdstat_set"]["calls"]) == 1 + 2000

        await until(has_all, "the writing of all")
        assert store.counted.of(CACHE_FAULTS) == {}
        assert (await raw.info("stats"))["evicted_keys"] > 100
        assert len(await raw.keys()) > 100
        assert await raw.get("a job") == b"x" * 1000


async def test_a_slow_redis_is_left_alone_and_its_late_answers_are_nobodys(own_redis: RedisServer) -> None:
    async with (
        LateRedis(own_redis, 0).open() as way,
        stores(way.url) as [store],
        Redis.from_url(own_redis.url) as raw,
    ):
        store.keep("before", BEST)
        await written(raw, "before")
        assert await store.find_or_claim("before") == BEST
        set_timing(store, HURRIED)
        way.late_s = 2 * HURRIED.answer_s
        assert await fail_until_open(store) == 2
        await assert_left_alone(store)
        await probed_in_vain(store)

        set_timing(store, PATIENT)
        way.late_s = 0
        await until(lambda: not store.is_left_alone, "healing")
        assert await store.find_or_claim("another") is None
        assert await store.find_or_claim("before") == BEST


async def test_what_answers_in_another_protocol_is_left_alone() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n:12x\r\n*-9\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with stores(f"redis://127.0.0.1:{port}/0") as [store]:
            await assert_left_alone(store)
            await probed_in_vain(store)


async def test_a_user_who_may_not_read_is_a_failure_that_does_not_flap(
    own_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with redis.Redis.from_url(own_redis.url) as raw:
        raw.acl_setuser("default", commands=["-getrange"], enabled=True, nopass=True, keys=["*"], channels=["*"])
    async with stores(own_redis.url) as [store]:
        await probed_in_vain(store)
        assert await store.find_or_claim("k") is None
        assert len(lines(caplog)) == 1


async def test_writes_are_bounded_while_redis_takes_none(own_redis: RedisServer) -> None:
    async with stores(own_redis.url) as [store]:
        own_redis.freeze()
        for number in range(1000):
            store.keep(f"k{number}", BEST)
        assert store.counted.of(CACHE_FAULTS) == {"write_dropped": 1000 - _MOST_UNWRITTEN}
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
