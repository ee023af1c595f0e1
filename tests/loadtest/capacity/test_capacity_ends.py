"""Every search ends, whatever its steps answer. Pure: functions stand for the target."""

from itertools import cycle
from typing import Literal

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from loadtest.capacity.bisection import MOST_INVALID, Bounds, Outcome, Purpose, Result, Step, Todo, decide
from loadtest.figures.figures import LimitResult
from tests.loadtest.capacity.test_capacity_search import RATES, USERS, known, search, step

MOST_STEPS = 500
"""More than twice as many as the longest of 10,000 such searches took, which was 212."""

Answer = tuple[Outcome | Literal["right"], bool, float]
"""What a step says (`right`: as the target is), whether it is unsure, and its p95 in milliseconds."""

ANSWER = st.tuples(
    st.sampled_from(["right", "held", "failed", "invalid"]), st.booleans(), st.sampled_from([10.0, 900.0, 2000.0])
)
ANSWERS = st.one_of(
    st.just([("right", False, 900.0)]), st.just([("invalid", False, 10.0)]), st.lists(ANSWER, min_size=1, max_size=7)
)
"""Those to the steps of one purpose, again and again."""


@st.composite
def some_bounds(draw: st.DrawFn) -> Bounds:
    """Return bounds between which there are at most about 50 levels, so that even the longest search is soon over."""
    if whole := draw(st.booleans()):
        levels, resolution_percent = st.integers(1, 50).map(float), draw(st.floats(1e-6, 200))
    else:
        lowest = draw(st.floats(0.01, 10_000))
        factor, finest_percent = draw(st.sampled_from([(1.005, 1e-6), (20, 10)]))
        levels, resolution_percent = st.floats(lowest, factor * lowest), draw(st.floats(finest_percent, 200))
    least, start, most = sorted(draw(st.tuples(levels, levels, levels)))
    return Bounds(start=start, least=least, most=most, resolution_percent=resolution_percent, whole=whole)


def answered(todo: Todo, answer: Answer, capacity: float) -> Step:
    said, unsure, p95_ms = answer
    right: Outcome = "held" if todo.level <= capacity else "failed"
    limit = LimitResult(limit="predict.p95_ms <= 1000", value=p95_ms, met=p95_ms <= 1000)
    measured = step(todo.level, right if said == "right" else said, near=unsure, purpose=todo.purpose)
    return measured.model_copy(update={"limits": [limit]})


@settings(max_examples=100, deadline=None, phases=[Phase.generate])  # to shrink an endless search takes minutes
@given(some_bounds(), st.floats(-0.1, 1.1), st.fixed_dictionaries(
    {"search": ANSWERS, "recheck": ANSWERS, "confirm": ANSWERS}))  # fmt: skip
def test_every_search_ends_whatever_its_steps_answer(
    bounds: Bounds, place: float, answers: dict[Purpose, list[Answer]]
) -> None:
    capacity = bounds.least + place * (bounds.most - bounds.least)
    following = {purpose: cycle(each) for purpose, each in answers.items()}
    steps: list[Step] = []
    while isinstance(todo := decide(steps, bounds), Todo):
        assert bounds.least <= todo.level <= bounds.most
        steps.append(answered(todo, next(following[todo.purpose]), capacity))
        assert len(steps) < MOST_STEPS, [(one.level, one.purpose, one.outcome) for one in steps[-5:]]
    assert steps


def test_a_failed_level_that_cannot_be_measured_again_ends_the_search() -> None:
    def measure(todo: Todo) -> tuple[Outcome, bool]:
        return ("invalid", False) if todo.purpose == "recheck" else known(50)(todo)

    steps, result = search(USERS, measure)
    assert (result.status, result.capacity, result.smallest_failed) == ("stopped", 50, 52)
    assert [one.purpose for one in steps[-MOST_INVALID:]] == ["recheck"] * MOST_INVALID
    assert result.because == "52 could not be measured, 3 times: 52 invalid"


def test_a_contradicting_level_that_cannot_be_measured_again_ends_the_search() -> None:
    steps = [step(10, "held"), step(20, "failed"), step(40, "held")]
    while isinstance(todo := decide(steps, USERS), Todo):
        steps.append(step(todo.level, "invalid", purpose=todo.purpose))
        assert len(steps) < 10
    assert (todo.status, todo.capacity, todo.smallest_failed) == ("stopped", 10, 20)


def test_a_resolution_finer_than_the_digits_of_a_rate_ends_at_the_last_digit() -> None:
    _, result = search(RATES.model_copy(update={"resolution_percent": 0.01}), known(33.333))
    assert isinstance(result, Result)
    assert (result.status, result.capacity, result.smallest_failed) == ("confirmed", 33.33, 33.34)
