"""The states of a job, for the API, the workers and the scripts in Redis."""

from enum import StrEnum


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether nothing about the job changes any more."""
        return self not in (State.QUEUED, State.RUNNING)
