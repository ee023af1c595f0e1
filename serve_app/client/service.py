"""Calls the API of the service over HTTP, with retries. Imports httpx, as `downloads` does.

Errors of httpx and error responses become ItemError here; a wrong key or address becomes UsageError.
"""

import functools
import math
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx

from serve_app.client.connection import SERVER, Connection
from serve_app.client.errors import NO_ANSWER, UNEXPECTED_ANSWER, ItemError, RunStopped, UsageError
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
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""httpx reads the first that is set."""
_PROXIES = frozenset({"all_proxy", "http_proxy", "https_proxy"})

Body = dict[str, Any]


@dataclass(frozen=True)
class Wishes:
    """The options of every prediction."""

    top_k: int = 5
    deadline_ms: int | None = None
    no_store: bool = False

    def headers(self) -> dict[str, str]:
        """Return those options that are headers."""
        headers = {"Cache-Control": "no-store"} if self.no_store else {}
        return headers | ({"X-Deadline-Ms": str(self.deadline_ms)} if self.deadline_ms is not None else {})


@dataclass(frozen=True)
class About:
    """The part of GET /model/ that the client needs."""

    weights: str
    max_upload_bytes: int
    deadline_s: float
    model: Mapping[str, Any]
    """Its model: two services with the same one give the same predictions."""
    preparation: str
    """How a picture becomes the input of the network, for people; empty if the service does not tell."""


class Service:
    """The service at one address; close it with `aclose`."""

    def __init__(self, connection: Connection, key: str | None, wishes: Wishes, patience: Patience) -> None:
        """Prepare to call the model of `connection`; `key` is sent to its address only.

        Raises UsageError for an address whose host cannot be one, and as `open_client` does.
        """
        self.server = connection.server.rstrip("/")
        self.option = connection.address_option
        try:
            is_here = is_loopback(self.server)
        except (httpx.InvalidURL, UnicodeError) as exc:  # UnicodeError: what stands behind xn-- is no name
            raise UsageError(
                f"{self.option} {without_login(self.server)}: its host is no name and no IP address; "
                f"write an address such as {SERVER}"
            ) from exc
        self._key_option = connection.key_option
        self._prefix = connection.prefix
        self._wishes = wishes
        self._patience = patience
        self._read_s = _SPARE_S
        self._http = open_client(
            uses_tls=self.server.startswith("https:"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            # The caller limits the requests in progress.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=not is_here,  # a proxy of the network does not reach this machine
        )

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def about(self, patience: Patience) -> About:
        """Return GET /model/. Raises UsageError if this is not the service, ItemError without an answer."""
        try:
            body = await patience.insist(lambda: self._ask("GET", "/"))
            about = _read_about(body)
        except (KeyError, TypeError, ValueError) as exc:
            raise self._wrong_address(f"the answer to GET {self._prefix}/ is not the service's") from exc
        except ItemError as exc:
            if exc.is_transient:
                raise
            raise self._wrong_address(f"GET {self._prefix}/: {exc.detail}") from exc
        self._read_s = about.deadline_s + _SPARE_S
        return about

    async def labels(self, patience: Patience) -> list[str]:
        """Return GET /model/labels, one for each class. Raises UsageError if it does not tell them, ItemError."""
        try:
            body = await patience.insist(lambda: self._ask("GET", "/labels"))
        except ItemError as exc:
            if exc.status != HTTPStatus.NOT_FOUND:
                raise
            raise UsageError(
                f"{self.option} {without_login(self.server)}: this service does not tell the names of its classes "
                f"(GET {self._prefix}/labels); update it to serve-app 0.2.0 or later"
            ) from exc
        labels = body.get("labels")
        if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
            raise self._wrong_address(f"the answer to GET {self._prefix}/labels is not a list of names")
        return labels

    async def predict(self, picture: bytes) -> Body:
        """Return the answer of POST /model/predict. Raises ItemError."""
        headers = {"Content-Type": "application/octet-stream", **self._wishes.headers()}
        params = {"top_k": self._wishes.top_k}
        return await self._patience.insist(
            lambda: self._ask("POST", "/predict", params=params, headers=headers, content=picture)
        )

    async def check_jobs(self, patience: Patience) -> None:
        """Return if the service has jobs, which the answer about an invented job shows.

        Raises UsageError if it has no jobs, RunStopped if that is not known.
        """
        try:
            await patience.insist(lambda: self._ask("GET", f"/jobs/{_NO_JOB}"))
        except ItemError as exc:
            if exc.code == JOBS_UNAVAILABLE:
                raise UsageError(f"--jobs: {exc.detail}; predictions without --jobs work") from exc
            if exc.status != HTTPStatus.NOT_FOUND:
                where = f"{self.option} {without_login(self.server)}"
                raise RunStopped(f"{where}: GET {self._prefix}/jobs: {exc.detail}") from exc

    async def submit(self, files: Sequence[tuple[str, bytes]], key: str) -> Body:
        """Submit `files`, pairs of name and picture, and return their job; the same job for the same key.

        Raises ItemError.
        """
        parts = [("file", (name[-_MOST_NAME_CHARACTERS:], data, "application/octet-stream")) for name, data in files]
        headers = {IDEMPOTENCY_HEADER: key, **self._wishes.headers()}
        params = {"top_k": self._wishes.top_k}
        return await self._job_answer(lambda: self._ask("POST", "/jobs", params=params, headers=headers, files=parts))

    async def job(self, job_id: str, wait_s: float) -> Body:
        """Return the job once it has ended, or after `wait_s` or half of the patience. Raises ItemError."""
        wait_s = min(wait_s, self._patience.give_up_after_s / 2)
        path = f"/jobs/{quote(job_id, safe='')}"
        params = {"wait": f"{wait_s:g}"}
        return await self._job_answer(lambda: self._ask("GET", path, read_s=wait_s + _SPARE_S, params=params))

    async def cancel(self, job_id: str) -> Body:
        """Cancel the job and return it. Raises ItemError."""
        path = f"/jobs/{quote(job_id, safe='')}"
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
            answer = await self._http.request(method, self.server + self._prefix + path, timeout=timeout, **content)
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
                f"{self.option} {without_login(self.server)}: requires an API key ({detail}); "
                f"name the variable that contains it with {self._key_option} NAME"
            )
        # A retry would not meet --deadline-ms either.
        is_own_deadline = status == HTTPStatus.GATEWAY_TIMEOUT and self._wishes.deadline_ms is not None
        is_transient = status in TRANSIENT and not is_own_deadline
        retry_after_s = read_retry_after(answer.headers.get("Retry-After"))
        return ItemError(code, detail, status=status, is_transient=is_transient, retry_after_s=retry_after_s)

    def _wrong_address(self, reason: str) -> UsageError:
        return UsageError(f"{self.option} {without_login(self.server)}: this is not the service: {reason}")


def open_client(*, uses_tls: bool, **settings: Any) -> httpx.AsyncClient:
    """Return an HTTP client; certificates are read only if it `uses_tls`.

    Raises UsageError for a proxy or certificates in the environment that cannot be used.
    """
    # Without TLS, an empty context: httpx would read the certificates of SSL_CERT_FILE all the same.
    verify = _trusted() if uses_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return httpx.AsyncClient(verify=verify, **settings)
    except ImportError as exc:
        raise UsageError(f"{_proxy_variables()}: a SOCKS proxy needs the package socksio: pip install socksio") from exc
    except (ValueError, httpx.InvalidURL) as exc:
        raise UsageError(f"{_proxy_variables()}: is not the address of an http, https or socks5 proxy") from exc


@functools.cache
def _trusted() -> ssl.SSLContext:
    """Return the certificates that every connection trusts: httpx would read them for each of its pools, 26 ms each."""
    try:
        return httpx.create_ssl_context()
    except OSError as exc:
        named = next((f"{name}={os.environ[name]}: " for name in _CERTIFICATES if os.environ.get(name)), "")
        raise UsageError(f"{named}certificates cannot be read: {exc.strerror}") from exc


def _proxy_variables() -> str:
    """Return the names of the set proxy variables, without their values, which may contain passwords."""
    return ", ".join(name for name in os.environ if name.lower() in _PROXIES)


def is_loopback(url: str) -> bool:
    """Return whether `url` is an address of this machine. Raises InvalidURL or UnicodeError if its host is invalid."""
    host = httpx.URL(url).host
    return host in {"localhost", "::1"} or host.startswith("127.")


def describe(error: httpx.RequestError | httpx.InvalidURL) -> str:
    """Return the type and message of an error; a timeout has no message."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _read_json(answer: httpx.Response) -> Body:
    try:
        body = answer.json()
    except (ValueError, RecursionError) as exc:
        raise ItemError(UNEXPECTED_ANSWER, "the answer is not JSON", status=answer.status_code) from exc
    if not isinstance(body, dict):
        raise ItemError(UNEXPECTED_ANSWER, "the answer is not a JSON object", status=answer.status_code)
    return body


def _read_error(answer: httpx.Response) -> tuple[str, str]:
    """Return code and detail; an ingress may answer without the service's error body."""
    try:
        body = answer.json()
        return str(body["code"]), str(body["detail"])
    except (ValueError, KeyError, TypeError, RecursionError):
        location = f" to {without_login(answer.headers['Location'])}" if "Location" in answer.headers else ""
        return f"http_{answer.status_code}", f"status {answer.status_code} {answer.reason_phrase}{location}".strip()


def _read_about(body: Body) -> About:
    deadline_s = float(body["deadline_s"])
    if not math.isfinite(deadline_s):
        raise ValueError("deadline_s is not a number")
    names = ("name", "engine", "precision", "weights", "weights_sha256", "fingerprint", "labels")
    return About(
        weights=str(body["weights"]),
        max_upload_bytes=int(body["max_upload_bytes"]),
        deadline_s=deadline_s,
        model={name: body.get(name) for name in names},
        preparation="; preprocessing ".join(str(body[name]) for name in ("input", "preprocessing") if name in body),
    )
