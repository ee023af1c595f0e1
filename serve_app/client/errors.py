"""The errors of the client; each message is shown to the user as it is.

UsageError    an argument or a variable is invalid; the message names it and the remedy: exit code 2
RunStopped    the service is unreachable; completed results are written: exit code 1
ItemError     one item has no prediction; the output contains the reason, and the run continues
"""

from collections.abc import Mapping

NO_ANSWER = "no_answer"
UNEXPECTED_ANSWER = "unexpected_answer"
FETCH_FAILED = "fetch_failed"
UNREADABLE_FILE = "unreadable_file"
JOB_LOST = "job_lost"
TOO_LARGE = "upload_too_large"
"""The service's own code: the client rejects what the service would reject."""


class UsageError(Exception):
    """An argument or a variable of the environment is invalid; the message names it and the remedy."""


class RunStopped(Exception):
    """The run cannot continue; the message is the reason."""


class ItemError(Exception):
    """One item has no prediction: it cannot be read, the service rejected it, or nobody answered.

    `is_transient` says whether a retry may help, `retry_after_s` when; `status` is None without an answer.
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
