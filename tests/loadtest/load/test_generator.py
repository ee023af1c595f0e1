"""How generators are started: what is refused before anything runs, and what several have done together."""

import socket
from pathlib import Path

import pytest

from loadtest.errors import BadInputError
from loadtest.load.generator import Load, add_up_seconds, running_generator
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


def test_how_far_several_generators_have_come_is_what_they_did_together() -> None:
    first = GeneratorRow(100.0, 50.0, 3, 40, 1, 2.0, 12.0, generator=1)
    second = GeneratorRow(100.5, 70.0, 2, 30, 0, 9.0, 10.0, generator=2)
    together = add_up_seconds([first, second])
    assert (together.unix_s, together.users, together.requests, together.failures, together.lag_ms) == (
        100.5, 5, 70, 1, 9.0,
    )  # fmt: skip
    assert add_up_seconds([first]) == first
