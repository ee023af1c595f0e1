"""The jobs of this service: worker and store as they are, with a classifier that only takes its time."""

import asyncio
import os
import sys

from serve_app.classifier.answer import ClassScore, ModelName, Prediction
from serve_app.classifier.job_settings import JobSettings
from serve_app.jobs.outage import Outage
from serve_app.jobs.queue.claims import JobClaims
from serve_app.jobs.queue.submit import JobStore, Submission
from serve_app.jobs.worker import Worker
from serve_app.metrics import Metrics
from tests.benchmarks.queue_workers import task

URL = os.environ["QUEUE_URL"]
SETTINGS = JobSettings.model_validate(
    {"max_waiting": 100_000} | ({"lease_s": float(lease)} if (lease := os.environ["QUEUE_LEASE_S"]) else {})
)
ANSWER = Prediction(
    prediction="none",
    score=1,
    predictions=[ClassScore(label="none", class_id=0, score=1)],
    model=ModelName(name="none", engine="tensorflow", precision="float32", weights="none"),
    image_sha256="",
    cached=False,
)


async def classify(picture: bytes, _top_k: int) -> Prediction:
    """Take the seconds that stand in the picture."""
    number, seconds = picture.decode().split()
    await asyncio.to_thread(task.work, int(number), float(seconds))
    return ANSWER


async def work_off() -> None:
    """Work until the process ends."""
    claims = JobClaims(URL, SETTINGS)
    await claims.open()
    metrics = Metrics()
    Worker(claims, classify, lambda: True, Outage(), metrics, at_a_time=4, lease_s=SETTINGS.lease_s).start()
    await asyncio.Event().wait()


async def send(count: int, seconds: float) -> None:
    """Submit `count` jobs of one picture."""
    store = JobStore(URL, SETTINGS)
    for number in range(count):
        picture = f"{number} {seconds}".encode()
        await store.submit(Submission([("task", picture)], 1, "content"), "")
    await store.close()


if __name__ == "__main__":
    asyncio.run(work_off() if sys.argv[1] == "work" else send(int(sys.argv[2]), float(sys.argv[3])))
