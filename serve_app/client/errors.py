"""What ends the client, or one item, each with the words that the person at the terminal reads.

UsageError    an argument cannot be used; the message names it and the remedy: exit code 2
RunStopped    the service is gone; what was answered is written: exit code 1
ItemError     this item has no prediction; it is recorded with its reason, and the rest goes on
"""

from collections.abc import Mapping

NO_ANSWER = "no_answer"
UNEXPECTED_ANSWER = "unexpected_answer"
FETCH_FAILED = "fetch_failed"
UNREADABLE_FILE = "unreadable_file"
JOB_LOST = "job_lost"
TOO_LARGE = "upload_too_large"
"""The service's own word: the client refuses what the service would."""


class UsageError(Exception):
    """An argument cannot be used; the message names it and the remedy."""


class RunStopped(Exception):
    """There is no sense in going on; the message is the reason."""


class ItemError(Exception):
    """One item has no prediction: the service refused it, nobody answered, or it cannot be had.

    `is_transient` tells whether asking again may help, `retry_after_s` when; `status` is None without an answer.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        is_transient: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status
        self.is_transient = is_transient
        self.retry_after_s = retry_after_s

    def as_json(self) -> Mapping[str, str]:
        """Return the error as a job's results show it."""
        return {"code": self.code, "detail": self.detail}
