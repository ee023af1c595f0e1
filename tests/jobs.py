"""A classifier's API with jobs at a real Redis, through ASGI without Ray, for the tests."""

import asyncio
import io
import uuid
import zipfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.job_settings import JobSettings
from serve_app.jobs.api import add_job_routes
from serve_app.jobs.queue.timing import JobTiming
from serve_app.jobs.replica import ReplicaJobs
from tests.counted import Counted
from tests.patience import HANG_S, PATIENT_JOBS, until

LEASE_S = HANG_S
"""No worker that lives loses a picture, however long the machine stands still."""


@dataclass(frozen=True)
class Desk:
    """One replica: its API, an HTTP client of it, its jobs, its counts."""

    api: FastAPI
    http: httpx.AsyncClient
    jobs: ReplicaJobs
    settings: JobSettings
    counted: Counted

    async def submit(self, *pictures: bytes, top_k: int = 5, key: str | None = None) -> httpx.Response:
        """Send pictures as one job, named 0.jpg, 1.jpg, …"""
        files = [("file", (f"{index}.jpg", picture)) for index, picture in enumerate(pictures)]
        headers = {"Idempotency-Key": key} if key is not None else {}
        return await self.http.post("/jobs", params={"top_k": top_k}, files=files, headers=headers)

    async def accepted(self, *pictures: bytes, top_k: int = 5) -> str:
        """Send a job that is taken, and return its id."""
        response = await self.submit(*pictures, top_k=top_k)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    async def look(self, job: str) -> dict[str, Any]:
        """Return a job as it is now."""
        response = await self.http.get(f"/jobs/{job}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def ended(self, job: str) -> dict[str, Any]:
        """Return a job once it has ended, also while Redis comes and goes; fails after HANG_S."""
        async with asyncio.timeout(HANG_S):
            while True:
                response = await self.http.get(f"/jobs/{job}", params={"wait": 5})
                if response.status_code == 503:
                    await asyncio.sleep(0.1)
                    continue
                found: dict[str, Any] = response.json()
                if found["state"] not in ("queued", "running"):
                    return found

    async def counted_ends(self, *states: str) -> None:
        """Return once the replica has counted exactly these ends, which it does after it has told them to Redis."""
        await until(lambda: self.counted.ended_jobs == sorted(states), f"the count of {states}")

    def wait_for_redis(self, at_most_s: float) -> None:
        """Let clients and worker give up after so many seconds from now on."""
        for calls in (self.jobs.store._calls, self.jobs.store._listening, self.jobs._claims._calls):
            calls._timeout_s = at_most_s


@asynccontextmanager
async def replica(
    classifier: Classifier, url: str, timing: JobTiming = PATIENT_JOBS, /, **jobs: object
) -> AsyncIterator[Desk]:
    """Serve `classifier` with the jobs of a queue of its own, unless `queue` is given."""
    given = {"queue": uuid.uuid4().hex, "lease_s": LEASE_S, **jobs}
    settings = JobSettings.model_validate(given)
    counted = Counted()
    opened = ReplicaJobs(url, classifier, settings, counted, timing)
    api = build_model_api(classifier)
    add_job_routes(api, classifier.settings.model_copy(update={"jobs": settings}), opened)
    transport = httpx.ASGITransport(api, root_path="/model", raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test/model", timeout=60) as http:
            yield Desk(api, http, opened, settings, counted)
    finally:
        await opened.close()


def zipped(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a ZIP of these names and contents."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()
