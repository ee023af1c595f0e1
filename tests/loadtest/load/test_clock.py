"""A generator's clock is measured by questions and answers, and its rows are put on the clock of whoever measures."""

import random

import pytest

from loadtest.load.clock import (
    ClockOffset,
    Exchange,
    bound_uncertainty_s,
    corrected_request,
    corrected_second,
    estimate_offset,
)
from loadtest.rows.columns import GeneratorRow, RequestRow

AHEAD_S = 3.25
BEGAN_UNIX_S = 1_768_471_200.0


def exchange(there_s: float, back_s: float, ahead_s: float = AHEAD_S, answering_s: float = 0.001) -> Exchange:
    """Return a question that takes `there_s`, and an answer that takes `back_s`, of a clock that is `ahead_s`."""
    received_s = BEGAN_UNIX_S + there_s
    answered_s = received_s + answering_s
    return Exchange(BEGAN_UNIX_S + ahead_s, received_s, answered_s, answered_s + back_s + ahead_s)


@pytest.mark.parametrize("ahead_s", [0, 1e-4, 3.25, -7200])
def test_an_offset_is_exact_when_both_ways_take_equally_long(ahead_s: float) -> None:
    found = estimate_offset([exchange(0.02, 0.02, ahead_s)])
    assert found.ahead_s == pytest.approx(ahead_s, abs=1e-6)
    assert found.uncertainty_s == pytest.approx(0.02, abs=1e-6)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 1])
def test_the_truth_lies_within_the_uncertainty_however_the_round_trip_is_shared_out(share: float) -> None:
    found = estimate_offset([exchange(0.1 * share, 0.1 * (1 - share))])
    assert abs(found.ahead_s - AHEAD_S) <= found.uncertainty_s + 2e-6


def test_the_shortest_round_trip_decides() -> None:
    slow = [exchange(0.5, 0.01), exchange(0.01, 0.9), exchange(0.3, 0.3)]
    found = estimate_offset([*slow, exchange(0.0004, 0.0006), *slow])
    assert found.ahead_s == pytest.approx(AHEAD_S, abs=2e-4)
    assert found.uncertainty_s == pytest.approx(0.0005, abs=1e-6)


def test_time_that_the_other_side_takes_to_answer_does_no_harm() -> None:
    assert estimate_offset([exchange(0.001, 0.001, answering_s=30)]).ahead_s == pytest.approx(AHEAD_S, abs=1e-6)


def test_a_round_trip_that_a_coarse_clock_takes_for_negative_is_none() -> None:
    assert estimate_offset([exchange(-0.001, 0)]).uncertainty_s == 0


@pytest.mark.parametrize("drift_s", [0, 0.04, -0.04])
def test_a_clock_that_drifts_is_within_the_uncertainty_all_the_time(drift_s: float) -> None:
    before = estimate_offset([exchange(0.01, 0.0)])
    after = estimate_offset([exchange(0.0, 0.02, AHEAD_S + drift_s)])
    bound_s = bound_uncertainty_s(before, after)
    for share in (0, 0.3, 1):
        assert abs(AHEAD_S + share * drift_s - before.ahead_s) <= bound_s + 2e-6


def test_a_clock_s_drift_adds_to_its_uncertainty() -> None:
    assert bound_uncertainty_s(ClockOffset(3.0, 0.001), ClockOffset(2.75, 0.002)) == 0.252


def test_requests_of_generators_whose_clocks_differ_are_in_their_true_order_again() -> None:
    """Two generators send in turn, every 10 ms; the clock of the second is ahead by 3.25 s, known to 1 ms."""
    random.seed(1)
    sent_s = [BEGAN_UNIX_S + 0.01 * number for number in range(200)]
    found = estimate_offset([exchange(random.uniform(0.001, 0.05), random.uniform(0.001, 0.05)) for _ in range(16)])
    rows = []
    for number, unix_s in enumerate(sent_s):
        generator = number % 2 + 1
        by_own_clock = RequestRow(unix_s + AHEAD_S * (generator == 2), "fixed", 200, 5.0, 10, "", "")
        rows.append(corrected_request(by_own_clock, generator, found.ahead_s if generator == 2 else 0.0))
    rows.sort(key=lambda row: row.start_unix_s)
    assert [row.generator for row in rows] == [1, 2] * 100
    assert max(abs(row.start_unix_s - true) for row, true in zip(rows, sent_s, strict=True)) <= found.uncertainty_s


def test_all_times_of_a_row_are_corrected_and_nothing_else() -> None:
    row = RequestRow(103.25, "fixed", 503, 5.0, 10, "status 503", "work;dur=1", scheduled_unix_s=102.25)
    assert corrected_request(row, 2, AHEAD_S) == RequestRow(
        100.0, "fixed", 503, 5.0, 10, "status 503", "work;dur=1", scheduled_unix_s=99.0, generator=2
    )
    second = GeneratorRow(103.25, 50.0, 5, 100, 1, 2.5, own_cpu_percent=12.0)
    assert corrected_second(second, 2, AHEAD_S) == GeneratorRow(100.0, 50.0, 5, 100, 1, 2.5, 12.0, generator=2)


def test_a_request_of_a_closed_loop_has_no_scheduled_time_afterwards_either() -> None:
    assert corrected_request(RequestRow(1.0, "a", 200, 1.0, 1, "", ""), 1, AHEAD_S).scheduled_unix_s is None
