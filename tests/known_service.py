"""A service with known answers, for the client: POST /model/predict and the jobs below /model/jobs as the API says.

It runs in a thread of the test, on a real port. A picture's bytes say what becomes of it: `label:…` is its class,
`bad:…` is no picture. What is to go wrong before that stands in `trouble`: each request takes the next one from there.
No answer takes a time of its own: a slow one waits for something else to have happened.
"""

import asyncio
import hashlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.ports import free_port

START_S = 60.0
FILE_S = 0.02
"""What a job takes for one file."""


@dataclass(frozen=True)
class Trouble:
    """What happens to a request instead of an answer; without status it is cut off."""

    status: int | None = None
    code: str = "overloaded"
    headers: dict[str, str] = field(default_factory=dict)

    def error(self) -> "Refused | CutOff":
        """Return what the request ends with."""
        return CutOff() if self.status is None else Refused(self.status, self.code, headers=self.headers)


@dataclass(frozen=True)
class Held:
    """A request that is answered as usual, but not before `until` holds."""

    until: Callable[["KnownService"], bool]


RESET = Trouble()
AT_ONCE = Held(lambda _: True)
SILENCE = Held(lambda _: False)


@dataclass
class KnownService:
    """What the service is told, and what it saw."""

    url: str = ""
    weights: str = "imagenet"
    key: str | None = None
    fingerprint: str | None = "known"
    """What it tells of its model besides the name; None as in versions that do not tell it."""
    labels: list[str] | None = None
    """What it tells of its classes; None as in versions that do not tell them."""
    jobs_available: bool = True
    jobs_trouble: Trouble | None = None
    """What happens to every request about jobs."""
    max_upload_bytes: int = 100_000
    max_job_files: int = 100
    file_s: float = FILE_S
    trouble: deque[Trouble | Held] = field(default_factory=deque)
    """For the next requests with pictures; each takes one."""
    pages: dict[str, Response] = field(default_factory=dict)
    """What GET answers below /pages."""
    seen: list[Scope] = field(default_factory=list)
    seen_unix_s: list[float] = field(default_factory=list)
    """When each of them came."""
    pictures: Counter[bytes] = field(default_factory=Counter)
    most_at_once: int = 0
    jobs: dict[str, "Job"] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    """Jobs that it does not know any more, as after a Redis that kept nothing."""
    ids: dict[str, str] = field(default_factory=dict)
    """Jobs by idempotency key."""
    _now: int = 0

    def forget(self) -> None:
        """Be as new, at the same address."""
        vars(self).update(vars(KnownService(self.url)))

    def requests(self, method: str, path: str) -> list[dict[str, str]]:
        """Return the headers of the requests to a path, in order, with the query as `?`."""
        return [
            {name.decode(): value.decode() for name, value in scope["headers"]} | {"?": scope["query_string"].decode()}
            for scope in self.seen
            if (scope["method"], scope["path"]) == (method, path)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.seen.append(scope)
        self.seen_unix_s.append(time.time())
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except Refused as refused:
            answer = refused.response
        except CutOff:
            # What a killed replica looks like; `send` belongs to uvicorn's cycle of this request.
            send.__self__.transport.abort()  # type: ignore[attr-defined]
            return
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method, path = request.method, request.url.path
        if path.startswith("/pages/"):
            return self.pages.get(path, Response(status_code=404))
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            raise Refused(401, "unauthorized")
        if (method, path) == ("GET", "/model/"):
            return JSONResponse(self._about())
        if (method, path) == ("GET", "/model/labels") and self.labels is not None:
            return JSONResponse({"labels": self.labels})
        if (method, path) == ("POST", "/model/predict"):
            return await self._predict(request)
        if path.startswith("/model/jobs"):
            return await self._jobs(request, path.removeprefix("/model/jobs").strip("/"))
        raise Refused(404, "not_found")

    def _about(self) -> dict[str, Any]:
        return {
            **self._model(),
            "weights_sha256": None,
            "fingerprint": self.fingerprint,
            "labels": "imagenet",
            "max_upload_bytes": self.max_upload_bytes,
            "deadline_s": 10.0,
        }

    def _model(self) -> dict[str, Any]:
        return {"name": "resnet50", "engine": "tensorflow", "precision": "float32", "weights": self.weights}

    async def _predict(self, request: Request) -> Response:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            picture = await request.body()
            await self._trouble()
        finally:
            self._now -= 1
        self.pictures[picture] += 1
        result = self.result(picture, int(_query(request, "top_k", "5")), cached=self.pictures[picture] > 1)
        if result["error"]:
            raise Refused(415, **result["error"])
        return JSONResponse(result["prediction"])

    async def _trouble(self) -> None:
        if not self.trouble:
            return
        trouble = self.trouble.popleft()
        if isinstance(trouble, Held):
            while not trouble.until(self):  # noqa: ASYNC110 it may be anything
                await asyncio.sleep(0.005)
            return
        raise trouble.error()

    def result(self, picture: bytes, top_k: int, *, cached: bool) -> dict[str, Any]:
        """Return prediction and error of a picture, one of which is None."""
        text = picture.decode(errors="replace")
        if text.startswith("bad:"):
            error = {"code": "unsupported_image", "detail": "the upload is not a picture"}
            return {"prediction": None, "error": error}
        label = text.split(":", 2)[1] if text.startswith("label:") else "thing"
        scores = [round(0.5 / 2**place, 6) for place in range(top_k)]
        classes = [
            {"label": label if place == 0 else f"other {place}", "class_id": place, "score": score}
            for place, score in enumerate(scores)
        ]
        prediction = {
            "prediction": label,
            "score": scores[0],
            "predictions": classes,
            "model": self._model(),
            "image_sha256": hashlib.sha256(picture).hexdigest(),
            "cached": cached,
        }
        return {"prediction": prediction, "error": None}

    async def _jobs(self, request: Request, job_id: str) -> Response:
        if not self.jobs_available:
            detail = "this service has no jobs; set REDIS_URL"
            raise Refused(503, "jobs_unavailable", detail, headers={"Retry-After": "2"})
        if self.jobs_trouble is not None:
            raise self.jobs_trouble.error()
        if request.method == "POST" and not job_id:
            return await self._submit(request)
        job = self.jobs.get(job_id)
        if job is None or job_id in self.lost:
            raise Refused(404, "not_found", f"no job {job_id}")
        if request.method == "DELETE":
            if job.state in {"done", "failed"}:
                raise Refused(409, "job_ended")
            job.is_cancelled = True
        else:
            await job.wait(float(_query(request, "wait", "0")))
        return JSONResponse(job.as_json(self))

    async def _submit(self, request: Request) -> Response:
        async with request.form(max_files=1000) as form:
            parts = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
            files = [(str(part.filename), await part.read()) for part in parts]
        if len(files) > self.max_job_files:
            raise Refused(413, "upload_too_large", f"more than {self.max_job_files} files")
        key = request.headers.get("idempotency-key", f"none {len(self.ids)}")
        if key not in self.ids:
            self.ids[key] = f"job-{len(self.ids)}"
            self.jobs[self.ids[key]] = Job(self.ids[key], files, int(_query(request, "top_k", "5")), self.file_s)
        await self._trouble()  # after the job was made: what a lost answer leaves behind
        job = self.jobs[self.ids[key]]
        return JSONResponse(job.as_json(self), 202, {"Location": f"/model/jobs/{job.id}"})


@dataclass
class Job:
    """A job that takes `file_s` for each file from when it was made."""

    id: str
    files: list[tuple[str, bytes]]
    top_k: int
    file_s: float
    is_cancelled: bool = False
    _began_s: float = field(default_factory=time.monotonic)

    @property
    def files_done(self) -> int:
        return min(len(self.files), int((time.monotonic() - self._began_s) / self.file_s))

    @property
    def state(self) -> str:
        if self.is_cancelled:
            return "cancelled"
        if self.files_done < len(self.files):
            return "running" if self.files_done else "queued"
        return "failed" if all(data.startswith(b"bad:") for _, data in self.files) else "done"

    async def wait(self, wait_s: float) -> None:
        """Return when it has ended or after `wait_s`."""
        deadline_s = time.monotonic() + wait_s
        while self.state in {"queued", "running"} and time.monotonic() < deadline_s:  # noqa: ASYNC110 it is time itself
            await asyncio.sleep(0.01)

    def as_json(self, service: KnownService) -> dict[str, Any]:
        state = self.state  # once: time goes on
        results = [
            {"name": name, "index": index, **service.result(data, self.top_k, cached=False)}
            for index, (name, data) in enumerate(self.files)
        ]
        return {
            "id": self.id,
            "state": state,
            "position": None,
            "files": len(self.files),
            "files_done": self.files_done,
            "error": {"code": "all_failed", "detail": "no file is a picture"} if state == "failed" else None,
            # In no order: their index says which they are.
            "results": results[::-1] if state in {"done", "failed"} else None,
        }


class Refused(Exception):
    """An answer in the service's error shape."""

    def __init__(
        self, status: int, code: str, detail: str = "as the test wants it", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(code)
        body = {"code": code, "detail": detail, "request_id": "known"}
        self.response = JSONResponse(body, status, headers)


class CutOff(Exception):
    """The connection ends without an answer."""


def _query(request: Request, name: str, default: str) -> str:
    return parse_qs(request.url.query).get(name, [default])[0]


@contextmanager
def known_service() -> Iterator[KnownService]:
    """Run it on a free port of this machine until the end of the block."""
    service = KnownService()
    port = free_port()
    config = uvicorn.Config(
        service, host="127.0.0.1", port=port, log_level="critical", log_config=None, lifespan="off", http="h11"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="known service")
    thread.start()
    deadline_s = time.monotonic() + START_S
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    service.url = f"http://127.0.0.1:{port}"
    try:
        yield service
    finally:
        server.should_exit = server.force_exit = True
        thread.join(START_S)
        assert not thread.is_alive()
