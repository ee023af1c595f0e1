"""The longest time of a run: all limits in time, for each cell."""

import pytest

from loadtest.plan.longest import longest_cell_s, longest_load_s, longest_sending_s
from loadtest.plan.plan import Plan

STARTED = {"name": "a", "start": "serve", "url": "http://127.0.0.1:1", "ready_timeout_s": 100, "stop_timeout_s": 20}
RUNNING = {"name": "b", "url": "http://127.0.0.1:2", "ready_timeout_s": 7}


def plan(**changes: object) -> Plan:
    keys = {
        "title": "t",
        "targets": [STARTED, RUNNING],
        "users": [1, 2],
        "repetitions": 3,
        "spawn_rate_per_s": 1,
        "duration_s": 30,
        "drain_s": 5,
        "warmup": {"duration_s": 0},
        "workload": {"locustfile": "l.py", "wait_s": [0, 1], "endpoints": {"e": {"request": "GET /"}}},
        **changes,
    }
    return Plan.model_validate(keys)


def test_a_cell_takes_no_longer_than_its_start_its_load_and_its_stop() -> None:
    asked = plan()
    each_s = [longest_cell_s(asked, target) for target in asked.targets]
    load_s = longest_load_s(asked, 30)
    assert load_s > 30 + 5
    assert each_s[1] == 7 + load_s
    assert each_s[0] > 100 + load_s + 20


def test_an_open_loop_first_sends_what_was_due_and_then_waits_for_answers() -> None:
    closed = plan(drain_s=200)
    rate = {**closed.workload.model_dump(mode="json"), "wait_s": None, "rate_rps": 5}
    open_loop = plan(drain_s=200, workload=rate)
    assert longest_load_s(open_loop, 30) == longest_load_s(closed, 30) + longest_sending_s(open_loop)
    assert longest_sending_s(open_loop) == 100
    assert longest_load_s(closed, 30, is_open=True) == longest_load_s(open_loop, 30)
    assert longest_load_s(open_loop, 30, is_open=False) == longest_load_s(closed, 30)


@pytest.mark.parametrize(
    ("changes", "more_s"),
    [
        ({"metrics": {"settle_s": 4}}, 2 * 4),
        ({"targets": [{**STARTED, "stop": "halt"}]}, 60),
        (
            {
                "targets": [{**STARTED, "replicas": {"role": "web", "count": 2, "wait_s": 11}}],
                "roles": [{"name": "web", "command": "serve"}],
            },
            11,
        ),
    ],
)
def test_what_a_plan_asks_for_beside_the_load_takes_time(changes: dict[str, object], more_s: float) -> None:
    asked, plain = plan(**changes), plan()
    assert longest_cell_s(asked, asked.targets[0]) == longest_cell_s(plain, plain.targets[0]) + more_s


def test_a_warm_up_is_a_load_too() -> None:
    asked, plain = plan(warmup={"duration_s": 10}), plan()
    more_s = longest_cell_s(asked, asked.targets[0]) - longest_cell_s(plain, plain.targets[0])
    assert more_s == longest_load_s(asked, 10)
