"""Every error that a client or an operator can see, with its HTTP status. Status and code live here and nowhere else.

ServiceError                      500  internal_error
├── InvalidParameter              422  invalid_parameter      a parameter is unknown, or outside its allowed values
├── NotFound                      404  not_found              no such user, no such path
├── Unauthorized                  401  unauthorized           no API key, or a wrong one, where the config names keys
├── MethodNotAllowed              405  method_not_allowed     not a method of HTTP (ingress)
├── MalformedRequest              400  malformed_request      a body not chunked as HTTP asks for (ingress)
├── PathTooLong                   414  path_too_long          (ingress)
├── HeadersTooLong                431  headers_too_long       (ingress)
├── ReplicaLost                   502  replica_lost           the replica ended before it answered (ingress)
├── MalformedInference            400  malformed_inference    no request of the Open Inference Protocol
├── MalformedUpload               400  malformed_upload       not multipart, no field `file`, two files, empty body
├── UploadTooSlow                 408  upload_too_slow        the body was not there within upload_timeout_s
├── UploadTooLarge                413  upload_too_large       more bytes than max_upload_bytes
├── UnsupportedImage              415  unsupported_image      not one of the accepted formats
│   └── EncodedUpload             415  unsupported_image      not a picture, and Content-Encoding says why
├── UnreadableImage               400  unreadable_image       truncated or corrupted
├── ImageTooLarge                 413  image_too_large        more pixels than max_pixels
├── NotReady                      503  not_ready              the replica is not warm
├── Stopping                      503  stopping               the service is being stopped; what it has, it answers
├── Overloaded                    503  overloaded             the answer would take too long; Retry-After says when
│   └── ShareExceeded             429  share_exceeded         its API key has its share of the service already
├── DeadlineExceeded              504  deadline_exceeded      taken, but not answered within the deadline
├── DatabaseUnavailable           503  database_unavailable   the database does not answer in time
├── JobsUnavailable               503  jobs_unavailable       no REDIS_URL, or Redis does not answer in time
├── JobEnded                      409  job_ended              too late to cancel it
└── IdempotencyKeyReused          422  idempotency_key_reused  the key belongs to a job with other content

JobError                               in a job or one of its files, beside the codes above; there is no status
    POISON                             poison                 a picture was given up after max_attempts
    EXPIRED                            expired                no worker came to the job within max_wait_s
    EVERY_FILE_FAILED                  every_file_failed      none of a job's files has a prediction

SetupError                             a deployment or a command cannot start; never reaches a client
└── SetupFaults                        the same for several reasons, all told at once
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar


class ServiceError(Exception):
    """A fault that is answered with `status` and the error body {code, detail, request_id}.

    `detail` says what is wrong and what would mend it; it goes to the client as it is. `retry_after_s`, whole seconds,
    is when to come back.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    usual_retry_after_s: ClassVar[int | None] = None
    headers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    is_logged: ClassVar[bool] = True
    """Whether each one with a status of 5xx has a line in the log; those that come by the thousand are counted."""

    def __init__(self, detail: str, retry_after_s: int | None = None) -> None:
        # Passed on so that the exception survives pickling when it crosses Ray.
        super().__init__(detail, retry_after_s)
        self.detail = detail
        self.retry_after_s = self.usual_retry_after_s if retry_after_s is None else retry_after_s

    def __str__(self) -> str:
        return self.detail


class InvalidParameter(ServiceError):
    """A parameter is unknown, or outside its allowed values."""

    status = 422
    code = "invalid_parameter"


class NotFound(ServiceError):
    """There is nothing at this path."""

    status = 404
    code = "not_found"


class Unauthorized(ServiceError):
    """The request has no API key, or one that is not known."""

    status = 401
    code = "unauthorized"
    headers = MappingProxyType({"WWW-Authenticate": 'Bearer realm="serve-app"'})


class MethodNotAllowed(ServiceError):
    """No path answers this method."""

    status = 405
    code = "method_not_allowed"


class MalformedRequest(ServiceError):
    """The ingress cannot read the request's body as HTTP."""

    status = 400
    code = "malformed_request"


class PathTooLong(ServiceError):
    """The path is longer than the ingress takes."""

    status = 414
    code = "path_too_long"


class HeadersTooLong(ServiceError):
    """The headers are longer than the ingress takes."""

    status = 431
    code = "headers_too_long"


class ReplicaLost(ServiceError):
    """The replica ended before it answered."""

    status = 502
    code = "replica_lost"


class MalformedUpload(ServiceError):
    """The body is neither one image nor a multipart form with one field `file`."""

    status = 400
    code = "malformed_upload"


class MalformedInference(ServiceError):
    """The body is no inference request of the Open Inference Protocol, or does not fit the model."""

    status = 400
    code = "malformed_inference"


class UploadTooSlow(ServiceError):
    """The body was not there in time."""

    status = 408
    code = "upload_too_slow"


class UploadTooLarge(ServiceError):
    """The body has more bytes than the service takes."""

    status = 413
    code = "upload_too_large"


class UnsupportedImage(ServiceError):
    """The content is not one of the accepted image formats."""

    status = 415
    code = "unsupported_image"


class EncodedUpload(UnsupportedImage):
    """The content is encoded, as its Content-Encoding says, and no encoding is undone here."""

    headers = MappingProxyType({"Accept-Encoding": "identity"})


class UnreadableImage(ServiceError):
    """The image is truncated or corrupted."""

    status = 400
    code = "unreadable_image"


class ImageTooLarge(ServiceError):
    """The image has more pixels than the service decodes."""

    status = 413
    code = "image_too_large"


class NotReady(ServiceError):
    """The replica has not finished warming up."""

    status = 503
    code = "not_ready"
    usual_retry_after_s = 1


class Stopping(ServiceError):
    """The service is being stopped: it answers what it has taken, and takes no more."""

    status = 503
    code = "stopping"
    usual_retry_after_s = 5
    is_logged = False


class Overloaded(ServiceError):
    """The request was not taken: too many come before it. Retry-After is when those will be worked off."""

    status = 503
    code = "overloaded"
    usual_retry_after_s = 1
    is_logged = False


class ShareExceeded(Overloaded):
    """The request was not taken: its API key has its share of queue, bytes or open requests already."""

    status = 429
    code = "share_exceeded"


class DeadlineExceeded(ServiceError):
    """The request was taken and not answered within its deadline."""

    status = 504
    code = "deadline_exceeded"
    is_logged = False


class DatabaseUnavailable(ServiceError):
    """The database refused, or did not answer within its time limit."""

    status = 503
    code = "database_unavailable"
    usual_retry_after_s = 1


class JobsUnavailable(ServiceError):
    """There is no Redis for jobs, or it refused, or it did not answer in time."""

    status = 503
    code = "jobs_unavailable"
    usual_retry_after_s = 2
    is_logged = False


class JobEnded(ServiceError):
    """The job cannot be cancelled: it has ended before."""

    status = 409
    code = "job_ended"


class IdempotencyKeyReused(ServiceError):
    """A job with this Idempotency-Key exists, and its content is another."""

    status = 422
    code = "idempotency_key_reused"


_KEYED = re.compile(r"([a-z][a-z0-9_.]*): (.+)", re.DOTALL)


@dataclass(frozen=True)
class Fault:
    """Why a service cannot start, or, as a warning, what it starts without: one line for the person who starts it."""

    key: str
    """The key in the config or the variable in the environment."""
    what: str
    remedy: str
    is_warning: bool = False

    def __str__(self) -> str:
        said = f"{self.key}: {self.what}" if self.key else self.what
        return f"{said}; {self.remedy}" if self.remedy else said


class SetupError(Exception):
    """A deployment or a command cannot start; the message names the setting and the remedy."""

    @property
    def fault(self) -> Fault:
        """Return the message as a fault, with its key if it was raised with one or begins with one."""
        if isinstance(self.args[0], Fault):
            return self.args[0]
        keyed = _KEYED.fullmatch(str(self))
        return Fault(keyed[1], keyed[2], "") if keyed else Fault("", str(self), "")


class SetupFaults(SetupError):
    """Several faults; the message has a line for each."""

    def __init__(self, faults: Iterable[object]) -> None:
        self.lines = tuple(map(str, faults))
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True)
class JobError:
    """Why a job or one of its files failed, where it is no ServiceError: a code, and a detail with % places.

    The scripts in Redis and the workers write them (`jobs.queue`).
    """

    code: str
    meaning: str
    detail: str


POISON = JobError(
    "poison", "The picture was given up after max_attempts.", "given up after %s attempts; the last one: %s"
)
EXPIRED = JobError("expired", "No worker came to the job within max_wait_s.", "no worker came to it within %s s")
EVERY_FILE_FAILED = JobError(
    "every_file_failed",
    "None of the job's files could be classified.",
    "none of the %s files could be classified; `results` say why",
)
JOB_ERRORS = (POISON, EXPIRED, EVERY_FILE_FAILED)


def service_errors() -> Iterator[type[ServiceError]]:
    """Yield ServiceError and all errors below it."""
    found: list[type[ServiceError]] = [ServiceError]
    while found:
        yield (error := found.pop(0))
        found += error.__subclasses__()


def meanings_of_codes(*, is_for_jobs: bool) -> str:
    """Return a Markdown list of every code in an error body, or of those in jobs only, and what it means."""
    lines = {error.code: f"{error.status}, {(error.__doc__ or '').split(chr(10))[0]}" for error in service_errors()}
    if is_for_jobs:
        lines = {error.code: error.meaning for error in JOB_ERRORS}
    return "\n".join(f"* `{code}`: {meaning}" for code, meaning in lines.items())
