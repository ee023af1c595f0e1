"""Requests under way, counted over processes, and what a service that is being stopped does with those that come."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serve_app.deployments.stopping import answer_what_is_under_way
from serve_app.entrance.haproxy import ARRIVED_HEADER, LAST_ANSWER_HEADER
from serve_app.entrance.middleware import middlewares
from serve_app.entrance.under_way import VARIABLE, UnderWay, count_under_way, tell_stopping
from tests.serve_app.classifier.test_model_api import assert_error

DEADLINE_S = 60
LONG_S = 600


class Held:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, _: Request) -> Response:
        await self.go_on.wait()
        return PlainTextResponse("fine")


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
async def http(tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """What stands in front of Serve, in a process of a service whose folder is `tmp_path`."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))

    async def hold(request: Request) -> Response:
        return await held(request)

    async def fail(_: Request) -> Response:
        raise ValueError

    routes = [Route("/held", hold), Route("/fails", fail), Route("/-/healthz", lambda _: PlainTextResponse("success"))]
    app = Starlette(routes=routes, middleware=[*reversed(middlewares())])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def counted(folder: Path, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while count_under_way(folder) != count:
        assert time.monotonic() < deadline, count_under_way(folder)
        await asyncio.sleep(0.01)


async def test_requests_count_until_they_are_answered(http: httpx.AsyncClient, held: Held, tmp_path: Path) -> None:
    sent = [asyncio.create_task(http.get("/held")) for _ in range(3)]
    await counted(tmp_path, 3)
    sent[0].cancel()  # its client has gone
    await counted(tmp_path, 2)
    held.go_on.set()
    assert [response.status_code for response in await asyncio.gather(*sent[1:])] == [200, 200]
    assert (await http.get("/fails")).status_code == 500
    assert count_under_way(tmp_path) == 0


async def test_of_a_service_that_is_stopped_what_came_before_is_answered_and_the_rest_refused(
    http: httpx.AsyncClient, held: Held, tmp_path: Path
) -> None:
    before = asyncio.create_task(http.get("/held"))
    await counted(tmp_path, 1)
    arrived_ms = 1000 * time.time() - 1
    tell_stopping(tmp_path)
    refused = await http.get("/held")
    assert_error(refused, 503, "stopping")
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.headers["Connection"] == "close"
    assert LAST_ANSWER_HEADER in refused.headers
    assert (await http.get("/-/healthz")).status_code == 200  # a replica that is out would lose what it has
    for forged in ("", "soon", "-5", f"{1000 * time.time() + 1e6:.0f}"):
        assert (await http.get("/held", headers={ARRIVED_HEADER: forged})).status_code == 503
    held_back = asyncio.create_task(http.get("/held", headers={ARRIVED_HEADER: f"{arrived_ms:.0f}"}))
    await counted(tmp_path, 2)
    held.go_on.set()
    assert [(await sent).status_code for sent in (before, held_back)] == [200, 200]


async def test_a_stop_waits_for_what_is_under_way_and_no_longer(
    http: httpx.AsyncClient, held: Held, tmp_path: Path
) -> None:
    sent = asyncio.create_task(http.get("/held"))
    await counted(tmp_path, 1)
    said: list[str] = []
    stop = asyncio.create_task(asyncio.to_thread(answer_what_is_under_way, tmp_path, within_s=LONG_S, say=said.append))
    while not said:  # noqa: ASYNC110 what is waited for is in a thread
        await asyncio.sleep(0.01)
    assert said[0].startswith("answering 1 request(s)")
    assert not stop.done()
    held.go_on.set()
    assert (await sent).status_code == 200
    await asyncio.wait_for(stop, DEADLINE_S)
    assert len(said) == 1


async def test_a_stop_gives_up_at_its_limit_and_says_so(http: httpx.AsyncClient, held: Held, tmp_path: Path) -> None:
    sent = asyncio.create_task(http.get("/held"))
    await counted(tmp_path, 1)
    said: list[str] = []
    await asyncio.to_thread(answer_what_is_under_way, tmp_path, within_s=0, say=said.append)
    assert said[-1] == "1 request(s) were not answered within 0 s"
    held.go_on.set()
    await sent


def test_an_idle_service_stops_at_once_and_says_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    answer_what_is_under_way(tmp_path, within_s=LONG_S, say=said.append)
    assert said == []


def test_the_counts_of_several_processes_add_up_and_that_of_a_killed_one_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    code = """
import sys
from serve_app.entrance.under_way import UnderWay
here = UnderWay()
with here.one_more(), here.one_more():
    print("counted", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "counted\n"
        with UnderWay().one_more():
            assert count_under_way(tmp_path) == 3
            process.kill()
            process.wait()
            assert count_under_way(tmp_path) == 1
    assert count_under_way(tmp_path) == 0


def test_threads_and_loops_of_a_process_have_counts_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    ended = threading.Event()

    def hold() -> None:
        with UnderWay().one_more():
            ended.wait(DEADLINE_S)

    thread = threading.Thread(target=hold)
    with UnderWay().one_more():
        thread.start()
        deadline = time.monotonic() + DEADLINE_S
        while count_under_way(tmp_path) != 2:
            assert time.monotonic() < deadline
        ended.set()
        thread.join()
        assert count_under_way(tmp_path) == 1


def test_without_a_folder_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    here = UnderWay()
    with here.one_more():
        assert here.is_accepted({"type": "http", "headers": []})
