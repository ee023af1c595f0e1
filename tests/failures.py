"""What a failed test leaves behind: the logs of what it started, in a folder that its report names, and its requests.

Registered as a pytest plugin by conftest. Whoever starts a server says `keep_on_failure` where its logs are.
"""

import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

FOLDER = Path(__file__).parents[1] / "build" / "test-failures"
MOST_BYTES = 4_000_000
"""Of one file: its end is kept."""

Logs = Callable[[], list[Path]]

_watched: dict[str, Logs] = {}
_early = FOLDER / f".{os.getpid()}"
"""Copies made while a test failed, of what it had started itself: its report is made when that is gone."""
_requests: deque[str] = deque(maxlen=30)


@contextmanager
def keep_on_failure(name: str, logs: Logs) -> Iterator[None]:
    """Copy what `logs` returns, files and folders, if a test fails inside; `name` says what wrote them."""
    unique = name if name not in _watched else f"{name}-{len(_watched)}"
    _watched[unique] = logs
    try:
        yield
    except BaseException:
        _copy(unique, logs, _early)
        raise
    finally:
        del _watched[unique]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failed test's report where the logs are and which requests it sent last."""
    report = yield
    if report.failed:
        folder = FOLDER / re.sub(r"[^\w.-]+", "_", item.nodeid.removeprefix("tests/"))[:150]
        kept = _keep(folder)
        if kept:
            report.sections.append(("look at", "\n".join(str(path) for path in kept)))
        if _requests:
            report.sections.append(("last requests of this process, newest last", "\n".join(_requests)))
    return report


def pytest_runtest_setup() -> None:
    """Forget the test before."""
    _requests.clear()
    shutil.rmtree(_early, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _requests_are_noted() -> Iterator[None]:
    """Note method, URL, status and request id of each request that httpx sends here."""
    with pytest.MonkeyPatch.context() as patch:
        send, send_async = httpx.Client.send, httpx.AsyncClient.send

        def noted(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
            try:
                return _note(send(self, request, **options))
            except httpx.HTTPError as exc:
                _note_error(request, exc)
                raise

        async def noted_async(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
            try:
                return _note(await send_async(self, request, **options))
            except httpx.HTTPError as exc:
                _note_error(request, exc)
                raise

        patch.setattr(httpx.Client, "send", noted)
        patch.setattr(httpx.AsyncClient, "send", noted_async)
        yield


def _note(response: httpx.Response) -> httpx.Response:
    request = response.request
    _requests.append(
        f"{request.method} {request.url} -> {response.status_code}, "
        f"request id {response.headers.get('x-request-id', 'none')}"
    )
    return response


def _note_error(request: httpx.Request, error: httpx.HTTPError) -> None:
    _requests.append(f"{request.method} {request.url} -> {type(error).__name__}: {error}")


def _keep(folder: Path) -> list[Path]:
    """Return the copies of everything that is watched now, or was when the test failed."""
    shutil.rmtree(folder, ignore_errors=True)
    kept = []
    if _early.is_dir():
        _early.replace(folder)
        kept += sorted(folder.iterdir())
    for name, logs in _watched.items():
        kept += _copy(name, logs, folder)
    return kept


def _copy(name: str, logs: Logs, folder: Path) -> list[Path]:
    """Copy what `logs` returns below `folder / name` and return the copies, a folder as one."""
    kept = []
    for source in logs():
        is_file = source.is_file()
        files = [source] if is_file else [Path(parent, each) for parent, _, names in os.walk(source) for each in names]
        copies = []
        for file in files:
            with suppress(OSError):  # it has gone meanwhile, is another user's, or no file
                copy = folder / name / (file.name if is_file else file.relative_to(source))
                text = _end_of(file)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(text)
                copies.append(copy)
        kept += copies if is_file else [folder / name] if copies else []
    return kept


def _end_of(path: Path) -> bytes:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MOST_BYTES))
        return file.read()
