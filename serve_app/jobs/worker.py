"""Works jobs off inside a classifier replica, when no client waits for a prediction: no second copy of the network.

It reads the queue, keeps its claims alive, and takes over those of workers that fell silent. A picture taken over may
be why they did: it runs with no other job picture beside it, so that only it pays if this worker ends as well.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from serve_app.classifier.answer import Prediction
from serve_app.errors import POISON, JobsUnavailable, NotReady, Overloaded, ServiceError
from serve_app.jobs.job import FileResult, JobFault
from serve_app.jobs.outage import Outage
from serve_app.jobs.queue.claims import Claim, DeadLetter, JobClaims, Work
from serve_app.jobs.queue.state import State
from serve_app.jobs.queue.timing import SHIPPED, JobTiming
from serve_app.metrics import JOBS_DEAD_LETTERS, JOBS_ENDED, Metrics
from serve_app.redis.ending import end_tasks

logger = logging.getLogger(__name__)

Classify = Callable[[bytes, int], Awaitable[Prediction]]
"""Returns the classes of a picture, given how many. Raises ServiceError and whatever the engine raises."""

CheckIdle = Callable[[], bool]
"""Tells whether no client waits; raises NotReady when nothing can be classified."""

_IDLE_POLL_S = 0.02
_BROKEN_PAUSE_S = 1.0
_CLIENTS_FAULT = range(400, 500)


class Worker:
    """Takes up to `at_a_time` pictures, from `start` until `close`."""

    def __init__(  # noqa: PLR0913 what it is made of
        self,
        claims: JobClaims,
        classify: Classify,
        is_idle: CheckIdle,
        outage: Outage,
        metrics: Metrics,
        *,
        at_a_time: int,
        lease_s: float,
        timing: JobTiming = SHIPPED,
    ) -> None:
        self._claims = claims
        self._classify = classify
        self._is_idle = is_idle
        self._outage = outage
        self._metrics = metrics
        self._at_a_time = at_a_time
        self._timing = timing
        self._settle_s = min(lease_s, timing.settle_s)
        self._renew_s = min(lease_s / 5, timing.renew_s)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._classifying: set[str] = set()
        self._looked_s = 0.0
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; Redis need not be there yet."""
        steps = ((self._take_turn, 0.0), (self._renew, self._renew_s), (self._sweep, self._timing.sweep_s))
        self._loops = [asyncio.create_task(self._outage.run_forever(step, pause_s)) for step, pause_s in steps]

    async def close(self) -> None:
        """Stop, and give back what is not done, for others to begin with at once."""
        entries = list(self._running)
        await end_tasks([*self._loops, *self._running.values()])
        try:
            async with asyncio.timeout(self._timing.give_back_s):
                for entry in entries:
                    await self._claims.give_back(entry)
        except (JobsUnavailable, Overloaded, TimeoutError):
            pass  # they lapse

    async def _take_turn(self) -> None:
        """Take over what lapsed, or else read what is new."""
        await self._wait_for_idle()
        if await self._take_over():
            return
        while len(self._running) >= self._at_a_time:
            await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED, timeout=self._timing.look_s)
            await self._wait_for_idle()
        for entry in await self._claims.read(self._at_a_time - len(self._running)):
            self._begin(entry)

    async def _take_over(self) -> bool:
        """Run one picture of a silent worker alone. Returns whether there was one."""
        now_s = time.monotonic()
        if now_s < self._looked_s + self._timing.look_s or self._outage.stable_s < self._settle_s:
            return False
        if not await self._claims.has_lapsed():
            self._looked_s = now_s
            return False
        while self._running:
            await asyncio.wait(self._running.values())
        if entry := await self._claims.reclaim():
            await asyncio.wait([self._begin(entry)])
        return True

    async def _wait_for_idle(self) -> None:
        while True:
            try:
                if self._is_idle():
                    return
            except NotReady:
                await asyncio.sleep(_BROKEN_PAUSE_S)
            await asyncio.sleep(_IDLE_POLL_S)

    def _begin(self, entry: str) -> asyncio.Task[None]:
        task = self._running[entry] = asyncio.create_task(self._run(entry))
        task.add_done_callback(lambda _: self._end(entry, task))
        return task

    def _end(self, entry: str, task: asyncio.Task[None]) -> None:
        self._running.pop(entry, None)
        if not task.cancelled() and (fault := task.exception()):  # its claim lapses, which counts as an attempt
            logger.error("a picture of a job could not be handled", exc_info=fault)

    async def _run(self, entry: str) -> None:
        work = await self._outage.outlast(lambda: self._claims.begin(entry))
        if isinstance(work, DeadLetter):
            fault = JobFault(code=POISON.code, detail=POISON.detail % (work.attempts, work.reason))
            await self._finish(work, FileResult(name=work.name, index=work.index, error=fault))
            self._metrics.count(JOBS_DEAD_LETTERS)
        elif work is not None:
            await self._work_off(work)

    async def _work_off(self, work: Work) -> None:
        try:
            result = await self._classify_or_refuse(work)
        except NotReady:
            await self._outage.outlast(lambda: self._claims.give_back(work.entry))
            return
        except Exception as exc:
            logger.exception("picture %d of job %s failed and is tried again later", work.index, work.job)
            reason = type(exc).__name__  # its text is for the log: clients read this
            await self._outage.outlast(lambda: self._claims.give_back(work.entry, work, reason))
            return
        await self._finish(work, result)

    async def _classify_or_refuse(self, work: Work) -> FileResult:
        result = FileResult(name=work.name, index=work.index)
        self._classifying.add(work.entry)
        try:
            result.prediction = await self._classify(work.picture, work.top_k)
        except ServiceError as exc:
            if exc.status not in _CLIENTS_FAULT:
                raise
            result.error = JobFault(code=exc.code, detail=exc.detail)
        finally:
            self._classifying.discard(work.entry)
        return result

    async def _finish(self, claim: Claim, result: FileResult) -> None:
        error = (result.error.code, result.error.detail) if result.error else None
        text = result.model_dump_json()
        if state := await self._outage.outlast(lambda: self._claims.finish(claim, text, error)):
            self._metrics.count(JOBS_ENDED, state)

    async def _renew(self) -> None:
        # Without entries too: whoever outlasts a call takes its return for an answer of Redis.
        for entry in await self._claims.renew(list(self._running)):
            # One that is ending just now has no claim any more either, and its end is still to be counted.
            if entry in self._classifying:
                self._running[entry].cancel()

    async def _sweep(self) -> None:
        with suppress(Overloaded):  # a full Redis makes nothing, and that it is there is likely
            await self._claims.open()
        for _ in range(await self._claims.sweep()):
            self._metrics.count(JOBS_ENDED, State.FAILED)
