"""One noisy step does not decide a search: both of its ends are measured again. Pure, and on a known server."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.capacity.bisection import AGREEING, Bounds, Outcome, Result, Step, Todo, decide
from loadtest.figures.figures import LimitResult
from tests.kit import RUN_S, known_target, run_command, workload, write_plan
from tests.loadtest.capacity.test_capacity_search import RATES, USERS, known, search, step
from tests.ports import free_port

FEW = 8
Wrong = Callable[[Todo, int], bool]
"""Whether the measurement, the n-th of all, is wrong."""


def mistaken(capacity: float, is_wrong: Wrong) -> Callable[[Todo], tuple[Outcome, bool]]:
    """Return a target that holds up to `capacity`, and measurements of it of which some are wrong and sure of it."""
    counted = iter(range(10**6))

    def measure(todo: Todo) -> tuple[Outcome, bool]:
        holds = todo.level <= capacity
        return ("held" if holds != is_wrong(todo, next(counted)) else "failed"), False

    return measure


@pytest.mark.parametrize("bounds", [USERS, RATES], ids=["users", "rate"])
@pytest.mark.parametrize("capacity", [11, 73, 260, 640, 7_777])
def test_a_slow_first_step_costs_steps_and_changes_no_answer(bounds: Bounds, capacity: float) -> None:
    for start in (10.0, 260.0, 300.0):
        given = bounds.model_copy(update={"start": start})
        _, right = search(given, known(capacity))
        steps, result = search(given, mistaken(capacity, lambda _, number: number == 0))
        assert result.status == "confirmed"
        assert result.capacity
        assert result.smallest_failed
        assert result.capacity <= capacity < result.smallest_failed
        assert result.smallest_failed - result.capacity <= max(1 * bounds.whole, 0.05 * result.capacity)
        assert (right.capacity or 0) == pytest.approx(result.capacity, rel=0.05, abs=1)
        assert (steps[-1].purpose, steps[-1].level) == ("confirm", result.capacity)


@pytest.mark.parametrize("capacity", [2, 9, 73, 250, 640])
def test_any_single_step_may_be_wrong_and_the_interval_covers_the_capacity(capacity: int) -> None:
    steps, _ = search(USERS, known(capacity))
    for wrong in range(len(steps) + 4):
        _, result = search(USERS, mistaken(capacity, lambda _, number, wrong=wrong: number == wrong))  # type: ignore[misc]
        assert result.status == "confirmed", wrong
        assert result.capacity
        assert result.smallest_failed
        assert result.capacity <= capacity < result.smallest_failed, wrong


def test_the_level_that_failed_is_measured_as_often_as_it_takes_to_agree() -> None:
    steps, result = search(USERS, known(73))
    failing = [one for one in steps if one.level == result.smallest_failed]
    assert [one.outcome for one in failing] == ["failed"] * AGREEING
    assert [one.purpose for one in failing] == ["search", "recheck"]
    assert [one.level for one in steps].count(result.capacity or 0) == 2


def test_two_slow_steps_at_the_same_level_are_believed() -> None:
    _, result = search(USERS, mistaken(73, lambda todo, _: todo.level == 20))
    assert (result.capacity, result.smallest_failed) == (19, 20)


def test_a_single_slow_step_with_the_fewest_users_is_not_the_end() -> None:
    one_user = USERS.model_copy(update={"start": 1.0})
    steps, result = search(one_user, mistaken(6, lambda _, number: number == 0))
    assert (result.status, result.capacity, result.smallest_failed) == ("confirmed", 6, 7)
    assert [one.level for one in steps][:3] == [1, 1, 1]


def test_a_slow_confirmation_is_repeated_before_the_search_steps_down() -> None:
    confirmations = iter([True])
    steps, result = search(
        USERS, mistaken(73, lambda todo, _: todo.purpose == "confirm" and next(confirmations, False))
    )
    assert (result.capacity, result.smallest_failed) == tuple(search(USERS, known(73))[1].model_dump().values())[1:3]
    assert [one.outcome for one in steps if one.purpose == "confirm"] == ["failed", "held", "held"]


def told(level: float, outcome: Outcome, p95_ms: float, purpose: str = "search") -> Step:
    """Return a step with one objective of 1,000 ms."""
    result = LimitResult(limit="predict.p95_ms <= 1000", value=p95_ms, met=p95_ms <= 1000)
    return step(level, outcome, purpose=purpose).model_copy(update={"limits": [result]})


def next_of(*steps: Step) -> Todo | Result:
    return decide(steps, USERS.model_copy(update={"start": 260.0}))


REPORTED = (told(130, "held", 200), told(195, "held", 250), told(243, "held", 290), told(251, "held", 312))
"""What was reported: 260 users failed at first with 1,352 ms; later 251 held with 312 ms, and were the answer."""


def test_the_reported_search_opens_its_bracket_again() -> None:
    first = told(260, "failed", 1352)
    assert next_of(first, *REPORTED) == Todo(level=260, purpose="recheck", repeated=True)
    again = [told(260, "held", 330, "recheck")] * 2
    assert next_of(first, *REPORTED, *again) == Todo(level=520, purpose="search", repeated=False)


def test_an_answer_far_from_the_objective_takes_one_more_failure_above_it() -> None:
    first, second = told(260, "failed", 1352), told(260, "failed", 1290, "recheck")
    third = Todo(level=260, purpose="recheck", repeated=True)
    assert next_of(first, *REPORTED, second) == third
    near = [*REPORTED[:-1], told(251, "held", 801)]
    assert next_of(first, *near, second) == Todo(level=251, purpose="confirm", repeated=False)
    # One that holds at the third look opens the question: of five, three failures or two that hold decide.
    held = told(260, "held", 330, "recheck")
    assert next_of(first, *REPORTED, second, held) == third
    assert next_of(first, *REPORTED, second, held, held) == Todo(level=520, purpose="search", repeated=False)


def test_a_real_cliff_is_answered_and_told() -> None:
    failures = [told(260, "failed", 1352, purpose) for purpose in ("search", "recheck", "recheck")]
    ended = next_of(failures[0], *REPORTED, *failures[1:], told(251, "held", 312, "confirm"))
    assert isinstance(ended, Result)
    assert (ended.status, ended.capacity, ended.smallest_failed) == ("confirmed", 251, 260)
    assert ended.because == "251 is far from the objective, and yet 260 failed 3 times"


def test_a_failure_of_another_kind_is_not_judged_by_the_latency() -> None:
    failures = [LimitResult(limit="failures_percent <= 0", value=3, met=False), LimitResult(
        limit="predict.p95_ms <= 1000", value=300, met=True)]  # fmt: skip
    failing = [
        step(260, "failed", purpose=purpose).model_copy(update={"limits": failures})
        for purpose in ("search", "recheck")
    ]
    ended = next_of(failing[0], *REPORTED, failing[1], told(251, "held", 312, "confirm"))
    assert isinstance(ended, Result)
    assert ended.because == ""


def test_a_level_that_failed_below_one_that_held_is_measured_again_first() -> None:
    steps = [step(10, "held"), step(20, "failed"), step(40, "held")]
    assert decide(steps, USERS) == Todo(level=20, purpose="recheck", repeated=True)
    steps += [step(20, "held", purpose="recheck")] * 2
    assert decide(steps, USERS) == Todo(level=80, purpose="search", repeated=False)


def test_where_steps_contradict_each_other_the_interval_covers_all_of_them() -> None:
    steps = [step(10, "held"), step(20, "failed"), step(40, "held"), step(80, "failed")]
    while isinstance(todo := decide(steps, USERS), Todo):
        outcome: Outcome = "failed" if 18 <= todo.level < 25 or todo.level >= 80 else "held"
        steps.append(step(todo.level, outcome, purpose=todo.purpose))
        assert len(steps) < 50
    assert todo.capacity
    assert todo.smallest_failed
    assert todo.capacity < 18
    assert todo.smallest_failed == 80
    assert "steps contradict each other: 18 failed, and 40 held" in todo.because
    for level in (20, 40):
        assert [one.level for one in steps].count(level) >= AGREEING


def test_noise_that_is_sure_of_itself_ends_all_the_same() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        steps, result = search(USERS, mistaken(100, lambda *_, chance=chance: chance.random() < 0.1))
        assert result.status in {"confirmed", "none_holds"}
        assert len(steps) < 80


def test_an_interrupted_search_asks_for_the_same_steps_again() -> None:
    steps, result = search(USERS, mistaken(73, lambda todo, number: number == 0 or todo.level == 38))
    for count in range(len(steps)):
        todo = decide(steps[:count], USERS)
        assert isinstance(todo, Todo)
        assert (todo.level, todo.purpose) == (steps[count].level, steps[count].purpose)
    assert decide(steps, USERS) == result


@pytest.mark.long
@pytest.mark.timeout(3 * RUN_S)
def test_a_slow_first_step_on_a_known_target_does_not_decide(tmp_path: Path) -> None:
    """The first eight clients wait for 305 ms, those of the steps after them for 5 ms, of 150 allowed."""
    target = known_target("known", free_port(), f"--delay-ms 5 --slow-clients {FEW} --slow-ms 300")
    work = workload("fixed", wait_s=[0.25, 0.25])  # see THINK_S in test_capacity
    keys = {"users": [FEW], "settle_s": 0.2, "warmup": {"duration_s": 0}, "workload": work}
    plan, out = write_plan(tmp_path / "plan.yaml", [target], **keys), tmp_path / "search"
    options = ["--slo", "fixed.median_ms<=150", "--most", FEW, "--window", "1.6", "--confirm", "1.6"]
    ended = run_command(["capacity", plan, "--out", out, "--resolution", "300", *options], out, tmp_path)
    assert ended.exit_code == 0, ended.output
    found = json.loads((out / "capacity.json").read_text())
    first, *others = found["steps"]
    assert (first["level"], first["outcome"], first["unsure"]) == (FEW, "failed", False)
    # A step that the machine disturbed is INVALID and measured again: none of the others may fail.
    assert {one["outcome"] for one in others if one["level"] == FEW} - {"invalid"} == {"held"}
    assert found["result"]["capacity"] == FEW
    assert "once more" in ended.stdout + ended.stderr


@pytest.mark.long
@pytest.mark.timeout(3 * RUN_S)
def test_a_level_that_is_lost_has_failed_and_the_next_step_has_another_target(tmp_path: Path) -> None:
    target = known_target("failing", free_port(), "--fail-every 1")
    work = workload("fixed", wait_s=[0.1, 0.1])
    keys = {"users": [2], "settle_s": 0.2, "warmup": {"duration_s": 0}, "workload": work}
    plan, out = write_plan(tmp_path / "plan.yaml", [target], **keys), tmp_path / "search"
    options = ["--slo", "fixed.median_ms<=150", "--most", 2, "--window", "1.6", "--confirm", "1.6"]
    ended = run_command(["capacity", plan, "--out", out, *options], out, tmp_path)
    found = json.loads((out / "capacity.json").read_text())
    assert found["result"]["status"] == "none_holds", ended.output
    failed = [one for one in found["steps"] if one["outcome"] == "failed"]
    assert len(failed) > 1
    assert all(one["because"].startswith("the target did not keep up: none of ") for one in failed)
    assert len([*out.glob("target_*.log")]) >= len(failed)
