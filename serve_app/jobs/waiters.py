"""Lets requests wait for the end of a job: one listener at Redis for all of them, not a poll for each."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from serve_app.errors import NotFound, Overloaded
from serve_app.jobs.outage import Outage
from serve_app.jobs.queue.submit import JobStore, StoredJob
from serve_app.redis.ending import end_tasks
from serve_app.shares import EVERYONE, Account, Resource


class Waiters:
    """Who waits for which job, in this replica."""

    def __init__(self, store: JobStore, outage: Outage, max_waiters: int, recheck_s: float) -> None:
        self._store = store
        self._recheck_s = recheck_s
        self._outage = outage
        self._max_waiters = max_waiters
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._waiting = 0
        self._mark = ""
        self._listener = asyncio.create_task(outage.run_forever(self._listen))

    async def find(self, job: str, wait_s: float, account: Account = EVERYONE) -> StoredJob:
        """Return a job once it has ended, or as it is after `wait_s`.

        Raises NotFound, Overloaded when too many wait already, ShareExceeded when too many of this client do, and
        JobsUnavailable.
        """
        found = await self._find(job)
        if found.state.has_ended or not wait_s:
            return found
        deadline_s = time.monotonic() + wait_s
        with self._bell(job, account) as bell:
            # Asked again with the bell in place: it may have ended just before. Of many results, only once at the end.
            while await self._store.is_open(job):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(bell.wait(), min(left_s, self._recheck_s))
                bell.clear()
        return await self._find(job)

    async def close(self) -> None:
        """Stop listening; who waits sees the end at the next look."""
        await end_tasks([self._listener])

    async def _find(self, job: str) -> StoredJob:
        found = await self._store.find(job)
        if found is None:
            raise NotFound(f"there is no job {job}; it never was, or its result has expired")
        return found

    @contextmanager
    def _bell(self, job: str, account: Account) -> Iterator[asyncio.Event]:
        if self._waiting >= self._max_waiters:
            raise Overloaded(f"{self._waiting} requests wait for jobs already; try again later, or without ?wait=")
        account.check(Resource.WAITERS, 1, self._max_waiters)
        bell = asyncio.Event()
        self._bells.setdefault(job, set()).add(bell)
        self._waiting += 1
        try:
            with account.holding(Resource.WAITERS):
                yield bell
        finally:
            self._waiting -= 1
            self._bells[job].discard(bell)
            if not self._bells[job]:
                del self._bells[job]

    async def _listen(self) -> None:
        if not self._mark:
            self._mark = await self._store.last_ended()
        ended, self._mark = await self._store.hear_ended(self._mark)
        for job in ended:
            for bell in self._bells.get(job, ()):
                bell.set()
