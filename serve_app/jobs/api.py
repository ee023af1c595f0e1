"""The HTTP API of the jobs: POST /jobs, GET and DELETE /jobs/{id}, beside the classifier's own routes."""

import re
from typing import Annotated, Any

from fastapi import FastAPI, Header, Path, Query, Request, Response

from serve_app.classifier.answer import TopK
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.upload import BINARY, document_upload
from serve_app.entrance.guard import account_of, given_keys
from serve_app.errors import (
    EncodedUpload,
    IdempotencyKeyReused,
    JobEnded,
    JobsUnavailable,
    MalformedUpload,
    NotFound,
    Overloaded,
    UploadTooLarge,
    UploadTooSlow,
)
from serve_app.jobs.intake import job_bounds, read_submission
from serve_app.jobs.job import ID, Job, describe_job, taken_job
from serve_app.jobs.queue.state import State
from serve_app.jobs.queue.submit import Submitted
from serve_app.jobs.replica import ReplicaJobs
from serve_app.metrics import JOBS_ENDED, JOBS_SUBMITTED
from serve_app.uploads import HeldUpload
from serve_app.web import discard_body, documented

PATH = "/jobs"
REPLAYED_HEADER = "Idempotent-Replayed"
LONGEST_WAIT_S = 15
"""Less than a replica that is to end waits for its requests (Serve: 20 s)."""

JobId = Annotated[str, Path(description="As the answer to POST has it.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="Visible ASCII of the client's choice: the same key and content lead to the same job.",
    ),
]
WaitS = Annotated[
    float,
    Query(
        alias="wait",
        ge=0,
        le=LONGEST_WAIT_S,
        allow_inf_nan=False,
        description="Answer when the job has ended, at the latest after this many seconds.",
    ),
]

SUBMIT_BODY = document_upload({"type": "array", "items": BINARY, "minItems": 1}, "application/zip", "image/*")
ACCEPTED: dict[str, Any] = {
    "headers": {
        "Location": {"description": "Path of the job.", "schema": {"type": "string"}},
        REPLAYED_HEADER: {
            "description": "`true` when an earlier request with this Idempotency-Key made the job.",
            "schema": {"type": "string"},
        },
    }
}

SUBMIT_ERRORS = (
    MalformedUpload, UploadTooSlow, UploadTooLarge, EncodedUpload, IdempotencyKeyReused, Overloaded, JobsUnavailable,
)  # fmt: skip
LOOK_ERRORS = (NotFound, Overloaded, JobsUnavailable)
CANCEL_ERRORS = (NotFound, JobEnded, JobsUnavailable)


def add_job_routes(api: FastAPI, settings: ClassifierSettings, jobs: ReplicaJobs | None) -> None:
    """Add the routes to the classifier's API; without `jobs` they are undocumented and answer that Redis is missing."""
    is_documented = jobs is not None

    @api.post(
        PATH,
        include_in_schema=is_documented,
        status_code=202,
        summary="Have pictures classified later",
        openapi_extra=SUBMIT_BODY,
        responses={202: ACCEPTED, **documented(*SUBMIT_ERRORS)},
    )
    async def submit(request: Request, response: Response, key: IdempotencyKey = None, top_k: TopK = 5) -> Job:
        """Send one or many pictures as form fields `file`, or one ZIP of pictures; the answer names the job."""
        try:
            opened = _opened(jobs)
            files, submitted = await _submit(request, opened, settings, top_k, key)
        except (JobsUnavailable, Overloaded, UploadTooLarge):
            await discard_body(request, job_bounds(settings).drain)
            raise
        if submitted.is_replayed:
            response.headers[REPLAYED_HEADER] = "true"
        else:
            opened.metrics.count(JOBS_SUBMITTED)
        response.headers["Location"] = f"{request.scope.get('root_path', '')}{PATH}/{submitted.id}"
        try:
            return describe_job(await opened.waiters.find(submitted.id, 0))
        except (JobsUnavailable, NotFound):  # it is taken all the same, and its client must learn the id
            return taken_job(submitted.id, files)

    @api.get(
        f"{PATH}/{{job}}",
        include_in_schema=is_documented,
        summary="How is it going?",
        responses=documented(*LOOK_ERRORS),
    )
    async def look(request: Request, job: JobId, wait_s: WaitS = 0) -> Job:
        """Tell the job's state, its position in the queue, and the results so far."""
        opened = _opened(jobs)
        return describe_job(await opened.waiters.find(_checked(job), wait_s, account_of(request)))

    @api.delete(
        f"{PATH}/{{job}}",
        include_in_schema=is_documented,
        summary="Cancel it",
        responses=documented(*CANCEL_ERRORS),
    )
    async def cancel(job: JobId) -> Job:
        """End a job that waits or runs; the results that it has are kept as long as those of any other."""
        return await _cancel(_opened(jobs), _checked(job))


def _opened(jobs: ReplicaJobs | None) -> ReplicaJobs:
    if jobs is None:
        raise JobsUnavailable("this service has no queue: its operator must set REDIS_URL, the address of a Redis")
    return jobs


def _checked(job: str) -> str:
    if not re.fullmatch(ID, job):
        raise NotFound(f"there is no job {job[:64]}; an id is what the answer to its POST says")
    return job


async def _cancel(jobs: ReplicaJobs, job: str) -> Job:
    ended = await jobs.store.cancel(job)
    if ended not in (None, State.CANCELLED):  # a repeated request finds its own work
        raise JobEnded(f"job {job} is {ended} already; there is nothing left to cancel")
    cancelled = describe_job(await jobs.waiters.find(job, 0))
    if ended is None:
        jobs.metrics.count(JOBS_ENDED, cancelled.state)
    return cancelled


def _scoped(request: Request, key: str | None) -> str:
    """Return the key as one client's: another client's equal key is another one."""
    if key is None:
        return ""
    client = next(iter(given_keys(request.headers)), "")
    return f"{client}\n{key}"


async def _submit(
    request: Request, jobs: ReplicaJobs, settings: ClassifierSettings, top_k: int, key: str | None
) -> tuple[int, Submitted]:
    """Return how many files the request has, and the job that it led to."""
    scoped = _scoped(request, key)
    if not scoped:  # whoever repeats a request gets its job, however full it is
        await jobs.store.check_room()
    upload = HeldUpload(jobs.uploads, account_of(request))
    try:
        submission = await read_submission(request, upload, settings, top_k)
        return len(submission.files), await jobs.store.submit(submission, scoped)
    finally:
        upload.free()
