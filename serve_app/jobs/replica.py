"""All that one replica does about jobs, put together: the store for its API, who waits there, and the worker."""

import asyncio
import logging

from serve_app.classifier.api import Prediction, describe_classification, name_model
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.job_settings import JobSettings
from serve_app.jobs.intake import UploadMemory
from serve_app.jobs.metrics import JobMetrics
from serve_app.jobs.outage import Outage, end_tasks
from serve_app.jobs.queue.claims import JobClaims
from serve_app.jobs.queue.submit import JobStore
from serve_app.jobs.queue.timing import SHIPPED, JobTiming
from serve_app.jobs.waiters import Waiters
from serve_app.jobs.worker import CheckIdle, Classify, Worker

logger = logging.getLogger(__name__)

_COUNT_S = 5.0


class Jobs:
    """The jobs of one replica, from when it is made until `close`. Redis may come and go meanwhile."""

    def __init__(
        self,
        url: str,
        classifier: Classifier,
        settings: JobSettings,
        metrics: JobMetrics | None = None,
        timing: JobTiming = SHIPPED,
    ) -> None:
        self.metrics = metrics or JobMetrics()
        self.store = JobStore(url, settings, timing)
        self.memory = UploadMemory(settings.max_held_bytes)
        self._claims = JobClaims(url, settings, timing)
        self._outage = Outage()
        self.waiters = Waiters(self.store, self._outage, settings.max_waiters, timing.recheck_s)
        self._worker = Worker(
            self._claims,
            _background(classifier),
            _idle(classifier),
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
        self.metrics.set_queue(counts.waiting, counts.running, counts.oldest_s)


def _background(classifier: Classifier) -> Classify:
    labels, model = classifier.prepared.manifest.labels, name_model(classifier)

    async def classify(picture: bytes, top_k: int) -> Prediction:
        return describe_classification(await classifier.classify_in_background(picture, top_k), labels, model)

    return classify


def _idle(classifier: Classifier) -> CheckIdle:
    def is_idle() -> bool:
        classifier.check_ready()
        return classifier.admission.is_idle

    return is_idle
