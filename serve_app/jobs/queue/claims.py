"""The job queue as one worker sees it: take pictures, keep them while at work, finish them or give them back."""

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from serve_app.classifier.job_settings import JobSettings
from serve_app.jobs.queue.calls import JobCalls
from serve_app.jobs.queue.scripts import GROUP, UNBEGUN
from serve_app.jobs.queue.timing import SHIPPED, JobTiming

_FORGOTTEN_S = 3600
_NO_REASON = "the worker ended while it had this picture"


@dataclass(frozen=True)
class Claim:
    """One picture of one job that a worker holds."""

    entry: str
    job: str
    index: int
    name: str


@dataclass(frozen=True)
class Work(Claim):
    """One that is to be classified."""

    top_k: int
    picture: bytes


@dataclass(frozen=True)
class DeadLetter(Claim):
    """One that is to be given up: so many attempts have failed, the last one for this reason."""

    attempts: int
    reason: str


class JobClaims:
    """What one worker holds of the queue. Calls raise JobsUnavailable, and Overloaded when Redis is full."""

    def __init__(self, url: str, settings: JobSettings, timing: JobTiming = SHIPPED) -> None:
        self._settings = settings
        self._read_ms = int(1000 * timing.read_s)
        self._calls = JobCalls(url, settings.queue, timing.worker_s)
        self._stream = f"{self._calls.prefix}stream"
        self._worker = secrets.token_hex(8)
        self._ttl_ms = int(1000 * settings.result_ttl_s)

    async def open(self) -> None:
        """Make the queue if it is not there (yet, or any more)."""
        await self._calls.call(lambda redis: _make_group(redis, self._stream))

    async def read(self, count: int) -> list[str]:
        """Return up to `count` entries that nobody had before, after waiting up to `read_s` for the first."""

        async def read(redis: Redis) -> Any:
            try:
                return await redis.xreadgroup(
                    GROUP, self._worker + UNBEGUN, {self._stream: ">"}, count=count, block=self._read_ms
                )
            except ResponseError as exc:
                if "NOGROUP" not in str(exc):
                    raise
                await _make_group(redis, self._stream)  # Redis has lost everything
                return []

        found = await self._calls.call(read)
        return [entry.decode() for entry, _ in found[0][1]] if found else []

    async def has_lapsed(self) -> bool:
        """Tell whether some worker has been silent for lease_s about an entry it holds, or has given one back."""
        return bool(await self._reclaim("1"))

    async def reclaim(self) -> str | None:
        """Take over one such entry, if there is one left."""
        entry = await self._reclaim("")
        return entry.decode() or None

    async def begin(self, entry: str) -> Work | DeadLetter | None:
        """Return what there is to do for an entry: None when its job has ended, or somebody else has it by now.

        A picture that was begun max_attempts times before, and never finished, is a dead letter. A picture whose entry
        got lost on the way from Redis was not begun.
        """
        most = self._settings.max_attempts
        found = await self._calls.script("begin", entry, self._worker, most)
        match found:
            case [b"work", job, index, name, top_k, picture]:
                return Work(entry, job.decode(), int(index), name.decode(), int(top_k), picture)
            case [b"dead", job, index, name, reason]:
                why = reason.decode() or _NO_REASON
                return DeadLetter(entry, job.decode(), int(index), name.decode(), most, why)
        return None

    async def finish(self, claim: Claim, result: str, error: tuple[str, str] | None) -> str:
        """Store a picture's result, unless there is one. Returns the job's state if that ended it, else ''.

        A dead letter is kept as well: what it is about, and the picture.
        """
        code, detail = error or ("", "")
        letter = (claim.name, claim.attempts, claim.reason) if isinstance(claim, DeadLetter) else ()
        state = await self._calls.script(
            "finish", claim.entry, claim.job, claim.index, result, code, detail, self._ttl_ms, *letter
        )
        return str(state.decode())

    async def give_back(self, entry: str, work: Work | None = None, reason: str = "") -> None:
        """Let any worker have the entry at once; a `reason` marks a failed attempt, which is retried after lease_s."""
        job, index = (work.job, work.index) if work else ("", 0)
        await self._calls.script("give_back", entry, self._worker, job, index, reason)

    async def renew(self, entries: list[str]) -> list[str]:
        """Say of each entry that it is being worked on; return those that are lost to others or to a cancellation."""
        lost = await self._calls.script("renew", self._worker, *entries)
        return [entry.decode() for entry in lost]

    async def sweep(self) -> int:
        """Fail the jobs that waited for max_wait_s, forget dead workers. Returns how many jobs failed."""
        expired = await self._calls.script(
            "sweep", int(1000 * self._settings.max_wait_s), self._ttl_ms, 1000 * _FORGOTTEN_S
        )
        return int(expired)

    async def warnings(self) -> list[str]:
        """Return what in the settings of Redis may cost jobs; nothing where it does not tell them."""

        async def ask(redis: Redis) -> list[dict[str | None, str | None]]:
            try:
                return [await redis.config_get(name) for name in ("maxmemory-policy", "appendonly")]
            except ResponseError:  # CONFIG is often forbidden
                return []

        told: dict[str | None, str | None] = {}
        for answer in await self._calls.call(ask):
            told |= answer
        found = []
        if (policy := told.get("maxmemory-policy") or "").startswith("allkeys"):
            found.append(f"Redis may throw jobs away: set maxmemory-policy to volatile-lru or noeviction, not {policy}")
        if told.get("appendonly") == "no":
            found.append("jobs end with Redis: set appendonly to yes there if they are to survive its restart")
        return found

    async def close(self) -> None:
        """End the connections. What is still held lapses."""
        await asyncio.shield(self._calls.close())

    async def _reclaim(self, is_trial: str) -> bytes:
        found: bytes = await self._calls.script("reclaim", self._worker, int(1000 * self._settings.lease_s), is_trial)
        return found


async def _make_group(redis: Redis, stream: str) -> None:
    try:
        await redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
    except ResponseError as exc:
        if "BUSYGROUP" not in str(exc):
            raise
