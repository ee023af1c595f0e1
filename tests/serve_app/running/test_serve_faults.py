"""The real service under a light load while its parts die, one after the other: little is lost. Linux with HAProxy.

`python -m loadtest faults` does the same under 100 users, with more faults; docs/faults.md has its table.
"""

import asyncio
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
import psutil
import pytest

from tests.conftest import Fitted
from tests.patience import HANG_S, until
from tests.ports import free_port
from tests.postgres import Postgres
from tests.service import (
    PATIENT_MODEL,
    PATIENT_USERS,
    Service,
    adapted,
    launcher,
    own_environment,
    service,
    write_config,
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy is there on Linux only"),
]
LOOKERS, SENDERS = 6, 3
PAUSE_S = 0.05
APPLICATIONS = ("users", "model")
GAP_S = 10
"""After a kill; `python -m loadtest faults` tells the half second that it is on a quiet machine."""
WAITED_S = 60
"""So long a lookup waits for a database, see PATIENT_USERS; a quick refusal has not waited."""


@dataclass
class Seen:
    """What the clients of one kind saw: how many answers each has had, and requests that went wrong."""

    turns: Counter[int] = field(default_factory=Counter)
    right: int = 0
    wrong: list[tuple[float, int, str]] = field(default_factory=list)
    """When each was sent, by which client, and what came of it."""
    longest_wrong_s: float = 0.0

    async def wait_for_turns(self, clients: int, count: int) -> None:
        """Return when each of `clients` has had `count` answers more, good or bad."""
        before = self.turns.copy()
        what = f"{count} more answers for each of {clients} clients"
        await until(lambda: all(self.turns[each] >= before[each] + count for each in range(clients)), what)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted, postgres: Postgres) -> Iterator[Service]:
    """two_replicas.yaml with its users in PostgreSQL, once HAProxy is being watched."""
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    patient = {"model_args": fitted.args | PATIENT_MODEL, "users_args": PATIENT_USERS}
    config = write_config(folder, adapted("two_replicas.yaml", port=port, **patient))
    environment = own_environment(folder) | {"DATABASE_URL": postgres.new_database()}
    with service(launcher(config), environment, folder, port) as started:
        started.wait_for_ready_block()
        started.wait_until_routed()
        yield started


@asynccontextmanager
async def load(running: Service, fitted: Fitted) -> AsyncIterator[tuple[Seen, Seen]]:
    """Look users up and send pictures meanwhile, each client one request at a time; yields lookups and predictions."""
    lookups, predictions, over = Seen(), Seen(), asyncio.Event()
    picture = fitted.pictures["thing 7"]

    async def keep_asking(client: int, seen: Seen, method: str, path: str, content: bytes | None) -> None:
        while not over.is_set():
            sent = time.time()
            try:
                answer = await http.request(method, path, content=content)
                fault = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text}"
            except httpx.TransportError as exc:
                fault = repr(exc)
            if fault:
                seen.wrong.append((sent, client, fault))
                seen.longest_wrong_s = max(seen.longest_wrong_s, time.time() - sent)
            else:
                seen.right += 1
            seen.turns[client] += 1
            await asyncio.sleep(PAUSE_S)

    async with httpx.AsyncClient(base_url=running.url, timeout=2 * HANG_S) as http:
        asking = [
            *(asyncio.create_task(keep_asking(each, lookups, "GET", "/user/", None)) for each in range(LOOKERS)),
            *(
                asyncio.create_task(keep_asking(each, predictions, "POST", "/model/predict", picture))
                for each in range(SENDERS)
            ),
        ]
        try:
            await lookups.wait_for_turns(LOOKERS, 2)
            await predictions.wait_for_turns(SENDERS, 1)
            yield lookups, predictions
        finally:
            over.set()
            await asyncio.gather(*asking)


async def wait_for_later_turns(lookups: Seen, predictions: Seen) -> None:
    """Return when each client has had answers to requests that it sent more than GAP_S from now."""
    await asyncio.sleep(GAP_S)
    await lookups.wait_for_turns(LOOKERS, 5)
    await predictions.wait_for_turns(SENDERS, 3)


def expect_lost_at_once(lookups: Seen, predictions: Seen, struck_s: float) -> None:
    """Assert that each client lost one request at most, and none that it sent GAP_S later."""
    for seen in (lookups, predictions):
        assert all(sent < struck_s + GAP_S for sent, _, _ in seen.wrong), seen.wrong
        assert max(Counter(client for _, client, _ in seen.wrong).values(), default=0) <= 1, seen.wrong


async def test_killed_replicas_cost_at_most_what_was_under_way(running: Service, fitted: Fitted) -> None:
    """HAProxy sends most of it to another replica, but not what hits a connection in the moment of its end."""
    async with load(running, fitted) as (lookups, predictions):
        before, killed = running.routed(), [running.replicas(application)[0] for application in APPLICATIONS]
        killed_s = time.time()
        for process in killed:
            process.kill()
        await wait_for_later_turns(lookups, predictions)
    expect_lost_at_once(lookups, predictions, killed_s)

    def are_replaced() -> bool:
        after = running.routed()
        return len(after - before) == len(killed) and len(after) == len(before) and len(running.haproxies()) == 1

    await asyncio.to_thread(running.wait_for, are_replaced, "requests to other replicas in their place")


async def test_no_request_waits_for_frozen_replicas(running: Service, fitted: Fitted) -> None:
    """Each client is answered while they are frozen, also one whose request was in one of them."""
    struck = [running.replicas(application)[0] for application in APPLICATIONS]
    async with load(running, fitted) as (lookups, predictions):
        for process in struck:
            process.send_signal(signal.SIGSTOP)
        try:
            await lookups.wait_for_turns(LOOKERS, 20)
            await predictions.wait_for_turns(SENDERS, 5)
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
            await lookups.wait_for_turns(LOOKERS, 5)
        finally:
            await asyncio.to_thread(postgres.start)
        await lookups.wait_for_turns(LOOKERS, 2)
        healed = len(lookups.wrong)
        await lookups.wait_for_turns(LOOKERS, 10)
        assert len(lookups.wrong) == healed
    assert healed >= LOOKERS
    assert all('503 {"code":"database_unavailable"' in fault for _, _, fault in lookups.wrong)
    assert lookups.longest_wrong_s < WAITED_S / 2
    assert predictions.wrong == []


async def test_a_killed_haproxy_costs_what_was_under_way_and_what_comes_until_another_stands_in(
    running: Service, fitted: Fitted
) -> None:
    [before] = running.titled("ray::HAProxyManager")
    async with load(running, fitted) as (lookups, predictions):
        killed_s = time.time()
        for process in running.haproxies():
            process.kill()
        # Meanwhile Serve's own HAProxy takes over from the launcher's stand-in.

        def serves_own() -> bool:
            managers = {process.pid for process in running.titled("ray::HAProxyManager")} - {before.pid}
            parents = set()
            for process in running.haproxies():
                with suppress(psutil.NoSuchProcess):
                    parents.add(process.ppid())
            return len(managers) == 1 and parents == managers

        await asyncio.to_thread(running.wait_for, serves_own, "Serve's own HAProxy")
        await wait_for_later_turns(lookups, predictions)
    lost = [*lookups.wrong, *predictions.wrong]
    assert all(sent < killed_s + GAP_S for sent, _, _ in lost), lost
