"""All that one replica does about jobs, put together: the store for its API, who waits there, and the worker."""

import asyncio
import logging
from typing import Protocol

from serve_app.classifier.answer import Prediction
from serve_app.classifier.job_settings import HELD_PER_UPLOAD, JobSettings
from serve_app.errors import Overloaded
from serve_app.jobs.outage import Outage
from serve_app.jobs.queue.claims import JobClaims
from serve_app.jobs.queue.submit import JobStore
from serve_app.jobs.queue.timing import SHIPPED, JobTiming
from serve_app.jobs.waiters import Waiters
from serve_app.jobs.worker import Worker
from serve_app.metrics import JOBS_OLDEST_S, JOBS_QUEUED, JOBS_RUNNING, Metrics
from serve_app.redis.ending import end_tasks
from serve_app.shares import Resource
from serve_app.uploads import UploadBudget

logger = logging.getLogger(__name__)

_COUNT_S = 5.0
_HELD_RETRY_S = 5


class Classifies(Protocol):
    """What the worker needs of a classifier."""

    def is_idle(self) -> bool:
        """Tell whether no client waits for a prediction. Raises NotReady when none can be computed."""

    async def predict_in_background(self, data: bytes, top_k: int) -> Prediction:
        """Return the classes of a picture. Raises ServiceError and whatever the engine raises."""


class ReplicaJobs:
    """The jobs of one replica, from when it is made until `close`. Redis may come and go meanwhile."""

    def __init__(
        self,
        url: str,
        classifier: Classifies,
        settings: JobSettings,
        metrics: Metrics | None = None,
        timing: JobTiming = SHIPPED,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.store = JobStore(url, settings, timing)
        largest_bytes = int(HELD_PER_UPLOAD * settings.max_job_bytes)
        self.uploads = UploadBudget(settings.max_held_bytes, largest_bytes, _refusal, Resource.JOB_BYTES)
        self._claims = JobClaims(url, settings, timing)
        self._outage = Outage()
        self.waiters = Waiters(self.store, self._outage, settings.max_waiters, timing.recheck_s)
        self._worker = Worker(
            self._claims,
            classifier.predict_in_background,
            classifier.is_idle,
            self._outage,
            self.metrics,
            at_a_time=2 * settings.max_batch,  # one batch in the engine, one ready for it
            lease_s=settings.lease_s,
            timing=timing,
        )
        self._tasks = [asyncio.create_task(self._open()), asyncio.create_task(self._keep_counting())]

    async def close(self) -> None:
        """Give back what is not done and end everything."""
        await end_tasks(self._tasks)
        await self._worker.close()
        await self.waiters.close()
        await self._claims.close()
        await self.store.close()

    async def _open(self) -> None:
        self._worker.start()  # makes the queue if it is not there; a full Redis must not keep it from what is
        for warning in await self._outage.outlast(self._claims.warnings):
            logger.warning(warning)

    async def _keep_counting(self) -> None:
        await self._outage.run_forever(self._count, _COUNT_S)

    async def _count(self) -> None:
        counts = await self.store.counts()
        self.metrics.set(JOBS_QUEUED, counts.waiting)
        self.metrics.set(JOBS_RUNNING, counts.running)
        self.metrics.set(JOBS_OLDEST_S, counts.oldest_s)


def _refusal(held_bytes: int) -> Overloaded:
    return Overloaded(f"job uploads of {held_bytes:,} bytes are in memory already; try again later", _HELD_RETRY_S)
