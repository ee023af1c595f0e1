"""Jobs mode: submits batches of pictures as durable jobs and waits for their results."""

import asyncio
import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from serve_app.client.contents import Contents
from serve_app.client.errors import JOB_LOST, ItemError, RunStopped, UsageError
from serve_app.client.items import Item
from serve_app.client.outcome import Outcome
from serve_app.client.predictions import check_prediction
from serve_app.client.progress import Progress
from serve_app.client.service import Service

WAIT_S = 10.0
"""How long one request for a job's state waits for the end of the job."""
MOST_BYTES = 32_000_000
"""Limit of the pictures of one job, which are in memory while they are sent. A larger batch becomes several jobs."""

ENDED = frozenset({"done", "failed", "cancelled"})
_READ_AT_A_TIME = 4
_LEAST_BETWEEN_S = 0.5
"""Shortest time between two requests for a job's state."""

Job = Mapping[str, Any]


@dataclass(frozen=True)
class _Submitted:
    job: Job
    items: Sequence[Item]


class Jobs:
    """The jobs of one run. `open_ids` are the jobs whose outcomes were not returned yet."""

    def __init__(
        self, service: Service, contents: Contents, progress: Progress, fingerprint: Mapping[str, Any]
    ) -> None:
        """`fingerprint` is everything but the pictures that the results depend on; each value has its own jobs."""
        self.open_ids: list[str] = []
        self._service = service
        self._contents = contents
        self._progress = progress
        self._fingerprint = fingerprint
        self._sending = asyncio.Lock()

    async def classify(self, items: Sequence[Item]) -> list[Outcome]:
        """Return the outcome of each item. Raises RunStopped, UsageError."""
        outcomes: dict[Item, Outcome] = {}
        async with self._sending:  # one batch at a time is in memory
            submitted = await self._send(items, outcomes)
        for one in submitted:
            job = await self._follow(one.job)
            found = outcomes_of(job, [item.name for item in one.items])
            self._progress.fail(sum(outcome.prediction is None for outcome in found))
            outcomes.update(zip(one.items, found, strict=True))
        for one in submitted:  # only now: until all have ended, the outcomes of none are returned
            self.open_ids.remove(one.job["id"])
        return [outcomes[item] for item in items]

    async def fetch(self, job_id: str) -> list[Outcome]:
        """Return the outcomes of an existing job once it has ended. Raises RunStopped, UsageError."""
        job = await self._state(job_id, 0)
        if job is None:
            raise UsageError(
                f"--job {job_id}: the service has no such job; it may have expired: classify the files again"
            )
        if job["files"] < 1:
            raise UsageError(f"--job {job_id}: the job has no files, so it has no results")
        self._progress.expect(job["files"])
        self.open_ids.append(job_id)
        job = await self._follow(job)
        outcomes = outcomes_of(job, _names_in(job))
        self._progress.fail(sum(outcome.prediction is None for outcome in outcomes))
        self.open_ids.remove(job_id)
        return outcomes

    async def _send(self, items: Sequence[Item], outcomes: dict[Item, Outcome]) -> list[_Submitted]:
        """Submit the items that can be read; add the errors of the others to `outcomes`."""
        submitted: list[_Submitted] = []
        batch: list[tuple[Item, bytes]] = []
        for start in range(0, len(items), _READ_AT_A_TIME):
            for item, data in await self._read(items[start : start + _READ_AT_A_TIME]):
                if isinstance(data, ItemError):
                    outcomes[item] = self._failed(item, data)
                    continue
                if batch and sum(len(known) for _, known in batch) + len(data) > MOST_BYTES:
                    submitted += await self._submit(batch, outcomes)
                    batch = []
                batch.append((item, data))
        return submitted + (await self._submit(batch, outcomes) if batch else [])

    async def _read(self, items: Sequence[Item]) -> list[tuple[Item, bytes | ItemError]]:
        async def read(item: Item) -> bytes | ItemError:
            try:
                return await self._contents.read(item)
            except ItemError as exc:
                return exc

        return list(zip(items, await asyncio.gather(*map(read, items)), strict=True))

    async def _submit(self, batch: list[tuple[Item, bytes]], outcomes: dict[Item, Outcome]) -> list[_Submitted]:
        """Submit a batch, in halves if the service rejects it as too large."""
        items = [item for item, _ in batch]
        try:
            job = await self._submit_once([(item.name, data) for item, data in batch])
        except ItemError as exc:
            if exc.is_transient:
                raise RunStopped(f"the service accepted no job after all retries: {exc.detail}") from exc
            if exc.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
                raise UsageError(f"--jobs: this service has no jobs ({exc.detail}); drop --jobs") from exc
            if exc.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and len(batch) > 1:
                half = len(batch) // 2
                return await self._submit(batch[:half], outcomes) + await self._submit(batch[half:], outcomes)
            outcomes.update((item, self._failed(item, exc)) for item in items)
            return []
        self.open_ids.append(job["id"])
        return [_Submitted(job, items)]

    async def _submit_once(self, files: list[tuple[str, bytes]]) -> Job:
        key = self._key(files)
        job = await self._service.submit(files, key)
        if job["state"] in {"cancelled", "failed"}:  # by an earlier run of the same command
            job = await self._service.submit(files, f"{key[:48]}-{uuid.uuid4().hex[:15]}")
        return job

    def _key(self, files: list[tuple[str, bytes]]) -> str:
        """Return the Idempotency-Key: the same pictures, names and fingerprint are the same job."""
        hashes = [(name, hashlib.sha256(data).hexdigest()) for name, data in files]
        return hashlib.sha256(json.dumps([self._fingerprint, hashes], sort_keys=True).encode()).hexdigest()

    async def _follow(self, job: Job) -> Job:
        """Return the job once it has ended, and show its progress meanwhile. Raises RunStopped."""
        files_done = self._show(job, 0)
        while job["state"] not in ENDED:
            asked_s = time.monotonic()
            job = await self._state(job["id"], WAIT_S) or _lost(job)
            files_done = self._show(job, files_done)
            if job["state"] not in ENDED:
                await asyncio.sleep(max(0.0, asked_s + _LEAST_BETWEEN_S - time.monotonic()))
        return job

    async def _state(self, job_id: str, wait_s: float) -> Job | None:
        """Return the job's current state; None if the service has no such job. Raises RunStopped."""
        try:
            return await self._service.job(job_id, wait_s)
        except ItemError as exc:
            if exc.status == HTTPStatus.NOT_FOUND:
                return None
            raise RunStopped(f"job {job_id}: its state is unknown: {exc.detail}") from exc

    def _show(self, job: Job, before: int) -> int:
        files_done = job["files"] if job["state"] in ENDED else int(job.get("files_done") or 0)
        self._progress.advance(max(0, files_done - before))
        return max(files_done, before)

    def _failed(self, item: Item, error: ItemError) -> Outcome:
        self._progress.advance(1, failed=True)
        return Outcome(item.name, None, error.as_json())


def outcomes_of(job: Job, names: Sequence[str]) -> list[Outcome]:
    """Return the outcome of each file of an ended job; `names` are the files' names in the output."""
    results = _results_of(job)
    return [_outcome(job, results.get(index), name) for index, name in enumerate(names)]


def _outcome(job: Job, result: Mapping[str, Any] | None, name: str) -> Outcome:
    if result is not None and result.get("prediction") is not None:
        try:
            return Outcome(name, check_prediction(result["prediction"]))
        except ItemError as exc:
            return Outcome(name, None, exc.as_json())
    error = (result or {}).get("error") or job.get("error")
    return Outcome(name, None, error or {"code": job["state"], "detail": f"the job {job['id']} is {job['state']}"})


def _names_in(job: Job) -> list[str]:
    results = _results_of(job)
    return [
        str(results[index].get("name")) if index in results else f"{job['id']}[{index}]"
        for index in range(job["files"])
    ]


def _results_of(job: Job) -> dict[int, Mapping[str, Any]]:
    return {
        result["index"]: result for result in job.get("results") or [] if isinstance(result, dict) and "index" in result
    }


def _lost(job: Job) -> Job:
    detail = f"the service no longer has the job {job['id']}; classify the file again"
    return {**job, "state": "failed", "results": None, "error": {"code": JOB_LOST, "detail": detail}}
