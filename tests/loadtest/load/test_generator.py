"""How generators are started: what is refused before anything runs, and what several have done together."""

import socket
from collections import Counter
from itertools import cycle, islice
from pathlib import Path

import pytest

from loadtest.errors import BadInputError
from loadtest.load.generator import Load, RecorderSettings, add_up_seconds, running_generator
from loadtest.rows.columns import GeneratorRow
from tests.made_run import made_plan


def test_a_port_that_is_taken_is_told_before_the_master_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        plan = made_plan(generators=2, generators_at=at)
        load = Load(10, 10, 60, 1, tmp_path, "requests", divided=True)
        with (
            pytest.raises(
                BadInputError, match=f"^generators_at: {at} cannot be listened on .*: give an address of this"
            ),
            running_generator(plan, plan.targets[0], load),
        ):
            pass
    assert not load.log.exists()


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    plan = made_plan(generators=2, generators_at="192.0.2.7:5557")
    load = Load(10, 10, 60, 1, tmp_path, "requests", divided=True)
    with (
        pytest.raises(BadInputError, match=r"^generators_at: 192\.0\.2\.7:5557 cannot be listened on"),
        running_generator(plan, plan.targets[0], load),
    ):
        pass


@pytest.mark.parametrize(("users", "generators"), [(6, 2), (10, 5), (40, 4), (12, 1), (8, 8)])
@pytest.mark.parametrize("addresses", [1, 2, 3, 10])
def test_users_of_all_generators_are_spread_evenly_over_the_addresses(
    tmp_path: Path, users: int, generators: int, addresses: int
) -> None:
    load = Load(users, users, 60, 1, tmp_path, "requests", divided=True)
    urls = [f"http://127.0.0.1:{8000 + number}" for number in range(addresses)]
    taken: Counter[str] = Counter(dict.fromkeys(urls, 0))
    for number in range(1, generators + 1):
        settings = RecorderSettings(
            load=load, workload=made_plan().workload, drain_s=1, urls=urls, generators=generators, number=number
        )
        taken.update(islice(cycle(settings.own_urls), users // generators))
    assert max(taken.values()) - min(taken.values()) <= 1


def test_how_far_several_generators_have_come_is_what_they_did_together() -> None:
    first = GeneratorRow(100.0, 50.0, 3, 40, 1, 2.0, 12.0, generator=1)
    second = GeneratorRow(100.5, 70.0, 2, 30, 0, 9.0, 10.0, generator=2)
    together = add_up_seconds([first, second])
    assert (together.unix_s, together.users, together.requests, together.failures, together.lag_ms) == (
        100.5, 5, 70, 1, 9.0,
    )  # fmt: skip
    assert add_up_seconds([first]) == first
