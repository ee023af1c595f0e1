"""The bounds of the durable jobs, as written under `jobs:` of the `model` application's args in configs/*.yaml."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

# A ZIP in a form is in memory as the body, as its part, and unpacked; and a form has its boundaries and headers.
HELD_PER_UPLOAD = 3.1
FILE_BYTES = 512
"""What a picture takes in Redis besides its own bytes: its name, twice, and its entry in the stream."""


class JobSettings(BaseModel):
    """How much the queue takes, for how long, and how it is worked off. Only with REDIS_URL are there jobs at all."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    queue: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(
        "model", description="Name of the queue; services with different models need different ones in one Redis."
    )
    max_waiting: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="Most jobs that wait; beyond: 503 with Retry-After.",
        json_schema_extra={"unit": "jobs"},
    )
    max_waiting_bytes: int = Field(
        536_870_912, ge=1, description=f"Most bytes of pictures in Redis, with {FILE_BYTES} more for each; beyond: 503."
    )
    max_wait_s: float = Field(86_400, gt=0, description="Longest time in the queue; then the job fails with `expired`.")
    max_files: int = Field(
        500,
        ge=1,
        le=10_000,
        description="Most pictures of one job; beyond: 413.",
        json_schema_extra={"unit": "pictures"},
    )
    max_job_bytes: int = Field(
        50_000_000, ge=1, description="Largest upload of one job, packed and unpacked; beyond: 413."
    )
    max_held_bytes: int = Field(
        268_435_456, ge=1, description="Most bytes of job uploads in the memory of one replica; beyond: 503."
    )
    upload_timeout_s: float = Field(120, gt=0, le=600, description="Longest time for a job's upload; beyond: 408.")
    max_attempts: int = Field(
        3,
        ge=1,
        le=100,
        description="Attempts at a picture whose worker ends; then it is a dead letter.",
        json_schema_extra={"unit": "attempts"},
    )
    lease_s: float = Field(
        5, ge=0.5, le=600, description="A worker that is silent this long loses its pictures to others."
    )
    result_ttl_s: float = Field(
        3600, ge=1, le=31_536_000, description="How long a job and its results are kept after its end."
    )
    max_batch: int = Field(
        2,
        ge=1,
        le=128,
        description="Most job pictures in one run of the engine, for which a prediction may have to wait.",
        json_schema_extra={"unit": "pictures"},
    )
    max_waiters: int = Field(
        200,
        ge=1,
        description="Most requests of one replica that wait with `?wait=`; beyond: 503.",
        json_schema_extra={"unit": "requests"},
    )

    @model_validator(mode="after")
    def _one_upload_fits(self) -> Self:
        least = int(HELD_PER_UPLOAD * self.max_job_bytes)
        if self.max_held_bytes < least:
            raise ValueError(
                f"max_held_bytes: must be at least {least}, {HELD_PER_UPLOAD} × max_job_bytes; raise it, or lower "
                "max_job_bytes"
            )
        least = self.max_job_bytes + FILE_BYTES * self.max_files
        if self.max_waiting_bytes < least:
            raise ValueError(
                f"max_waiting_bytes: must be at least {least}, max_job_bytes and {FILE_BYTES} × max_files; raise it"
            )
        return self
