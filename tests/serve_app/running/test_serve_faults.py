"""The real service under a light load while its parts die, one after the other: little is lost. Linux with HAProxy.

`python -m loadtest faults` does the same under 100 users, with more faults; docs/faults.md has its table.
"""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from tests.conftest import Fitted
from tests.ports import free_port
from tests.postgres import Postgres
from tests.service import Service, adapted, launcher, own_environment, processes_of, service, write_config

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy is there on Linux only"),
]
LOOKERS, SENDERS = 6, 3
PAUSE_S = 0.05
BACK_S = 40
WATCHED_S = 1.2  # the launcher looks for HAProxy every second
APPLICATIONS = ("users", "model")
GAP_S = 0.5


@dataclass
class Seen:
    """What a load saw: requests that were right, and those that were not with the moments of sending and failing."""

    right: int = 0
    wrong: list[tuple[float, float, str]] = field(default_factory=list)
    longest_s: float = 0.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted, postgres: Postgres) -> Iterator[Service]:
    """two_replicas.yaml with its users in PostgreSQL, once HAProxy is being watched."""
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    config = write_config(folder, adapted("two_replicas.yaml", port=port, model_args=fitted.args))
    environment = own_environment(folder) | {"DATABASE_URL": postgres.new_database()}
    with service(launcher(config), environment, folder, port) as started:
        started.wait_until_ready()
        deadline = time.monotonic() + 10
        while "Ctrl-C" not in started.printed():
            assert time.monotonic() < deadline, started.printed()
            time.sleep(0.1)
        time.sleep(WATCHED_S)
        yield started


def haproxies(running: Service) -> list[psutil.Process]:
    return [process for process in processes_of(running.environment) if process.name() == "haproxy"]


async def wait_for(running: Service, title: str, count: int) -> None:
    deadline = time.monotonic() + BACK_S
    while len(running.titled(title)) != count:
        assert time.monotonic() < deadline, running.titled(title)
        await asyncio.sleep(0.2)


@asynccontextmanager
async def load(running: Service, fitted: Fitted) -> AsyncIterator[tuple[Seen, Seen]]:
    """Look users up and send pictures meanwhile, each client one request at a time; yields lookups and predictions."""
    lookups, predictions, over = Seen(), Seen(), asyncio.Event()
    picture = fitted.pictures["thing 7"]

    async def keep_asking(http: httpx.AsyncClient, seen: Seen, method: str, path: str, content: bytes | None) -> None:
        while not over.is_set():
            sent = time.time()
            try:
                answer = await http.request(method, path, content=content)
                fault = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
            except httpx.TransportError as exc:
                fault = repr(exc)
            seen.longest_s = max(seen.longest_s, time.time() - sent)
            if fault:
                seen.wrong.append((sent, time.time(), fault))
            else:
                seen.right += 1
            await asyncio.sleep(PAUSE_S)

    async with httpx.AsyncClient(base_url=running.url, timeout=30) as http:
        asking = [asyncio.create_task(keep_asking(http, lookups, "GET", "/user/", None)) for _ in range(LOOKERS)]
        asking += [
            asyncio.create_task(keep_asking(http, predictions, "POST", "/model/predict", picture))
            for _ in range(SENDERS)
        ]
        await asyncio.sleep(0.5)
        try:
            yield lookups, predictions
        finally:
            over.set()
            await asyncio.gather(*asking)


async def test_killed_replicas_cost_at_most_what_was_under_way(running: Service, fitted: Fitted) -> None:
    async with load(running, fitted) as (lookups, predictions):
        killed = time.time()
        for application in APPLICATIONS:
            running.replicas(application)[0].kill()
        await asyncio.sleep(2)
    # HAProxy sends most of it to another replica, but not what hits a connection in the moment of its end.
    lost = [*lookups.wrong, *predictions.wrong]
    assert all(sent < killed + GAP_S for sent, _, _ in lost), lost
    assert len(lost) <= LOOKERS + SENDERS
    assert lookups.right > 50
    assert predictions.right > 10
    for application in APPLICATIONS:
        await wait_for(running, f"ray::ServeReplica:{application}:", 2)


async def test_no_request_waits_for_frozen_replicas(running: Service, fitted: Fitted) -> None:
    struck = [running.replicas(application)[0] for application in APPLICATIONS]
    async with load(running, fitted) as (lookups, predictions):
        for process in struck:
            process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(6)
            assert max(lookups.longest_s, predictions.longest_s) < 5
        finally:
            for process in struck:
                process.send_signal(signal.SIGCONT)
    assert lookups.wrong == []
    # An upload that came in several pieces cannot be sent again.
    assert len(predictions.wrong) <= SENDERS, predictions.wrong


async def test_a_stopped_database_is_a_quick_503_for_lookups_alone_and_heals(
    running: Service, fitted: Fitted, postgres: Postgres
) -> None:
    async with load(running, fitted) as (lookups, predictions):
        await asyncio.to_thread(postgres.stop)
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.to_thread(postgres.start)
        await asyncio.sleep(1)
        healed = len(lookups.wrong)
        await asyncio.sleep(1)
        assert len(lookups.wrong) == healed
    assert healed > 0
    assert all('503 {"code":"database_unavailable"' in fault for _, _, fault in lookups.wrong)
    assert max(ended - sent for sent, ended, _ in lookups.wrong) < 1
    assert predictions.wrong == []


async def test_a_killed_haproxy_costs_what_was_under_way_and_half_a_second(running: Service, fitted: Fitted) -> None:
    async with load(running, fitted) as (lookups, predictions):
        killed = time.time()
        for process in haproxies(running):
            process.kill()
        # Meanwhile Serve's own HAProxy takes over from the launcher's stand-in.
        await wait_for(running, "ray::HAProxyManager", 0)
        await wait_for(running, "ray::HAProxyManager", 1)
        (manager,) = running.titled("ray::HAProxyManager")
        deadline = time.monotonic() + BACK_S
        while {process.ppid() for process in haproxies(running)} != {manager.pid}:
            assert time.monotonic() < deadline, haproxies(running)
            await asyncio.sleep(0.2)
    lost = [*lookups.wrong, *predictions.wrong]
    assert all(sent < killed + GAP_S for sent, _, _ in lost), lost
    assert lookups.right > 100
