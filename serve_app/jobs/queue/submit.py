"""The job queue as the API sees it: submit, look, cancel, hear what has ended. `claims` is the other side."""

import hashlib
import math
import secrets
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from serve_app.classifier.job_settings import FILE_BYTES, JobSettings
from serve_app.errors import IdempotencyKeyReused, JobsUnavailable, Overloaded
from serve_app.jobs.queue.calls import JobCalls
from serve_app.jobs.queue.state import State
from serve_app.jobs.queue.timing import SHIPPED, JobTiming

_STAGED_S = 300
_PACE_S = 60.0
_LONGEST_RETRY_S = 60
_UNKNOWN_RETRY_S = 30


@dataclass(frozen=True)
class Submission:
    """What a client wants done: pictures with their names, and the hash over all of it that tells a repetition."""

    files: list[tuple[str, bytes]]
    top_k: int
    content: str

    @property
    def bytes(self) -> int:
        """What all pictures together take in Redis."""
        return sum(len(data) + FILE_BYTES for _, data in self.files)


@dataclass(frozen=True)
class Submitted:
    """The job that a submission led to, and whether that was an earlier one's with the same idempotency key."""

    id: str
    is_replayed: bool


@dataclass(frozen=True)
class StoredJob:
    """A job as Redis has it at one moment; times are milliseconds since 1970, results JSON in the files' order."""

    id: str
    state: State
    position: int | None
    files: int
    files_done: int
    attempts: int
    created_ms: int
    started_ms: int | None
    ended_ms: int | None
    expires_ms: int | None
    error: tuple[str, str] | None
    results: list[bytes]


@dataclass(frozen=True)
class Counts:
    """How full the queue is."""

    waiting: int
    running: int
    bytes: int
    oldest_s: float


def make_id() -> str:
    """Return a new job's id, which cannot be guessed. A hyphen at its beginning would make it an option of commands."""
    while (drawn := secrets.token_urlsafe(16)).startswith("-"):
        pass
    return drawn


class JobStore:
    """The jobs of one queue. Everything raises JobsUnavailable when Redis does not answer within `client_s`."""

    def __init__(self, url: str, settings: JobSettings, timing: JobTiming = SHIPPED) -> None:
        self._settings = settings
        self._listen_s = timing.listen_s
        self._calls = JobCalls(url, settings.queue, timing.client_s)
        self._listening = JobCalls(url, settings.queue, timing.listener_s)
        self._ended = f"{self._calls.prefix}ended"
        self._ended_at_s: deque[float] = deque(maxlen=1000)

    async def check_room(self) -> None:
        """Return if one more job might be taken. Raises Overloaded."""
        counts = await self.counts()
        if counts.waiting >= self._settings.max_waiting:
            raise self._full(counts.waiting, f"{counts.waiting} jobs are waiting already")

    async def submit(self, submission: Submission, key: str) -> Submitted:
        """Put a job at the end of the queue, unless `key` (or '') has led to one already.

        Raises Overloaded when the queue is full, and IdempotencyKeyReused.
        """
        job = make_id()
        hashed = hashlib.sha256(key.encode()).hexdigest() if key else ""
        if known := await self._enter(job, submission, hashed, is_trial=True):
            return known
        try:
            await self._stage(job, submission)
            submitted = await self._enter(job, submission, hashed, is_trial=False)
        except (Overloaded, IdempotencyKeyReused):
            await self._unstage(job)
            raise
        if submitted is None:
            raise JobsUnavailable("Redis lost the pictures while they were stored; send them again")
        if submitted.is_replayed:  # the same request came twice at once
            await self._unstage(job)
        return submitted

    async def find(self, job: str) -> StoredJob | None:
        """Return a job, or None if there is none (any more)."""
        fields, position, results = await self._calls.script("find", job)
        return _stored(job, _pairs(fields), position, _pairs(results)) if fields else None

    async def is_open(self, job: str) -> bool:
        """Tell whether a job waits or runs, without reading its results."""
        found: Any = await self._calls.call(lambda redis: redis.hmget(self._key("job", job), "state"))
        return found[0] is not None and not State(found[0].decode()).has_ended

    async def cancel(self, job: str) -> State | None:
        """End a job that has not ended: its state if it had, else None. Whoever works on it stops soon."""
        state = await self._calls.script("cancel", job, _ms(self._settings.result_ttl_s))
        return None if state in (b"", b"cancelled now") else State(state.decode())

    async def counts(self) -> Counts:
        """Return how full the queue is."""
        waiting, running, held, oldest_ms = await self._calls.script("counts")
        return Counts(waiting, running, held, oldest_ms / 1000)

    async def last_ended(self) -> str:
        """Return the mark of the job that ended last."""
        found: Any = await self._listening.call(lambda redis: redis.xrevrange(self._ended, count=1))
        return found[0][0].decode() if found else "0-0"

    async def hear_ended(self, mark: str) -> tuple[list[str], str]:
        """Return the jobs that ended after the one with this mark, and the mark of the last of them.

        Waits up to `listen_s` for the first of them.
        """
        block_ms = _ms(self._listen_s)
        found: Any = await self._listening.call(lambda redis: redis.xread({self._ended: mark}, block=block_ms))
        if not found:
            return [], mark
        entries = found[0][1]
        self._ended_at_s.extend([time.monotonic()] * len(entries))
        return [fields[b"job"].decode() for _, fields in entries], entries[-1][0].decode()

    async def close(self) -> None:
        """End the connections."""
        await self._calls.close()
        await self._listening.close()

    async def _enter(self, job: str, submission: Submission, hashed: str, *, is_trial: bool) -> Submitted | None:
        """Submit the staged job, or only look whether that would do. Returns None where there is nothing yet."""
        limits = self._settings
        became, found = await self._calls.script(
            "submit",
            *(job, hashed, submission.content, len(submission.files), submission.bytes),
            *(limits.max_waiting, limits.max_waiting_bytes, submission.top_k, "1" if is_trial else ""),
            *(() if is_trial else (name for name, _ in submission.files)),
        )
        match became:
            case b"submitted" | b"replayed":
                return Submitted(found.decode(), is_replayed=became == b"replayed")
            case b"reused":
                raise IdempotencyKeyReused(
                    "the Idempotency-Key belongs to another job, whose files or top_k are others; "
                    "use a new key for other content"
                )
            case b"full":
                raise self._full(found, f"{found} jobs are waiting already")
            case b"full_bytes":
                raise self._full((await self.counts()).waiting, f"pictures of {found:,} bytes are waiting already")
        return None

    async def _stage(self, job: str, submission: Submission) -> None:
        """Store the pictures one by one, so that Redis is never busy with all of them at once."""
        key = self._key("input", job)
        for index, (_, data) in enumerate(submission.files):

            async def store(redis: Redis, index: int = index, data: bytes = data) -> None:
                async with redis.pipeline(transaction=True) as pipe:
                    pipe.hset(key, str(index), data)
                    pipe.expire(key, _STAGED_S)
                    await pipe.execute()

            await self._calls.call(store)

    async def _unstage(self, job: str) -> None:
        await self._calls.call(lambda redis: redis.unlink(self._key("input", job)))

    def _full(self, waiting: int, detail: str) -> Overloaded:
        """Come back when a tenth of the queue is worked off, at the pace of the last minute."""
        since_s = time.monotonic() - _PACE_S
        ended = sum(ended_at_s > since_s for ended_at_s in self._ended_at_s)
        wait_s = math.ceil(waiting / 10 * _PACE_S / ended) if ended else _UNKNOWN_RETRY_S
        return Overloaded(f"{detail}; try again later", retry_after_s=min(max(1, wait_s), _LONGEST_RETRY_S))

    def _key(self, kind: str, job: str) -> str:
        return f"{self._calls.prefix}{kind}:{job}"


def _stored(job: str, fields: dict[bytes, bytes], position: int | None, results: dict[bytes, bytes]) -> StoredJob:
    def ms(name: bytes) -> int | None:
        return int(fields[name]) if name in fields else None

    code = fields.get(b"code", b"").decode()
    return StoredJob(
        id=job,
        state=State(fields[b"state"].decode()),
        position=position,
        files=int(fields[b"files"]),
        files_done=int(fields[b"done"]),
        attempts=int(fields[b"attempts"]),
        created_ms=int(fields[b"created"]),
        started_ms=ms(b"started"),
        ended_ms=ms(b"ended"),
        expires_ms=ms(b"expires"),
        error=(code, fields[b"detail"].decode()) if code else None,
        results=[results[index] for index in sorted(results, key=int)],
    )


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _ms(seconds: float) -> int:
    return int(1000 * seconds)
