"""When a service counts as recovered: known rows in, known seconds out."""

import pytest

from loadtest.faults.process_watch import count_roles
from loadtest.faults.recovery import calm_after_s, processes_back_after_s, usual_limits_ms
from loadtest.rows.columns import ProcessRow, RequestRow
from loadtest.statistics.percentiles import percentile

BEGAN = 1000.0
LIMITS = {"lookup": 70.0}


def row(at_s: float, latency_ms: float = 10, error: str = "") -> RequestRow:
    return RequestRow(BEGAN + at_s, "lookup", 0 if error else 200, latency_ms, 0, error, "")


def steady(**changed: tuple[float, str]) -> list[RequestRow]:
    """Return ten requests a second for 30 s; `changed` are latency and error by second, as in s4=(200, '')."""
    rows = []
    for second in range(30):
        latency_ms, error = changed.get(f"s{second}", (10, ""))
        rows += [row(second + tenth / 10, latency_ms, error) for tenth in range(10)]
    return rows


def calm(rows: list[RequestRow], until_s: float = 30) -> float | None:
    return calm_after_s(rows, LIMITS, BEGAN, BEGAN + until_s)


def test_usual_is_twice_the_p95_of_the_quiet_stretch_and_50_ms() -> None:
    rows = [row(number, latency_ms=number) for number in range(1, 101)]
    assert usual_limits_ms(rows) == {"lookup": 2 * 95 + 50}


def test_a_failure_in_the_quiet_stretch_makes_nothing_usual() -> None:
    assert usual_limits_ms([row(0, 10), row(1, 60_000, "status 500")]) == {"lookup": 70}


def test_percentiles_are_nearest_ranks() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([], 0.5) is None


def test_who_is_not_disturbed_recovers_in_no_time() -> None:
    assert calm(steady()) == 0


def test_recovered_is_after_the_last_slow_second() -> None:
    assert calm(steady(s2=(200, ""), s7=(200, ""))) == pytest.approx(8.1)  # 7.9 + 200 ms


def test_recovered_is_after_the_last_failure() -> None:
    assert calm(steady(s4=(5, "status 503"))) == 5


def test_a_request_that_was_under_way_counts_until_its_end() -> None:
    assert calm([row(-1, 4500, "no answer"), *steady()]) == pytest.approx(3.5)


def test_one_request_that_hung_is_a_disturbance_until_it_ends() -> None:
    assert calm([row(0.05, 1500), *steady()]) == pytest.approx(1.55)


def test_one_slow_request_alone_is_no_disturbance() -> None:
    assert calm([*steady(), row(29.95, 500)]) == 0


def test_one_that_gets_well_for_a_moment_only_has_not_recovered() -> None:
    rows = steady(**{f"s{second}": (200.0, "") for second in (*range(5), *range(9, 15))})
    assert calm(rows) == pytest.approx(15.1)


def test_one_that_stays_slow_never_recovers() -> None:
    assert calm(steady(**{f"s{second}": (200.0, "") for second in range(3, 30)})) is None


def test_silence_is_not_calm() -> None:
    assert calm([row(0.5)]) is None


def changes(*lines: tuple[float, str, int, str]) -> list[ProcessRow]:
    return [ProcessRow(BEGAN + at_s, role, pid, change) for at_s, role, pid, change in lines]


BEFORE = ((-5, "users", 1, "came"), (-5, "users", 2, "came"), (-5, "idle", 9, "came"))


def test_processes_are_back_when_there_are_as_many_again() -> None:
    rows = changes(*BEFORE, (0.5, "users", 1, "gone"), (3, "users", 3, "came"), (4, "idle", 9, "gone"))
    assert processes_back_after_s(rows, ["users"], BEGAN, BEGAN + 30) == 3
    assert count_roles(rows, BEGAN + 1)["users"] == 1


def test_processes_that_were_never_gone_are_back_at_once() -> None:
    assert processes_back_after_s(changes(*BEFORE), ["users"], BEGAN, BEGAN + 30) == 0


def test_one_process_too_many_is_not_back() -> None:
    rows = changes(*BEFORE, (1, "users", 3, "came"))
    assert processes_back_after_s(rows, ["users"], BEGAN, BEGAN + 30) is None
