"""Flights: one computation for all who ask at the same time, which ends when, and only when, nobody waits any more."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from serve_app.cache.flights import Flight, Flights
from tests.patience import HANG_S


class Work:
    """Computes when it is told to, and counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.seen_left_s = 0.0
        self.go = asyncio.Event()
        self.fault: Exception | None = None

    def of(self, name: str) -> Callable[[Flight[str]], Coroutine[None, None, str]]:
        async def work(flight: Flight[str]) -> str:
            self.begun += 1
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            self.seen_left_s = flight.left_s
            if self.fault:
                raise self.fault
            return f"{name} {self.begun}"

        return work


async def ask(flights: Flights[str], key: str, work: Work, within_s: float = HANG_S) -> str:
    flight = flights.find(key) or flights.begin(key, work.of(key))
    async with asyncio.timeout(within_s):
        return await flight.wait(within_s)


async def begun(*coroutines: Coroutine[None, None, str]) -> list["asyncio.Task[str]"]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await all_wait()
    return tasks


async def all_wait() -> None:
    """Return when every task has come to where it waits for another: none of them waits for anything else here."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_all_who_ask_at_the_same_time_get_one_result_and_the_next_another() -> None:
    flights, work = Flights[str](), Work()
    tasks = await begun(*(ask(flights, "k", work) for _ in range(100)), ask(flights, "other", work))
    work.go.set()
    assert set(await asyncio.gather(*tasks)) == {"k 2", "other 2"}
    assert await ask(flights, "k", work) == "k 3"


async def test_a_failure_is_everybodys_and_is_not_kept() -> None:
    flights, work = Flights[str](), Work()
    work.fault = ValueError("bad")
    tasks = await begun(*(ask(flights, "k", work) for _ in range(10)))
    work.go.set()
    assert [str(fault) for fault in await asyncio.gather(*tasks, return_exceptions=True)] == ["bad"] * 10
    work.fault = None
    assert await ask(flights, "k", work) == "k 2"


@pytest.mark.parametrize("leaver", [0, 1])
async def test_who_leaves_changes_nothing_for_the_others(leaver: int) -> None:
    flights, work = Flights[str](), Work()
    tasks = await begun(*(ask(flights, "k", work) for _ in range(3)))
    tasks.pop(leaver).cancel()
    await all_wait()
    work.go.set()
    assert await asyncio.gather(*tasks) == ["k 1"] * 2
    assert work.cancelled == 0


async def test_each_keeps_a_deadline_of_its_own() -> None:
    flights, work = Flights[str](), Work()
    tasks = await begun(ask(flights, "k", work, 0.05), ask(flights, "k", work), ask(flights, "k", work, 0.1))
    for late in (tasks[0], tasks[2]):
        with pytest.raises(TimeoutError):
            await late
    assert not tasks[1].done()
    work.go.set()
    assert await tasks[1] == "k 1"
    assert 0.1 < work.seen_left_s < HANG_S


async def test_what_nobody_waits_for_ends_at_once_and_the_next_begins_anew() -> None:
    flights, work = Flights[str](), Work()
    tasks = await begun(*(ask(flights, "k", work) for _ in range(2)))
    for task in tasks:
        task.cancel()
    next_task = asyncio.create_task(ask(flights, "k", work))  # before the work has noticed that it is cancelled
    await all_wait()
    assert work.cancelled == 1
    work.go.set()
    assert await next_task == "k 2"


async def test_the_end_is_told_even_of_work_that_never_began() -> None:
    flights, work, ended = Flights[str](), Work(), []
    flight = flights.begin("k", work.of("k"))
    flight.call_at_end(lambda: ended.append(True))
    await flight.cancel()
    assert (work.begun, ended, flights.find("k")) == (0, [True], None)


async def test_closing_ends_all_that_is_under_way() -> None:
    flights, work = Flights[str](), Work()
    tasks = await begun(ask(flights, "a", work), ask(flights, "b", work))
    await flights.close()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, True]
    assert work.cancelled == 2
