"""A job as clients see it, from what Redis has."""

from datetime import UTC, datetime

from pydantic import BaseModel, Field

from serve_app.classifier.answer import Prediction
from serve_app.errors import meanings_of_codes
from serve_app.jobs.intake import MAX_NAME_CHARACTERS
from serve_app.jobs.queue.state import State
from serve_app.jobs.queue.submit import StoredJob

ID = r"[A-Za-z0-9_-]{22}"
"""Ids of earlier versions may begin with a hyphen."""


class JobFault(BaseModel):
    """Why a job or one of its files failed."""

    code: str = Field(description=f"As in the error body, or for jobs only:\n\n{meanings_of_codes(is_for_jobs=True)}")
    detail: str


class FileResult(BaseModel):
    """What came of one file: a prediction or an error."""

    name: str = Field(
        description=f"As the form or the ZIP has it, up to {MAX_NAME_CHARACTERS} characters; U+FFFD stands for each "
        "control character, line or paragraph separator, control of the writing direction, and lone surrogate."
    )
    index: int = Field(ge=0, description="Its place in the upload.")
    prediction: Prediction | None = None
    error: JobFault | None = None


class Job(BaseModel):
    """A job and what has come of it so far."""

    id: str
    state: State = Field(description="`done`: at least one file has a prediction; `failed`: none has.")
    position: int | None = Field(description="How many jobs come before it; null when it does not wait.")
    files: int
    files_done: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime | None = Field(description="When it will be forgotten; null before its end.")
    attempts: int = Field(description="How often work began on the file that needed the most tries.")
    error: JobFault | None
    results: list[FileResult] | None = Field(description="One for each file that is done; null while there is none.")


def describe_job(stored: StoredJob) -> Job:
    """Return the public form of a job."""
    return Job(
        id=stored.id,
        state=stored.state,
        position=stored.position,
        files=stored.files,
        files_done=stored.files_done,
        created_at=_moment(stored.created_ms),
        started_at=_moment_or_none(stored.started_ms),
        ended_at=_moment_or_none(stored.ended_ms),
        expires_at=_moment_or_none(stored.expires_ms),
        attempts=stored.attempts,
        error=JobFault(code=stored.error[0], detail=stored.error[1]) if stored.error else None,
        results=[FileResult.model_validate_json(result) for result in stored.results] or None,
    )


def taken_job(job: str, files: int) -> Job:
    """Return a job that was stored just now, when Redis cannot be asked how it stands."""
    return Job(
        id=job,
        state=State.QUEUED,
        position=None,
        files=files,
        files_done=0,
        created_at=datetime.now(UTC),
        started_at=None,
        ended_at=None,
        expires_at=None,
        attempts=0,
        error=None,
        results=None,
    )


def _moment(since_1970_ms: int) -> datetime:
    return datetime.fromtimestamp(since_1970_ms / 1000, UTC)


def _moment_or_none(since_1970_ms: int | None) -> datetime | None:
    return None if since_1970_ms is None else _moment(since_1970_ms)
