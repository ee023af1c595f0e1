"""The service as the client sees it: its API over HTTP, each call with patience. httpx is here and in `downloads`.

Foreign errors and error answers become ItemError here; a wrong key or address becomes UsageError.
"""

import functools
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from serve_app.client.errors import NO_ANSWER, UNEXPECTED_ANSWER, ItemError, UsageError
from serve_app.client.patience import Patience, read_retry_after
from serve_app.client.plain_text import without_login

TRANSIENT = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
JOBS_UNAVAILABLE = "jobs_unavailable"
JOB_ENDED = "job_ended"
IDEMPOTENCY_HEADER = "Idempotency-Key"

_CONNECT_S = 5.0
_WRITE_S = 60.0
_SPARE_S = 20.0
_MOST_NAME_CHARACTERS = 200
_NO_JOB = "0" * 22

Body = dict[str, Any]


@dataclass(frozen=True)
class Wishes:
    """What is asked of every prediction."""

    top_k: int = 5
    deadline_ms: int | None = None
    no_store: bool = False

    def headers(self) -> dict[str, str]:
        """Return them as far as they are headers."""
        headers = {"Cache-Control": "no-store"} if self.no_store else {}
        return headers | ({"X-Deadline-Ms": str(self.deadline_ms)} if self.deadline_ms is not None else {})


@dataclass(frozen=True)
class About:
    """What the service says of itself, as far as the client needs it."""

    weights: str
    max_upload_bytes: int
    deadline_s: float
    model: Mapping[str, Any]
    """What makes its predictions: two services with the same one answer alike."""


class Service:
    """A service at one address; close it with `aclose`."""

    def __init__(self, server: str, key: str | None, wishes: Wishes, patience: Patience) -> None:
        """Prepare to ask; `key` is sent to nobody else. Nothing is sent yet."""
        self.server = server.rstrip("/")
        self._wishes = wishes
        self._patience = patience
        self._read_s = _SPARE_S
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            verify=trusted(),
            # The caller bounds how much is under way at once.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=not is_loopback(server),  # a proxy of this machine's network does not lead back to it
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def about(self, patience: Patience) -> About:
        """Return what is served there. Raises UsageError when it is not this service, ItemError without an answer."""
        try:
            body = await patience.insist(lambda: self._ask("GET", "/model/"))
            about = _read_about(body)
        except (KeyError, TypeError, ValueError) as exc:
            raise self._wrong_address("GET /model/ does not say what is served") from exc
        except ItemError as exc:
            if exc.is_transient:
                raise
            raise self._wrong_address(f"GET /model/: {exc.detail}") from exc
        self._read_s = about.deadline_s + _SPARE_S
        return about

    async def predict(self, picture: bytes) -> Body:
        """Return the answer of POST /model/predict. Raises ItemError."""
        headers = {"Content-Type": "application/octet-stream", **self._wishes.headers()}
        params = {"top_k": self._wishes.top_k}
        return await self._patience.insist(
            lambda: self._ask("POST", "/model/predict", params=params, headers=headers, content=picture)
        )

    async def check_jobs(self, patience: Patience) -> None:
        """Return if the service has jobs: it must know whether it has one that nobody made.

        Raises UsageError when it has none, ItemError.
        """
        try:
            await patience.insist(lambda: self._ask("GET", f"/model/jobs/{_NO_JOB}"))
        except ItemError as exc:
            if exc.code == JOBS_UNAVAILABLE:
                raise UsageError(f"--jobs: {exc.detail}; without --jobs it classifies all the same") from exc
            if exc.status != HTTPStatus.NOT_FOUND:
                raise

    async def submit(self, files: Sequence[tuple[str, bytes]], key: str) -> Body:
        """Return the job that classifies `files`, each a name and a picture; the same one for the same key.

        Raises ItemError.
        """
        parts = [("file", (name[-_MOST_NAME_CHARACTERS:], data, "application/octet-stream")) for name, data in files]
        headers = {IDEMPOTENCY_HEADER: key, **self._wishes.headers()}
        params = {"top_k": self._wishes.top_k}
        return await self._job_answer(
            lambda: self._ask("POST", "/model/jobs", params=params, headers=headers, files=parts)
        )

    async def job(self, job_id: str, wait_s: float) -> Body:
        """Return the job, when it has ended or after `wait_s`. Raises ItemError."""
        path = f"/model/jobs/{quote(job_id, safe='')}"
        params = {"wait": f"{wait_s:g}"}
        return await self._job_answer(lambda: self._ask("GET", path, read_s=wait_s + _SPARE_S, params=params))

    async def cancel(self, job_id: str) -> Body:
        """Cancel the job and return it. Raises ItemError."""
        path = f"/model/jobs/{quote(job_id, safe='')}"
        return await self._job_answer(lambda: self._ask("DELETE", path))

    async def _job_answer(self, ask: Callable[[], Awaitable[Body]]) -> Body:
        body = await self._patience.insist(ask)
        if (
            isinstance(body.get("id"), str)
            and isinstance(body.get("state"), str)
            and isinstance(body.get("files"), int)
        ):
            return body
        raise ItemError(UNEXPECTED_ANSWER, "the answer is not a job")

    async def _ask(self, method: str, path: str, *, read_s: float | None = None, **content: Any) -> Body:
        timeout = httpx.Timeout(connect=_CONNECT_S, write=_WRITE_S, read=read_s or self._read_s, pool=None)
        try:
            answer = await self._http.request(method, self.server + path, timeout=timeout, **content)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as exc:
            raise self._wrong_address(type(exc).__name__) from exc
        except httpx.RequestError as exc:
            raise ItemError(NO_ANSWER, describe(exc), is_transient=True) from exc
        if answer.is_success:
            return _read_json(answer)
        raise self._refusal(answer)

    def _refusal(self, answer: httpx.Response) -> Exception:
        status = answer.status_code
        code, detail = _read_error(answer)
        if status == HTTPStatus.UNAUTHORIZED:
            return UsageError(
                f"{without_login(self.server)} wants an API key ({detail}): "
                "name the variable that holds it with --api-key-env NAME"
            )
        # A deadline of the user's own is not met by asking once more.
        is_own_deadline = status == HTTPStatus.GATEWAY_TIMEOUT and self._wishes.deadline_ms is not None
        is_transient = status in TRANSIENT and not is_own_deadline
        retry_after_s = read_retry_after(answer.headers.get("Retry-After"))
        return ItemError(code, detail, status=status, is_transient=is_transient, retry_after_s=retry_after_s)

    def _wrong_address(self, reason: str) -> UsageError:
        return UsageError(f"--server {without_login(self.server)}: this is not the service: {reason}")


@functools.cache
def trusted() -> ssl.SSLContext:
    """Return the certificates that every connection trusts: httpx would read them for each of its pools, 26 ms each."""
    return httpx.create_ssl_context()


def is_loopback(url: str) -> bool:
    """Tell whether `url` is one of this machine."""
    host = httpx.URL(url).host
    return host in {"localhost", "::1"} or host.startswith("127.")


def describe(error: httpx.RequestError | httpx.InvalidURL) -> str:
    """Return the error's words; a timeout has none but its name."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _read_json(answer: httpx.Response) -> Body:
    try:
        body = answer.json()
    except ValueError as exc:
        raise ItemError(UNEXPECTED_ANSWER, "the answer is not JSON", status=answer.status_code) from exc
    if not isinstance(body, dict):
        raise ItemError(UNEXPECTED_ANSWER, "the answer is not a JSON object", status=answer.status_code)
    return body


def _read_error(answer: httpx.Response) -> tuple[str, str]:
    """Return code and detail; an ingress may answer something else than the service's error shape."""
    try:
        body = answer.json()
        return str(body["code"]), str(body["detail"])
    except (ValueError, KeyError, TypeError):
        location = f" to {answer.headers['Location']}" if "Location" in answer.headers else ""
        return f"http_{answer.status_code}", f"status {answer.status_code} {answer.reason_phrase}{location}".strip()


def _read_about(body: Body) -> About:
    deadline_s = float(body["deadline_s"])
    if not math.isfinite(deadline_s):
        raise ValueError("deadline_s is no number")
    names = ("name", "engine", "precision", "weights", "weights_sha256", "labels")
    return About(
        weights=str(body["weights"]),
        max_upload_bytes=int(body["max_upload_bytes"]),
        deadline_s=deadline_s,
        model={name: body.get(name) for name in names},
    )
