"""The search ends at the true capacity, whatever a single step says. Pure: a function stands for the target."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from loadtest.capacity.bisection import MOST_INVALID, Bounds, Outcome, Result, Step, Todo, decide, most_levels
from loadtest.capacity.judgement import expected_rps, judge, needed_requests, window_s
from loadtest.figures.figures import CellFigures, LimitResult, Reason, ReasonCode
from loadtest.plan.limits import read_limit
from loadtest.plan.plan import Plan
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.loss import find_loss
from loadtest.verdict.summary import summarize
from loadtest.verdict.validity import LEAST_REQUESTS
from tests.loadtest.verdict.test_run_comparison import (
    be_rejected,
    fail,
    fail_with_all_users,
    hang,
    lose_the_replica,
    send_nothing,
    send_rarely,
)
from tests.made_run import MadeCell, made_plan, write_made_run

Measure = Callable[[Todo], tuple[Outcome, bool]]
USERS = Bounds(start=10, least=1, most=10_000, resolution_percent=5, whole=True)
RATES = Bounds(start=10, least=0.1, most=10_000, resolution_percent=2, whole=False)


def search(bounds: Bounds, measure: Measure) -> tuple[list[Step], Result]:
    steps: list[Step] = []
    while isinstance(todo := decide(steps, bounds), Todo):
        outcome, near = measure(todo)
        steps.append(step(todo.level, outcome, near=near, purpose=todo.purpose))
        assert len(steps) < 100, steps
    return steps, todo


def step(level: float, outcome: Outcome, *, near: bool = False, purpose: str = "search", rps: float = 5) -> Step:
    return Step.model_validate(
        {
            "level": level,
            "purpose": purpose,
            "outcome": outcome,
            "unsure": near,
            "because": f"{level:g} {outcome}",
            "window_s": 20,
            "requests": 1000,
            "rps": rps,
            "limits": [],
            "folder": "steps/001",
        }
    )


def known(capacity: float) -> Measure:
    """Return a target that holds up to `capacity`."""
    return lambda todo: ("held" if todo.level <= capacity else "failed", False)


def noisy(capacity: float, seed: int) -> Measure:
    """Return a target whose steps within 10 % of its capacity say so, and are wrong in one of four."""
    chance = random.Random(seed)

    def measure(todo: Todo) -> tuple[Outcome, bool]:
        near = abs(todo.level / capacity - 1) < 0.1
        right = not near or chance.random() > 0.25
        return ("held" if (todo.level <= capacity) == right else "failed"), near

    return measure


@pytest.mark.parametrize("capacity", [1, 2, 9, 10, 11, 19, 20, 21, 73, 100, 640, 7_777, 9_999])
def test_the_largest_number_of_users_is_found_to_the_resolution(capacity: int) -> None:
    steps, result = search(USERS, known(capacity))
    assert result.status == "confirmed"
    assert result.capacity
    assert result.smallest_failed
    assert result.capacity <= capacity < result.smallest_failed
    assert result.smallest_failed - result.capacity <= max(1, 0.05 * result.capacity)
    assert all(one.level == int(one.level) for one in steps)
    assert len(steps) <= 20


@pytest.mark.parametrize("capacity", [0.11, 1.5, 49.99, 50, 3_210.7])
def test_the_largest_rate_is_found_to_the_resolution(capacity: float) -> None:
    _, result = search(RATES, known(capacity))
    assert result.status == "confirmed"
    assert result.capacity
    assert result.smallest_failed
    assert result.capacity <= capacity < result.smallest_failed <= result.capacity * 1.02


@pytest.mark.parametrize("bounds", [USERS, RATES, USERS.model_copy(update={"start": 1.0, "most": 1.0})])
def test_a_search_looks_at_no_more_levels_than_it_said(bounds: Bounds) -> None:
    chance = random.Random(1)
    looked_at = set()
    for _ in range(100):
        steps, _ = search(bounds, known(bounds.least * (bounds.most / bounds.least) ** chance.uniform(-0.1, 1.1)))
        looked_at.add(len({one.level for one in steps}))
        for number in range(len(steps)):
            left = {one.level for one in steps[number:]} - {one.level for one in steps[:number]}
            assert len(left) <= most_levels(steps[:number], bounds)
    assert max(looked_at) >= most_levels([], bounds) - 2  # the bound is no idle one


def test_the_last_step_is_a_confirmation_of_the_result() -> None:
    steps, result = search(USERS, known(73))
    assert [one.purpose for one in steps].count("confirm") == 1
    assert (steps[-1].purpose, steps[-1].level) == ("confirm", result.capacity)


def test_no_level_is_measured_twice_when_none_is_near_the_limit() -> None:
    steps, _ = search(USERS, known(73))
    levels = [one.level for one in steps if one.purpose == "search"]
    assert len(set(levels)) == len(levels)


def test_steps_near_the_limit_are_repeated_and_outvote_one_that_is_wrong() -> None:
    for seed in range(200):
        steps, result = search(USERS, noisy(100, seed))
        assert result.status == "confirmed"
        assert result.capacity
        # Levels outside the noise are right; inside it, two of three decide. The result is to the resolution.
        assert 90 / 1.05 - 1 <= result.capacity <= 110
        assert len(steps) < 60
    near = [one for one in steps if one.unsure]
    assert len(near) > len({one.level for one in near})


def test_a_level_that_the_confirmation_does_not_bear_out_is_stepped_down_from() -> None:
    def measure(todo: Todo) -> tuple[Outcome, bool]:
        held = todo.level <= (60 if todo.purpose == "confirm" else 73)
        return ("held" if held else "failed"), False

    steps, result = search(USERS, measure)
    assert result.status == "confirmed"
    assert result.capacity
    assert result.smallest_failed
    assert 57 <= result.capacity <= 60 < result.smallest_failed
    assert [one.outcome for one in steps if one.purpose == "confirm"].count("failed") >= 1


def test_an_objective_that_one_user_misses_is_held_by_none() -> None:
    steps, result = search(USERS, known(0.5))
    assert (result.status, result.capacity, result.smallest_failed) == ("none_holds", None, 1)
    assert [one.level for one in steps] == [10, 5, 2, 1, 1]  # the one that decides is repeated


def test_a_target_that_never_fails_is_told_from_one_whose_end_was_found() -> None:
    _, result = search(USERS, known(10**6))
    assert (result.status, result.capacity, result.smallest_failed) == ("confirmed", 10_000, None)
    assert "10000" in result.because


def test_a_step_that_is_no_measurement_is_repeated() -> None:
    failing = iter([True, True, False])

    def measure(todo: Todo) -> tuple[Outcome, bool]:
        return ("invalid", False) if todo.level == 20 and next(failing, False) else known(73)(todo)

    _, result = search(USERS, measure)
    assert result.status == "confirmed"


def test_a_generator_that_is_the_limit_ends_the_search() -> None:
    steps, result = search(USERS, lambda todo: ("invalid" if todo.level > 30 else "held", False))
    assert (result.status, result.capacity, result.smallest_failed) == ("stopped", 20, None)
    assert [one.level for one in steps] == [10, 20, *[40] * MOST_INVALID]
    assert "40 invalid" in result.because


def test_a_search_goes_on_from_any_step_as_if_it_had_not_been_interrupted() -> None:
    steps, result = search(USERS, noisy(100, 1))
    for count in range(len(steps)):
        todo = decide(steps[:count], USERS)
        assert isinstance(todo, Todo)
        assert (todo.level, todo.purpose) == (steps[count].level, steps[count].purpose)
    assert decide(steps, USERS) == result


def objective(*limits: str) -> Plan:
    return made_plan(limits=limits, users=[100], targets=made_plan().model_dump(mode="json")["targets"][:1])


def test_a_step_lasts_until_ten_answers_can_be_beyond_each_percentile() -> None:
    plan = objective("lookup.p95_ms <= 50", "predict.p95_ms <= 1000")
    # A third of the requests are predictions.
    assert needed_requests(plan, plan.limits) == 600
    assert needed_requests(plan, [read_limit("p99_ms <= 50")]) == 1000
    assert window_s(20, 300, 600, expected_rps=10) == 60
    assert window_s(20, 300, 600, expected_rps=1) == 300
    assert window_s(20, 300, 600, expected_rps=None) == 20


def test_a_step_lasts_until_an_endpoint_without_a_limit_has_enough_requests_to_be_valid() -> None:
    plan = objective("lookup.p95_ms <= 50")
    endpoints = plan.workload.endpoints
    endpoints["lookup"] = endpoints["lookup"].model_copy(update={"weight": 49})
    assert needed_requests(plan, plan.limits) == 2 * LEAST_REQUESTS * 50


def test_the_throughput_expected_of_more_users_is_no_more_than_that_of_fewer() -> None:
    steps = [step(10, "held", rps=4), step(40, "held", rps=9)]
    assert expected_rps(steps, 80) == 9
    assert expected_rps(steps, 30) == pytest.approx(9 * 30 / 40)
    assert expected_rps([], 30) is None


@pytest.fixture
def cell(tmp_path: Path) -> CellFigures:
    plan = objective("lookup.p95_ms <= 50", "failures_percent <= 0")
    folder = write_made_run(tmp_path / "run", plan)
    return summarize(RunFolder(folder)).cells[0]


def judged(
    cell: CellFigures, value: float, reasons: Sequence[Reason] = (), **changes: object
) -> tuple[Outcome, bool, str]:
    plan = objective("lookup.p95_ms <= 50", "failures_percent <= 0")
    limits = [
        LimitResult(limit="lookup.p95_ms <= 50", value=value, met=value <= 50),
        LimitResult(limit="failures_percent <= 0", value=0, met=True),
    ]
    told = {"reasons": [*reasons], "loss": find_loss(reasons, None, None)}
    return judge(cell.model_copy(update={"limits": limits, **told, **changes}), plan)


def test_a_figure_within_ten_percent_of_its_limit_is_near(cell: CellFigures) -> None:
    assert [judged(cell, value)[:2] for value in (44, 46, 54, 56)] == [
        ("held", False),
        ("held", True),
        ("failed", True),
        ("failed", False),
    ]


def test_what_decided_is_told(cell: CellFigures) -> None:
    assert judged(cell, 56)[2] == "lookup.p95_ms <= 50: 56.0 ms"
    assert judged(cell, 48)[2] == "within 10 % of lookup.p95_ms <= 50"


def test_a_short_generator_is_told_from_a_slow_target(cell: CellFigures) -> None:
    short = [Reason("it was short of CPU: it used 99 % of one core, 90 % are allowed", "generator_cpu")]
    assert judged(cell, 40, reasons=short) == ("invalid", False, f"the generator is the limit: {short[0]}")
    kept = {"arrivals_due": 1000, "arrivals_queued": 60, "arrivals_unsent": 40}
    outcome, _, because = judged(cell, 40, reasons=[Reason("it did not keep up", "target_behind")], **kept)
    assert outcome == "failed"
    assert "100 of 1,000 arrivals" in because
    kept |= {"arrivals_queued": 0, "arrivals_unsent": 1}
    assert judged(cell, 40, reasons=[Reason("it did not keep up", "target_behind")], **kept)[0] == "failed"


@pytest.mark.parametrize(
    ("code", "outcome"), [("none_right", "failed"), ("generator_late", "invalid"), ("few_samples", "invalid")]
)
def test_the_code_of_a_reason_decides_and_not_its_words(cell: CellFigures, code: ReasonCode, outcome: Outcome) -> None:
    assert judged(cell, 40, reasons=[Reason("none of the load generator was late", code)])[0] == outcome


@pytest.mark.parametrize(
    ("codes", "outcome"),
    [
        (["target_behind"], "failed"),
        (["target_behind", "answers_missing"], "failed"),
        (["none_right", "few_samples"], "failed"),
        (["none_right", "few_samples", "answers_missing"], "failed"),
        (["target_behind", "none_right"], "failed"),
        (["answers_missing"], "invalid"),
        (["few_samples", "answers_missing"], "invalid"),
        (["rate_not_reached"], "invalid"),
        (["target_behind", "other_load"], "invalid"),
        (["none_right", "cache"], "invalid"),
        (["answers_missing", "generator_held_back"], "invalid"),
    ],
)
def test_a_target_that_does_not_keep_up_has_failed_whatever_else_that_causes(
    cell: CellFigures, codes: list[ReasonCode], outcome: Outcome
) -> None:
    found, unsure, because = judged(cell, 40, reasons=[Reason(f"the reason {code}", code) for code in codes])
    assert (found, unsure) == (outcome, False)
    assert [code for code in codes if f"the reason {code}" not in because] == []


def step_with(folder: Path, change: Callable[[MadeCell], None]) -> tuple[CellFigures, tuple[Outcome, bool, str]]:
    plan = objective("failures_percent <= 100").model_copy(update={"users": [25]})
    (cell,) = summarize(RunFolder(write_made_run(folder / "run", plan, change))).cells
    return cell, judge(cell, plan)


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (fail_with_all_users, {"none_right"}),
        (hang(), {"few_samples"}),
        (hang(right_in_ramp=True), {"few_samples"}),
        (hang(rows=False), {"few_samples", "answers_missing", "generator_held_back"}),
        (lose_the_replica, {"none_right", "replicas"}),
        (fail("target_failed"), {"target_failed"}),
    ],
)
def test_a_level_at_which_the_target_answers_nothing_right_or_crashes_has_failed(
    tmp_path: Path, change: Callable[[MadeCell], None], codes: set[ReasonCode]
) -> None:
    cell, (outcome, unsure, because) = step_with(tmp_path, change)
    assert {reason.code for reason in cell.reasons} == codes
    assert (outcome, unsure) == ("failed", False)
    assert because.startswith("the target failed: " if "target_failed" in codes else "the target did not keep up: ")


@pytest.mark.parametrize(
    "change", [send_rarely, send_nothing, be_rejected, fail("generator_lost"), fail("failed", "the disk is full")]
)
def test_a_step_that_another_may_have_spoiled_decides_nothing(
    tmp_path: Path, change: Callable[[MadeCell], None]
) -> None:
    assert step_with(tmp_path, change)[1][0] == "invalid"


def test_a_target_that_was_never_ready_says_nothing_of_the_level(tmp_path: Path) -> None:
    def be_unready(made: MadeCell) -> None:
        fail("target_failed", "it was not ready within 120 s")(made)
        made.record.ready_after_s = None

    assert step_with(tmp_path, be_unready)[1] == ("invalid", False, "it was not ready within 120 s")


def test_missing_rows_are_not_told_as_the_generator_s_limit(cell: CellFigures) -> None:
    reasons = [Reason("answers were still due", "answers_missing"), Reason("it held back", "generator_held_back")]
    assert judged(cell, 40, reasons=reasons)[2] == "answers were still due; it held back"
    assert judged(cell, 40, reasons=reasons[1:])[2].startswith("the generator is the limit")


def test_an_open_loop_whose_arrivals_were_hardly_late_says_nothing_of_the_target(cell: CellFigures) -> None:
    kept = {"arrivals_due": 1000, "arrivals_queued": 5, "arrivals_unsent": 0}
    assert judged(cell, 40, reasons=[Reason("5 of 1000 were late", "target_behind")], **kept)[0] == "invalid"


def test_users_who_pace_themselves_find_the_capacity_between_a_rate_kept_and_one_not_kept(cell: CellFigures) -> None:
    waited = [Reason("the rate asked for was not reached; the target limited it", "target_behind")]

    def measure(todo: Todo) -> tuple[Outcome, bool]:
        return judged(cell, 40, reasons=waited if todo.level > 150 else [])[:2]

    _, result = search(USERS, measure)
    assert (result.status, result.capacity, result.smallest_failed) == ("confirmed", 150, 155)


def test_a_step_that_others_disturbed_decides_nothing_though_arrivals_waited(cell: CellFigures) -> None:
    kept = {"arrivals_due": 1000, "arrivals_queued": 60, "arrivals_unsent": 40}
    assert judged(cell, 40, reasons=[Reason("a backup ran", "other_load")], **kept)[0] == "invalid"


def test_failed_requests_are_no_samples_of_a_latency(cell: CellFigures) -> None:
    plan = objective("lookup.p95_ms <= 1000")
    limits = [LimitResult(limit="lookup.p95_ms <= 1000", value=300, met=True)]
    refused = cell.endpoints[1].steady.model_copy(update={"requests": 5000, "failures": 4990})
    endpoints = [cell.endpoints[0], cell.endpoints[1].model_copy(update={"steady": refused})]
    changed = cell.model_copy(update={"limits": limits, "reasons": [], "endpoints": endpoints})
    assert judge(changed, plan) == ("held", True, "few samples for lookup.p95_ms <= 1000")


def test_too_few_samples_are_no_decision(cell: CellFigures) -> None:
    plan = objective("lookup.p99_ms <= 50")
    limits = [LimitResult(limit="lookup.p99_ms <= 50", value=20, met=True)]
    few = cell.endpoints[1].steady.model_copy(update={"requests": 999})
    endpoints = [cell.endpoints[0], cell.endpoints[1].model_copy(update={"steady": few})]
    changed = cell.model_copy(update={"limits": limits, "reasons": [], "endpoints": endpoints})
    assert judge(changed, plan) == ("held", True, "few samples for lookup.p99_ms <= 50")
