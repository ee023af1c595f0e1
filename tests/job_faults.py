"""Many jobs over HTTP to the real service while its replicas and Redis are killed; then every job is accounted for.

For tests/serve_app/running/test_durable_jobs.py and tests/benchmarks/durable_jobs.py. Linux, where replicas are found
by their titles.
"""

import asyncio
import hashlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
from redis.asyncio import Redis

from serve_app.jobs.queue.scripts import GROUP, UNBEGUN
from serve_app.redis.connection import connect
from serve_app.redis.keys import jobs_of
from tests.patience import HANG_S
from tests.redis_server import RedisServer
from tests.service import Service

NOT_A_PICTURE = b"not a picture"
PREFIX = jobs_of("model")
_SENDERS = 8
_PAUSE_S = 0.25
_LOOKERS = 8
_REPLICAS = 2


@dataclass(frozen=True)
class Fault:
    """What was done to the service, and when: seconds since 1970."""

    what: str
    at_s: float
    under_way: int = 0
    """Pictures that replicas had begun when one of them was killed."""


@dataclass
class Account:
    """What became of all jobs."""

    jobs: int
    took_s: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    retried_sends: Counter[str] = field(default_factory=Counter)
    ids: int = 0
    pictures: int = 0
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Jobs whose results are not exactly one for each picture, that picture's own."""
    ended_twice: list[str] = field(default_factory=list)
    left_in_redis: dict[str, int] = field(default_factory=dict)
    recovered_s: list[float] = field(default_factory=list)
    """From each kill of a replica to the end of the pictures that were begun before it and tried again after it."""
    recovered_beside_outage_s: list[float] = field(default_factory=list)
    """The same where Redis was killed in between."""

    @property
    def is_clean(self) -> bool:
        """Whether each job ended once, none is lost or stuck, and Redis holds nothing of work any more."""
        told = (self.lost, self.stuck, self.wrong, self.ended_twice)
        return not any(told) and self.ids == self.jobs and not any(self.left_in_redis.values())


def make_uploads(jobs: int, next_picture: Callable[[], bytes]) -> list[list[bytes]]:
    """Return the pictures of each job: mostly one, now and then three of which one is none."""
    return [
        [next_picture()] if number % 25 else [next_picture(), NOT_A_PICTURE, next_picture()] for number in range(jobs)
    ]


@dataclass(frozen=True)
class Plan:
    """Which faults happen, "replica" or "redis", how far apart, how fast jobs come, and how long the last may take."""

    faults: list[str]
    every_s: float
    limit_s: float
    submit_per_s: float


async def run_jobs(running: Service, redis: RedisServer, uploads: list[list[bytes]], plan: Plan) -> Account:
    """Submit all `uploads` and wait for their ends while the faults happen.

    Raises AssertionError when a killed replica does not come back, or no job is under way when one is to be killed.
    """
    account = Account(len(uploads), pictures=sum(len(upload) for upload in uploads))
    before = await _count_jobs(redis)
    began_s = time.monotonic()
    async with httpx.AsyncClient(base_url=f"{running.url}/model", timeout=60) as http:
        breaking = asyncio.create_task(_break(running, redis, account, plan))
        ids = await _submit_all(http, uploads, account, plan.submit_per_s)
        found = await _wait_for_all(http, ids, began_s + plan.limit_s, account)
        account.took_s = time.monotonic() - began_s
        await breaking
        _judge(account, ids, uploads, found)
    await _look_into(redis, account, ids, before)
    return account


async def _break(running: Service, redis: RedisServer, account: Account, plan: Plan) -> None:
    for fault in plan.faults:
        await asyncio.sleep(plan.every_s)
        if fault == "replica":
            victim = random.choice(running.replicas("model"))
            under_way = await _wait_for_claims(redis)
            account.faults.append(Fault(fault, time.time(), under_way))
            victim.kill()
        else:
            account.faults.append(Fault(fault, time.time()))
            redis.kill()
            await asyncio.sleep(1)
            await asyncio.to_thread(redis.start)
    deadline = time.monotonic() + 60
    while len(running.replicas("model")) < _REPLICAS:
        assert time.monotonic() < deadline, "a killed replica was not replaced"
        await asyncio.sleep(0.2)


async def _wait_for_claims(redis: RedisServer) -> int:
    """Return how many pictures replicas have begun, once two of them have some: each may be the one that is killed."""
    client = connect(redis.url, 5)
    deadline = time.monotonic() + HANG_S
    while len(begun := await _begun_pictures(client)) < _REPLICAS:
        assert time.monotonic() < deadline, "no job is under way when a replica is to be killed"
        await asyncio.sleep(0.005)
    await client.aclose()
    return sum(begun.values())


async def _begun_pictures(client: Redis) -> dict[str, int]:
    """Return how many pictures each worker has begun."""
    pending = await client.xpending(f"{PREFIX}stream", GROUP)
    counts = {each["name"].decode(): each["pending"] for each in pending["consumers"]}
    return {name: count for name, count in counts.items() if not name.endswith(UNBEGUN)}


async def _submit_all(http: httpx.AsyncClient, uploads: list[list[bytes]], account: Account, per_s: float) -> list[str]:
    ids = [""] * len(uploads)
    numbers, began_s = iter(range(len(uploads))), time.monotonic()

    async def send() -> None:
        for number in numbers:
            await asyncio.sleep(max(0.0, began_s + number / per_s - time.monotonic()))
            ids[number] = await _submit(http, f"job-{number}", uploads[number], account)

    await asyncio.gather(*(send() for _ in range(_SENDERS)))
    account.ids = len(set(ids))
    return ids


async def _submit(http: httpx.AsyncClient, key: str, pictures: list[bytes], account: Account) -> str:
    """Send until it is taken, always with the same key: a client's part in losing nothing and doing nothing twice."""
    files = [("file", (f"{index}.jpg", picture)) for index, picture in enumerate(pictures)]
    while True:
        pause_s = _PAUSE_S
        try:
            answer = await http.post("/jobs", files=files, headers={"Idempotency-Key": key})
            if answer.status_code == 202:
                return str(answer.json()["id"])
            account.retried_sends[f"{answer.status_code} {answer.json()['code']}"] += 1
            pause_s = min(2.0, float(answer.headers.get("retry-after", pause_s)))
        except httpx.TransportError as exc:
            account.retried_sends[type(exc).__name__] += 1
        await asyncio.sleep(pause_s)


async def _wait_for_all(
    http: httpx.AsyncClient, ids: list[str], until_s: float, account: Account
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    left = iter(ids)

    async def look() -> None:
        for job in left:
            while time.monotonic() < until_s:
                try:
                    answer = await http.get(f"/jobs/{job}", params={"wait": 5})
                except httpx.TransportError:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                if answer.status_code == 404:
                    account.lost.append(job)
                    break
                if answer.status_code == 200:
                    found[job] = answer.json()
                    if found[job]["state"] not in ("queued", "running"):
                        break
                else:
                    await asyncio.sleep(_PAUSE_S)

    await asyncio.gather(*(look() for _ in range(_LOOKERS)))
    return found


def _judge(account: Account, ids: list[str], uploads: list[list[bytes]], found: dict[str, dict[str, Any]]) -> None:
    for job, pictures in zip(ids, uploads, strict=True):
        if job in account.lost:
            continue
        told = found.get(job)
        if told is None or told["state"] in ("queued", "running"):
            account.stuck.append(job)
            continue
        account.states[told["state"]] += 1
        account.attempts[told["attempts"]] += 1
        account.codes.update(result["error"]["code"] for result in told["results"] or [] if result["error"])
        if not _is_right(told, pictures):
            account.wrong.append(job)
        _note_recovery(account, told)


def _is_right(told: dict[str, Any], pictures: list[bytes]) -> bool:
    results = told["results"] or []
    if [result["index"] for result in results] != list(range(len(pictures))):
        return False
    for result, picture in zip(results, pictures, strict=True):
        if result["error"]:
            is_expected = result["error"]["code"] == ("unsupported_image" if picture == NOT_A_PICTURE else "poison")
        else:
            is_expected = result["prediction"]["image_sha256"] == hashlib.sha256(picture).hexdigest()
        if not is_expected:
            return False
    return True


def _note_recovery(account: Account, told: dict[str, Any]) -> None:
    if told["attempts"] < 2 or told["files"] > 1:
        return
    started_s, ended_s = (datetime.fromisoformat(told[name]).timestamp() for name in ("started_at", "ended_at"))
    between = [fault for fault in account.faults if started_s <= fault.at_s <= ended_s]
    kills = [fault.at_s for fault in between if fault.what == "replica"]
    if kills:
        is_alone = len(kills) == len(between)
        (account.recovered_s if is_alone else account.recovered_beside_outage_s).append(ended_s - kills[-1])


async def _count_jobs(redis: RedisServer) -> int:
    """Return how many jobs Redis knows, those of earlier tests included."""
    client = connect(redis.url, 5)
    known = [key async for key in client.scan_iter(f"{PREFIX}job:*", count=1000)]
    await client.aclose()
    return len(known)


async def count_pictures(redis: RedisServer) -> int:
    """Return how many pictures wait in the queue, or are being computed."""
    client = connect(redis.url, 5)
    found: int = await client.xlen(f"{PREFIX}stream")
    await client.aclose()
    return found


async def _count_claims(client: Redis) -> int:
    found: int = (await client.xpending(f"{PREFIX}stream", GROUP))["pending"]
    return found


async def _look_into(redis: RedisServer, account: Account, ids: list[str], before: int) -> None:
    """Count what is left of the queue, and how often each job was announced as ended."""
    client = connect(redis.url, 5)
    announced: Any = await client.xrange(f"{PREFIX}ended")
    ended = Counter(fields[b"job"].decode() for _, fields in announced)
    account.ended_twice = [job for job, times in ended.items() if times > 1]
    account.left_in_redis = {
        "jobs beyond those answered": await _count_jobs(redis) - before - len(set(ids)) + len(account.lost),
        "pictures in the stream": await client.xlen(f"{PREFIX}stream"),
        "claims": await _count_claims(client),
        "waiting": await client.zcard(f"{PREFIX}waiting"),
        "running": await client.scard(f"{PREFIX}running"),
        "bytes of inputs": int(await client.get(f"{PREFIX}bytes") or 0),
        # Those of a submission that was cut off expire by themselves.
        "inputs": sum([await client.ttl(key) == -1 async for key in client.scan_iter(f"{PREFIX}input:*", count=1000)]),
    }
    await client.aclose()


def describe(account: Account) -> list[tuple[str, str]]:
    """Return the account as rows of a table."""
    faults = Counter(fault.what for fault in account.faults)
    rows = [
        ("jobs submitted (pictures)", f"{account.jobs} ({account.pictures})"),
        ("killed with SIGKILL", ", ".join(f"{what} ×{times}" for what, times in faults.items()) or "nothing"),
        ("pictures under way when a replica was killed", _under_way(account)),
        ("seconds until all had ended", f"{account.took_s:.0f}"),
        ("ended as", ", ".join(f"{state} {times}" for state, times in account.states.items())),
        ("errors of single files", ", ".join(f"{code} {times}" for code, times in account.codes.items()) or "none"),
        (
            "tries of a job's pictures",
            ", ".join(f"{tries}: {jobs}" for tries, jobs in sorted(account.attempts.items())),
        ),
        ("submissions sent again", ", ".join(f"{why} {n}" for why, n in account.retried_sends.items()) or "none"),
        ("longest from kill to result elsewhere", _longest(account.recovered_s)),
        ("… where Redis was killed meanwhile", _longest(account.recovered_beside_outage_s)),
        *((f"{name}, jobs", str(len(jobs))) for name, jobs in _judged(account)),
    ]
    return [*rows, *((f"left in Redis: {name}", str(count)) for name, count in account.left_in_redis.items())]


def _under_way(account: Account) -> str:
    return ", ".join(str(fault.under_way) for fault in account.faults if fault.what == "replica") or "none"


def _longest(found_s: list[float]) -> str:
    return f"{max(found_s):.1f} s ({len(found_s)} jobs)" if found_s else "none"


def _judged(account: Account) -> list[tuple[str, list[str]]]:
    return [
        ("lost", account.lost),
        ("stuck", account.stuck),
        ("results not exactly one a picture", account.wrong),
        ("ended twice", account.ended_twice),
    ]


def alternate(replicas: int, restarts: int) -> list[str]:
    """Return that many faults of both kinds, in turns."""
    turns = itertools.zip_longest(["replica"] * replicas, ["redis"] * restarts)
    return [fault for turn in turns for fault in turn if fault]
