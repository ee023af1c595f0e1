"""From raw rows to figures: windows, percentiles, failures, stages, counters, validity, limits, comparison."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import BadInputError
from loadtest.figures.baseline import read_baseline
from loadtest.figures.figures import (
    CellFigures,
    CounterFigures,
    Figures,
    show_bytes,
    show_count,
    show_ms,
    show_percent,
    show_value,
)
from loadtest.figures.traffic import (
    Window,
    collect_requests,
    compute_stages,
    compute_traffic,
    count_answers,
    count_under_way,
    pool_requests,
    read_stages_ms,
)
from loadtest.plan.plan import Plan
from loadtest.rows.columns import RequestRow, ResourceRow
from loadtest.rows.run_folder import ArrivalCounts, RunFolder
from loadtest.verdict.findings import conclude
from loadtest.verdict.summary import summarize
from tests.loadtest.verdict.test_run_comparison import hang
from tests.made_run import BASELINE, BEGAN_UNIX_S, MadeCell, made_plan, made_target, write_made_run

STARTED = BEGAN_UNIX_S + 15
"""When the load of a made run's first cell began."""


def one_cell_plan(**changes: Any) -> Plan:
    return made_plan(**{"targets": [made_target("two_replicas", 2)], "users": [10], "baseline": None, **changes})


def workload(**changes: Any) -> dict[str, Any]:
    return {**made_plan().workload.model_dump(mode="json"), **changes}


def summarized(folder: Path, plan: Plan | None = None, change: Callable[[MadeCell], object] | None = None) -> Figures:
    return summarize(RunFolder(write_made_run(folder, plan or one_cell_plan(), change)))


def cell_with(folder: Path, change: Callable[[MadeCell], object], **changes: Any) -> CellFigures:
    (cell,) = summarized(folder, one_cell_plan(**changes), change).cells
    return cell


def only_reason(cell: CellFigures) -> str:
    (reason,) = cell.reasons
    assert not cell.valid
    return reason


def request(
    latency_ms: float, sent_s: float = 30, *, error: str = "", timing: str = "", endpoint: str = "lookup"
) -> Any:
    return RequestRow(STARTED + sent_s, endpoint, 200, latency_ms, 10, error, timing)


# Traffic


def test_percentiles_are_order_statistics_of_the_right_answers() -> None:
    rows = [request(latency_ms) for latency_ms in range(1, 401)] + [request(1e6, error="status 500")] * 100
    traffic = compute_traffic(collect_requests(rows), 200)
    assert (traffic.requests, traffic.failures, traffic.failures_percent, traffic.rps) == (500, 100, 20, 2.5)
    assert traffic.failures_interval_percent == pytest.approx((16.73, 23.73), abs=0.02)
    assert (traffic.median_ms, traffic.p95_ms, traffic.p99_ms, traffic.max_ms) == (200, 380, 396, 400)
    assert traffic.avg_ms == 200.5


def test_a_percentile_is_a_latency_that_occurred() -> None:
    latencies_ms = [10] * 20 + [20] * 12 + [1000] * 28 + [4000] * 4
    traffic = compute_traffic(collect_requests([request(latency_ms) for latency_ms in latencies_ms]), 1)
    assert (traffic.median_ms, traffic.p95_ms) == (20, 4000)


@pytest.mark.parametrize(
    ("samples", "known"), [(4, []), (5, ["median_ms"]), (58, ["median_ms"]), (59, ["median_ms", "p95_ms"]),
                           (298, ["median_ms", "p95_ms"]), (299, ["median_ms", "p95_ms", "p99_ms"])]
)  # fmt: skip
def test_a_percentile_without_enough_samples_is_not_printed(samples: int, known: list[str]) -> None:
    rows = [request(latency_ms) for latency_ms in range(samples)] + [request(1, error="status 500")] * 300
    traffic = compute_traffic(collect_requests(rows), 1)
    assert [name for name in ("median_ms", "p95_ms", "p99_ms") if getattr(traffic, name) is not None] == known
    assert traffic.max_ms == samples - 1


def test_no_requests_have_no_latency_and_no_share_of_failures() -> None:
    traffic = compute_traffic(collect_requests([]), 10)
    assert (traffic.requests, traffic.rps, traffic.failures_percent, traffic.median_ms) == (0, 0, None, None)


def test_failures_alone_have_no_latency() -> None:
    traffic = compute_traffic(collect_requests([request(5, error="status 503")]), 10)
    assert (traffic.failures_percent, traffic.median_ms, traffic.avg_ms) == (100, None, None)


def test_a_request_belongs_to_the_window_in_which_it_was_sent() -> None:
    rows = [request(5000, 9.9), request(1, 10), request(5000, 19.9), request(1, 20), request(1, 20.1)]
    sent = collect_requests(rows).sent_in(Window(STARTED + 10, STARTED + 20))
    assert sent.latency_ms.tolist() == [1, 5000, 1]


def test_requests_under_way_are_counted_by_their_time_within_the_window() -> None:
    rows = [request(4000, 8), request(1000, 12), request(9000, 19), request(1000, 30)]
    requests, window = collect_requests(rows), Window(STARTED + 10, STARTED + 20)
    assert count_under_way(requests, window) == pytest.approx((2 + 1 + 1) / 10)
    assert count_answers(requests, window) == 2


# Stages


@pytest.mark.parametrize(
    ("header", "stages_ms"),
    [
        ("decode;dur=2.1, inference;dur=40", {"decode": 2.1, "inference": 40}),
        ('cache;desc="a, b; dur=9";dur=1.5', {"cache": 1.5}),
        ("miss, db;dur=53;desc=x, app ; DUR = 47.2", {"db": 53, "app": 47.2}),
        ("a;dur=1, a;dur=2", {"a": 3}),
        ('total;dur="7"', {"total": 7}),
        ("a;dur=, b;dur=x, c;dur=nan, d;dur=-1, e;dur=inf, ;dur=1, f g;dur=1", {}),
        ('"unfinished;dur=1', {"unfinished": 1}),
        ("", {}),
        (";;,,=;", {}),
    ],
)
def test_server_timing_is_read_and_garbage_left_out(header: str, stages_ms: dict[str, float]) -> None:
    assert read_stages_ms(header) == stages_ms


def test_stages_are_means_over_the_right_answers_with_nothing_as_zero() -> None:
    rows = [
        request(10, timing="queue;dur=2, inference;dur=6"),
        request(20, timing="queue;dur=4"),
        request(30),
        request(99, error="status 503", timing="refusal;dur=50"),
    ]
    stages = compute_stages(collect_requests(rows))
    assert [(stage.name, stage.avg_ms) for stage in stages] == [("queue", 2), ("inference", 2)]


def test_stages_and_what_they_leave_unexplained_add_up_to_the_mean(tmp_path: Path) -> None:
    (cell,) = summarized(tmp_path).cells
    predict, lookup = cell.endpoints
    assert [stage.name for stage in predict.stages] == ["upload", "decode", "queue", "inference", "answer"]
    assert predict.unexplained_ms is not None
    explained_ms = sum(stage.avg_ms for stage in predict.stages) + predict.unexplained_ms
    assert explained_ms == pytest.approx(predict.steady.avg_ms, abs=1e-3)
    assert (lookup.stages, lookup.unexplained_ms) == ([], None)


# Windows and points


def test_the_steady_window_begins_after_the_last_user_and_the_whole_run_with_the_first(tmp_path: Path) -> None:
    def put_known_requests(made: MadeCell) -> None:
        made.requests = [request(100, 5.9, error="status 503"), *[request(7, 6)] * 3, *[request(9, 60)] * 2]

    cell = cell_with(tmp_path, put_known_requests)
    assert cell.steady_window_s == 60 - 1 - 5
    assert cell.whole_run_s == 60
    assert cell.steady is not None
    assert cell.whole_run is not None
    assert (cell.steady.requests, cell.steady.failures, cell.steady.median_ms) == (5, 0, 7)
    assert (cell.whole_run.requests, cell.whole_run.failures, cell.whole_run.rps) == (6, 1, 0.1)


def test_valid_repetitions_are_pooled_and_invalid_ones_left_out(tmp_path: Path) -> None:
    def spoil_second(made: MadeCell) -> None:
        if made.record.cell.repetition == 2:
            made.record.replicas_found = 1

    figures = summarized(tmp_path, one_cell_plan(repetitions=3), spoil_second)
    (point,) = figures.points
    first, second, third = (cell.steady for cell in figures.cells)
    assert first
    assert second
    assert third
    assert point.steady
    assert point.repetitions == 2
    assert point.steady.requests == first.requests + third.requests != second.requests
    assert point.steady_window_s == 2 * 54
    assert point.steady.rps == pytest.approx(point.steady.requests / 108, abs=1e-3)
    assert point.think_time_limit_rps == pytest.approx(10 / 3, abs=1e-3)


def test_pooled_percentiles_are_those_of_all_requests_together() -> None:
    pooled = pool_requests([collect_requests([request(1)] * 9), collect_requests([request(100)] * 11)])
    assert compute_traffic(pooled, 1).median_ms == 100


def test_roles_are_averaged_over_the_steady_window(tmp_path: Path) -> None:
    def put_known_samples(made: MadeCell) -> None:
        made.resources = [
            ResourceRow(STARTED + 3, "users", 9, 900, 900, 90),  # in the ramp
            ResourceRow(STARTED + 10, "users", 1, 20, 100, 7),
            ResourceRow(STARTED + 11, "users", 2, 60, 300, 5),
            ResourceRow(STARTED + 10, "database", 0, 0, 0, 0),  # never ran
        ]

    (role,) = cell_with(tmp_path, put_known_samples).roles
    assert (role.role, role.processes, role.cpu_percent, role.cpu_max_percent) == ("users", 2, 40, 60)
    assert (role.rss_max_bytes, role.threads) == (300, 7)


def test_a_role_uses_nothing_in_a_sample_in_which_it_has_no_process(tmp_path: Path) -> None:
    def end_half_way(made: MadeCell) -> None:
        users = ResourceRow(STARTED, "users", 1, 80, 100, 1, busiest_thread_percent=60, crowd_threads=4, crowd_cores=2)
        made.resources = [ResourceRow(STARTED + second, "kit", 1, 10, 100, 1) for second in range(10, 18)]
        made.resources += [replace(users, unix_s=STARTED + second) for second in range(10, 14)]

    kit, users = sorted(cell_with(tmp_path, end_half_way).roles, key=lambda role: role.role)
    assert (kit.cpu_percent, users.cpu_percent, users.cpu_max_percent, users.processes) == (10, 40, 80, 1)
    assert (users.busiest_thread_percent, users.crowd_threads, users.crowd_cores) == (30, 2, 2)
    assert users.busy_threads is None, "not told in any sample"


def test_requests_that_the_plan_does_not_name_count_in_the_totals(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, lambda made: made.requests.append(request(1, endpoint="GET /login")))
    assert cell.steady
    assert cell.steady.requests == sum(part.steady.requests for part in cell.endpoints) + 1
    assert cell.notes == ["requests that the plan does not name count in the totals only: GET /login"]


# Counters


def counters_with(folder: Path, before: str | None, after: str | None, by: list[str]) -> CellFigures:
    plan = one_cell_plan(metrics={"counters": [{"name": "hits_total", "by": by}]})
    write_made_run(folder, plan)
    for name, text in (("metrics_before.prom", before), ("metrics_after.prom", after)):
        path = RunFolder(folder).cell_path(RunFolder(folder).read_record().order[0]) / name
        path.unlink()
        if text is not None:
            path.write_text(text, encoding="utf-8")
    (cell,) = summarize(RunFolder(folder)).cells
    assert cell.valid
    return cell


def increases(cell: CellFigures) -> list[tuple[dict[str, str], float]]:
    return [(counter.labels, counter.increase) for counter in cell.counters]


def test_a_counter_is_summed_over_the_labels_that_were_not_asked_for(tmp_path: Path) -> None:
    before = 'hits_total{route="/a",pid="1"} 5\nhits_total{route="/a",pid="2"} 7\nother_total 9\n'
    after = (
        'hits_total{route="/a",pid="1"} 15\nhits_total{route="/a",pid="2"} 8\n'
        'hits_total{route="/b",pid="1"} 3\nother_total 99\n'
    )
    cell = counters_with(tmp_path, before, after, by=["route"])
    assert increases(cell) == [({"route": "/a"}, 11), ({"route": "/b"}, 3)]


def test_a_counter_that_began_anew_counts_from_zero(tmp_path: Path) -> None:
    cell = counters_with(tmp_path, "hits_total 500\n", "hits_total 20\n", by=[])
    assert cell.counters == [CounterFigures(name="hits_total", labels={}, increase=20)]


def test_a_series_that_two_processes_export_alike_is_their_sum(tmp_path: Path) -> None:
    text = "# TYPE hits_total counter\nhits_total {}\n# TYPE hits_total counter\nhits_total {}\n"
    assert increases(counters_with(tmp_path, text.format(1, 2), text.format(11, 22), by=[])) == [({}, 30)]


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        (None, "hits_total 4\n", "metrics_before.prom is missing"),
        ("hits_total 4\n", None, "metrics_after.prom is missing"),
        ("", "hits_total{ 4\n", "metrics_after.prom is not in Prometheus' text format"),
        ("", "other_total 4\n", "the target exported no hits_total, which it may never have had to count"),
    ],
)
def test_metrics_that_are_missing_are_told(tmp_path: Path, before: str | None, after: str | None, note: str) -> None:
    cell = counters_with(tmp_path, before, after, by=[])
    assert any(note in told for told in cell.notes)
    assert increases(cell) == ([({}, 4)] if before is None else [])


# Validity: each reason by the fault that makes it


def test_an_honest_cell_is_valid(tmp_path: Path) -> None:
    figures = summarized(tmp_path, made_plan())
    assert [cell.reasons for cell in figures.cells] == [[]] * 8
    assert figures.all_valid


@pytest.mark.parametrize("seed", range(12))
def test_short_honest_runs_are_not_taken_for_a_generator_that_holds_back(tmp_path: Path, seed: int) -> None:
    figures = summarized(tmp_path, one_cell_plan(users=[8, 20], duration_s=25, seed=seed))
    assert [reason for cell in figures.cells for reason in cell.reasons if "samples" not in reason] == []


def test_a_failed_cell_has_its_reason(tmp_path: Path) -> None:
    def fail(made: MadeCell) -> None:
        made.record.status, made.record.reason = "failed", "the target ended with exit code 3"
        made.record.moments = None

    cell = cell_with(tmp_path, fail)
    assert only_reason(cell) == "the target ended with exit code 3"
    assert (cell.steady, cell.whole_run, cell.endpoints, cell.limits) == (None, None, [], [])


def test_users_that_did_not_come(tmp_path: Path) -> None:
    def hold_users(made: MadeCell) -> None:
        assert made.record.moments
        made.record.moments.spawned_unix_s = None
        made.generator = [replace(row, users=min(row.users, 6)) for row in made.generator]

    cell = cell_with(tmp_path, hold_users)
    assert only_reason(cell) == "not all 10 users came: 6 at most"
    assert cell.steady is None
    assert cell.whole_run is not None


def test_a_load_that_ended_early(tmp_path: Path) -> None:
    def end_early(made: MadeCell) -> None:
        assert made.record.moments
        made.record.moments.stopping_unix_s -= 1.5
        made.requests = [row for row in made.requests if row.start_unix_s < STARTED + 58.5]

    assert only_reason(cell_with(tmp_path, end_early)) == "the load ended early: after 58.5 s of 60 s"


def test_a_load_that_ended_before_its_steady_window(tmp_path: Path) -> None:
    def end_at_once(made: MadeCell) -> None:
        assert made.record.moments
        made.record.moments.stopping_unix_s = STARTED + 3

    cell = cell_with(tmp_path, end_at_once)
    assert cell.reasons[0] == "the load ended before all users had come and settled, so there is no steady window"
    assert "ended early" in cell.reasons[1]
    assert cell.steady is None


def test_answers_that_were_due_until_the_end(tmp_path: Path) -> None:
    def wait_in_vain(made: MadeCell) -> None:
        assert made.record.moments
        made.record.moments.stopped_unix_s = made.record.moments.stopping_unix_s + 30.2

    reason = only_reason(cell_with(tmp_path, wait_in_vain, drain_s=30))
    assert reason.startswith(
        "answers were still due 30.2 s after the sending ended; those requests have no row: make drain_s "
    )


@pytest.mark.parametrize(("waited_s", "codes"), [(40.0, []), (65.1, ["answers_missing"]), (None, ["answers_missing"])])
def test_an_arrival_that_was_sent_after_the_load_has_the_whole_drain_for_its_answer(
    tmp_path: Path, waited_s: float | None, codes: list[str]
) -> None:
    """It is answered 70 s after the load; records of earlier versions do not tell when it was sent."""

    def answer_late(made: MadeCell) -> None:
        assert made.record.moments
        made.record.moments.stopped_unix_s = made.record.moments.stopping_unix_s + 70
        made.record.moments.waited_s = waited_s

    assert [reason.code for reason in cell_with(tmp_path, answer_late, drain_s=65).reasons] == codes


def test_a_generator_short_of_cpu(tmp_path: Path) -> None:
    def load_generator(made: MadeCell) -> None:
        made.resources = [
            replace(row, cpu_percent=93.0) if row.role == "load_generator" else row for row in made.resources
        ]

    reason = only_reason(cell_with(tmp_path, load_generator))
    assert reason == "the load generator was short of CPU: it used 93 % of one core, 90 % are allowed"


def be_late_by_80_ms(made: MadeCell) -> None:
    made.generator = [replace(row, lag_ms=80.0) for row in made.generator]


def test_a_generator_whose_event_loop_is_late(tmp_path: Path) -> None:
    told = r"was late: its event loop for [78](\.\d)? % of the time \(by 80\.0 ms at most\), 4 % are allowed "
    assert re.search(rf"{told}\(most_generator_late_percent\)$", only_reason(cell_with(tmp_path, be_late_by_80_ms)))


def test_the_plan_says_how_late_the_generator_may_be(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, be_late_by_80_ms, most_generator_late_percent=10)
    assert cell.valid
    assert any("p99 and the largest latency may be its own" in note for note in cell.notes)


def test_a_generator_that_is_a_little_late_is_noted(tmp_path: Path) -> None:
    def be_a_little_late(made: MadeCell) -> None:
        made.generator = [replace(row, lag_ms=25.0) for row in made.generator]

    cell = cell_with(tmp_path, be_a_little_late)
    assert cell.valid
    assert any("event loop was late for 2" in note and "p99" in note for note in cell.notes)


def be_late_once(lag_ms: float) -> Callable[[MadeCell], None]:
    """Let the event loop stand still once; its next row comes when it goes on."""

    def stand_still(made: MadeCell) -> None:
        late = made.generator[30]
        blocked = [row for row in made.generator if late.unix_s - lag_ms / 1000 < row.unix_s < late.unix_s]
        made.generator = [row for row in made.generator if row not in blocked and row is not late]
        made.generator.append(replace(late, lag_ms=lag_ms))

    return stand_still


@pytest.mark.parametrize("lag_ms", [250, 1000])
def test_a_single_late_second_is_forgiven(tmp_path: Path, lag_ms: float) -> None:
    assert cell_with(tmp_path, be_late_once(lag_ms)).valid


def test_a_stall_counts_that_begins_in_the_steady_window_and_ends_after_it(tmp_path: Path) -> None:
    def stand_still_at_the_end(made: MadeCell) -> None:
        assert made.record.moments
        end_unix_s = made.record.moments.stopping_unix_s
        before = [row for row in made.generator if row.unix_s < end_unix_s - 0.5]
        made.generator = [*before, replace(before[-1], unix_s=end_unix_s + 3, lag_ms=4000.0)]

    [late] = [one for one in cell_with(tmp_path, stand_still_at_the_end).reasons if one.code == "generator_late"]
    assert "(by 4,000 ms at most), 4 % are allowed" in late


def test_of_a_long_stall_one_second_is_forgiven(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, be_late_once(8000))
    assert "event loop for 13.1 % of the time (by 8,000 ms at most), 4 % are allowed" in only_reason(cell)
    assert cell.generator_late_percent == pytest.approx(100 * (8 - 1) / 55, abs=1)


def test_a_generator_that_holds_back(tmp_path: Path) -> None:
    def drop_a_third(made: MadeCell) -> None:
        del made.requests[::3]

    reason = only_reason(cell_with(tmp_path, drop_a_third))
    assert reason.startswith("the load generator held back: ")
    assert "users of 10" in reason


def test_a_generator_that_sends_more_than_the_think_time_lets_it(tmp_path: Path) -> None:
    def double(made: MadeCell) -> None:
        made.requests += [replace(row, start_unix_s=row.start_unix_s + 0.1) for row in made.requests]

    assert "sent more than the think time lets them" in only_reason(cell_with(tmp_path, double))


def test_a_target_whose_latencies_grow_is_no_generator_that_holds_back(tmp_path: Path) -> None:
    def overload(made: MadeCell) -> None:
        """Ten users whose answers take longer and longer; each thinks for 3 s."""
        made.requests = []
        for user in range(10):
            now_s = user / 10
            while now_s < 60:
                latency_s = now_s / 4
                made.requests.append(request(1000 * latency_s, now_s, endpoint=("lookup", "predict")[user % 2]))
                now_s += latency_s + 3

    assert cell_with(tmp_path, overload).valid


def paced(latency_ms: float, pace_s: float) -> Callable[[MadeCell], None]:
    """Ten users that send every `pace_s` seconds, or as soon as they have their answer."""

    def fill(made: MadeCell) -> None:
        cycle_s = max(pace_s, latency_ms / 1000)
        made.requests = [
            request(latency_ms, user / 10 + number * cycle_s, endpoint=("lookup", "predict")[number % 2])
            for user in range(10)
            for number in range(int((60 - user / 10) / cycle_s))
        ]

    return fill


AT_A_RATE = {"wait_s": None, "rate_per_user_rps": 2}


def test_users_that_keep_their_rate_are_valid(tmp_path: Path) -> None:
    assert cell_with(tmp_path, paced(latency_ms=30, pace_s=0.5), workload=workload(**AT_A_RATE)).valid


def test_a_rate_that_the_target_could_not_keep(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, paced(latency_ms=1000, pace_s=0.5), workload=workload(**AT_A_RATE))
    assert only_reason(cell) == (
        "the rate asked for was not reached: 9.8 of 20.0 requests/s; the target limited it: with a mean latency of "
        "1,000 ms, users who are to send every 500 ms cannot send more than 10.0 requests/s"
    )
    assert [reason.code for reason in cell.reasons] == ["target_behind"]


def test_a_rate_that_the_generator_did_not_keep(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, paced(latency_ms=30, pace_s=0.7), workload=workload(**AT_A_RATE))
    assert "the target answered in time, so the load generator held back" in only_reason(cell)
    assert [reason.code for reason in cell.reasons] == ["rate_not_reached"]


def test_a_rate_is_not_called_the_generator_s_fault_where_no_answer_has_a_latency(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, hang(), workload=workload(**AT_A_RATE))
    (reason,) = [reason for reason in cell.reasons if reason.code == "rate_not_reached"]
    assert "no request sent in the steady window has a latency, so what limited it is not known" in reason
    assert "answered in time" not in reason
    assert cell.loss == "none_right"


def test_a_rate_below_what_slow_answers_allow_is_no_fault_of_the_target(tmp_path: Path) -> None:
    """A generator that gets too little CPU measures long latencies, and is slow between them as well."""

    def fill(made: MadeCell) -> None:
        paced(latency_ms=1600, pace_s=0.5)(made)
        made.requests = [replace(row, latency_ms=1000) for row in made.requests]

    cell = cell_with(tmp_path, fill, workload=workload(**AT_A_RATE))
    told = "the load generator limited it: with the latencies that it measured, 10.0 requests/s were possible"
    assert told in only_reason(cell)
    assert [reason.code for reason in cell.reasons] == ["rate_not_reached"]


def be_late(made: MadeCell) -> None:
    made.generator = [replace(row, lag_ms=400.0) for row in made.generator]


def use_a_whole_core(made: MadeCell) -> None:
    made.resources = [replace(row, cpu_percent=97.0) if row.role == "load_generator" else row for row in made.resources]


@pytest.mark.parametrize("be_busy", [be_late, use_a_whole_core])
@pytest.mark.parametrize("latency_ms", [30, 1000])
def test_a_rate_that_a_busy_generator_did_not_keep_is_no_fault_of_the_target(
    tmp_path: Path, latency_ms: float, be_busy: Callable[[MadeCell], None]
) -> None:
    def fill(made: MadeCell) -> None:
        paced(latency_ms, pace_s=0.7)(made)
        be_busy(made)

    cell = cell_with(tmp_path, fill, workload=workload(**AT_A_RATE))
    (reason,) = [reason for reason in cell.reasons if reason.startswith("the rate asked for was not reached")]
    assert "the load generator limited it" in reason
    assert "the target" not in reason
    assert len(cell.reasons) == 2


OPEN_LOOP = {"wait_s": None, "rate_rps": 20, "arrivals": "constant"}


def arriving(late_s: float = 0.0, every_s: float = 0.05, **counts: int) -> Callable[[MadeCell], None]:
    """Return a change to a load of an open loop in which one request in ten is sent `late_s` after its time."""

    def fill(made: MadeCell) -> None:
        assert made.record.moments
        rows = []
        for number in range(round(60 / every_s)):
            scheduled_s = round(number * every_s, 6)
            sent_s = scheduled_s + (late_s if number % 10 == 5 else 0)
            row = request(30, sent_s, endpoint="predict" if number % 3 else "lookup")
            rows.append(replace(row, scheduled_unix_s=STARTED + scheduled_s))
        made.requests = rows
        made.record.moments.arrivals = ArrivalCounts(**{"due": len(rows), "queued": 0, "unsent": 0, **counts})

    return fill


def test_in_an_open_loop_latencies_are_given_from_the_scheduled_time_too(tmp_path: Path) -> None:
    limits = ["p95_ms <= 500", "median_ms <= 500"]
    cell = cell_with(tmp_path, arriving(2, queued=120), workload=workload(**OPEN_LOOP), limits=limits)
    assert cell.valid, cell.reasons
    assert cell.steady
    assert cell.scheduled
    assert (cell.steady.median_ms, cell.steady.p95_ms) == (30, 30)
    assert cell.scheduled.median_ms == pytest.approx(30)
    assert cell.scheduled.p95_ms == pytest.approx(2030)
    assert cell.scheduled.rps == pytest.approx(20, rel=0.01)
    for endpoint in cell.endpoints:
        assert endpoint.scheduled
        assert endpoint.scheduled.max_ms == pytest.approx(2030)
    assert [limit.met for limit in cell.limits] == [False, True]
    assert (cell.arrivals_due, cell.arrivals_queued, cell.arrivals_unsent) == (1200, 120, 0)
    assert "of 1200 arrivals, 120 were sent late and 0 never" in cell.notes[-1]


def test_a_closed_loop_has_no_scheduled_times(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, lambda _: None)
    assert (cell.scheduled, cell.arrivals_due) == (None, None)
    assert all(endpoint.scheduled is None for endpoint in cell.endpoints)


@pytest.mark.parametrize("unsent", [1, 13])
def test_arrivals_that_were_never_sent_make_a_cell_invalid(tmp_path: Path, unsent: int) -> None:
    cell = cell_with(tmp_path, arriving(unsent=unsent, queued=40), workload=workload(**OPEN_LOOP))
    assert only_reason(cell) == (
        f"the target did not keep up: {unsent} of 1200 arrivals were never sent, because all 10 users were busy with "
        "earlier requests until the end"
    )


def test_an_open_loop_slower_than_asked_is_blamed_on_whoever_was_slow(tmp_path: Path) -> None:
    asked = workload(**OPEN_LOOP)
    target = cell_with(tmp_path / "target", arriving(every_s=0.07, queued=200), workload=asked)
    assert "the target did not keep up: 200 of 857 arrivals were sent late" in only_reason(target)
    generator = cell_with(tmp_path / "generator", arriving(every_s=0.07), workload=asked)
    assert only_reason(generator) == "the load generator held back: 14.3 of 20.0 requests/s"


def test_an_arrival_that_was_sent_before_a_generator_knew_of_the_end_is_no_fault(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, arriving(unsent=-1), workload=workload(**OPEN_LOOP))
    assert cell.reasons == []


def test_rows_of_another_version_are_told_by_their_columns(tmp_path: Path) -> None:
    folder = RunFolder(write_made_run(tmp_path, one_cell_plan()))
    path = folder.cell_path(folder.read_record().order[0]) / "requests.csv"
    path.write_text(path.read_text().replace(",scheduled_unix_s", "", 1))
    (cell,) = summarize(folder).cells
    assert "requests.csv is not what the kit writes: its columns are start_unix_s" in only_reason(cell)


def use_cpu(role: str, cpu_percent: float) -> Callable[[MadeCell], None]:
    """Let a role use so much more of a core."""

    def use(made: MadeCell) -> None:
        made.resources = [
            replace(row, cpu_percent=row.cpu_percent + cpu_percent) if row.role == role else row
            for row in made.resources
        ]

    return use


def test_other_work_on_the_machine_makes_a_cell_invalid(tmp_path: Path) -> None:
    reason = only_reason(cell_with(tmp_path, use_cpu("machine", 80)))
    assert re.fullmatch(
        r"other work on this machine used (79|80|81) % of one core, 50 % are allowed \(most_other_cpu_percent\); where "
        r"that is the target's own, name it by a role with `anywhere: true`",
        reason,
    )


def test_some_other_work_is_noted_and_the_plan_says_how_much_is_allowed(tmp_path: Path) -> None:
    cell = cell_with(tmp_path / "noted", use_cpu("machine", 35))
    assert cell.valid
    assert any(re.fullmatch("other work on this machine used 3[456] % of one core", note) for note in cell.notes)
    assert not cell_with(tmp_path / "strict", use_cpu("machine", 35), most_other_cpu_percent=30).valid
    assert cell_with(tmp_path / "generous", use_cpu("machine", 80), most_other_cpu_percent=90).valid


def test_work_of_known_roles_is_no_other_work(tmp_path: Path) -> None:
    def work(made: MadeCell) -> None:
        use_cpu("classifier", 90)(made)
        use_cpu("machine", 90)(made)

    assert cell_with(tmp_path, work).notes == []


def test_of_a_target_that_the_kit_did_not_start_nobody_knows_what_else_runs(tmp_path: Path) -> None:
    target = {**made_target("two_replicas", None), "start": None}
    assert cell_with(tmp_path, use_cpu("machine", 150), targets=[target]).valid


def test_cpu_time_that_the_host_took_away_is_noted_and_limited(tmp_path: Path) -> None:
    noted = cell_with(tmp_path / "noted", use_cpu("stolen", 40))
    assert noted.valid
    assert any(note.startswith("the host of this virtual machine gave 4") for note in noted.notes)
    reason = only_reason(cell_with(tmp_path / "invalid", use_cpu("stolen", 120)))
    assert "% of one core to others, 100 % are allowed (most_stolen_cpu_percent)" in reason


def test_another_number_of_replicas_than_asked_for(tmp_path: Path) -> None:
    def lose_one(made: MadeCell) -> None:
        made.record.replicas_found = 1

    reason = only_reason(cell_with(tmp_path, lose_one))
    assert reason == "2 replica(s) were asked for; before the load 1 ran"


def test_a_replica_that_was_away_for_some_seconds(tmp_path: Path) -> None:
    def lose_one(made: MadeCell) -> None:
        made.resources = [
            replace(row, processes=1) if row.role == "classifier" and STARTED + 30 <= row.unix_s < STARTED + 34 else row
            for row in made.resources
        ]

    reason = only_reason(cell_with(tmp_path, lose_one))
    assert reason == ("in 4 of 55 seconds of the steady window 1 instead of 2 process(es) of the role classifier ran")


@pytest.mark.parametrize(("gone_s", "told"), [((30, 34), "4 of 55"), ((0, 100), "55 of 55")])
def test_the_only_replica_that_was_away_has_no_row_and_is_missed(
    tmp_path: Path, gone_s: tuple[int, int], told: str
) -> None:
    def lose_it(made: MadeCell) -> None:
        begin_s, end_s = (STARTED + second for second in gone_s)
        made.resources = [
            row for row in made.resources if row.role != "classifier" or not begin_s <= row.unix_s < end_s
        ]

    cell = cell_with(tmp_path, lose_it, targets=[made_target("one_replica", 1)])
    assert only_reason(cell) == (
        f"in {told} seconds of the steady window 0 instead of 1 process(es) of the role classifier ran"
    )
    assert cell.reasons[0].code == "replicas"


def test_too_few_requests_of_an_endpoint(tmp_path: Path) -> None:
    def lose_most(made: MadeCell) -> None:
        kept = [row for row in made.requests if row.start_unix_s > STARTED + 10]
        predicts = [row for row in kept if row.endpoint == "predict"]
        others = [replace(row, endpoint="lookup") for row in predicts[9:]]
        made.requests = [row for row in kept if row.endpoint == "lookup"] + predicts[:9] + others

    reason = only_reason(cell_with(tmp_path, lose_most))
    assert reason == "too few samples: 9 request(s) of predict in the steady window, at least 10 are needed"


def test_a_request_that_locust_never_counted_is_told_with_the_names_that_it_counted(tmp_path: Path) -> None:
    endpoints = {"home": {"request": "GET /", "weight": 1}, "lookup": {"request": "GET /user/", "weight": 2}}
    plan = one_cell_plan(workload=workload(endpoints=endpoints), limits=[])

    def name_them_otherwise(made: MadeCell) -> None:
        made.requests = [
            row if row.endpoint == "lookup" else replace(row, endpoint=f"GET /home?{number % 6}")
            for number, row in enumerate(made.requests)
        ]

    (cell,) = summarized(tmp_path, plan, name_them_otherwise).cells
    reason = only_reason(cell)
    assert reason.startswith("no request of home: Locust counted none named `GET /`, but `GET /home?")
    assert reason.endswith(" and 2 more; set workload.endpoints.home.request to the name that Locust counts")


def test_a_clock_that_jumped(tmp_path: Path) -> None:
    def set_clock(made: MadeCell) -> None:
        made.generator[40:] = [replace(row, unix_s=row.unix_s - 2) for row in made.generator[40:]]

    assert "the machine's clock jumped by -2.00 s" in only_reason(cell_with(tmp_path, set_clock))


# Files that are missing or broken


@pytest.mark.parametrize("name", ["requests.csv", "generator.csv", "resources.csv"])
@pytest.mark.parametrize("how", ["missing", "garbage", "only a header"])
def test_a_cell_without_rows_is_invalid_and_names_the_file(tmp_path: Path, name: str, how: str) -> None:
    folder = RunFolder(write_made_run(tmp_path, one_cell_plan()))
    path = folder.cell_path(folder.read_record().order[0]) / name
    header = path.read_text(encoding="utf-8").splitlines()[0]
    if how == "missing":
        path.unlink()
    else:
        path.write_text(header + "\n" + (",".join("x" * 9)[: 2 * header.count(",") + 1] + "\n") * (how == "garbage"))
    (cell,) = summarize(folder).cells
    assert not cell.valid
    named = "too few samples" if (name, how) == ("requests.csv", "only a header") else name
    assert any(named in reason for reason in cell.reasons)


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(write_made_run(tmp_path, one_cell_plan()))
    (before,) = summarize(folder).cells
    path = folder.cell_path(folder.read_record().order[0]) / "requests.csv"
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{STARTED + 30},predict,20")
    assert summarize(folder).cells == [before]


def test_a_cell_that_was_not_measured_yet_says_so(tmp_path: Path) -> None:
    folder = RunFolder(write_made_run(tmp_path))
    (folder.cell_path(folder.read_record().order[3]) / "cell.json").unlink()
    figures = summarize(folder)
    assert only_reason(figures.cells[3]) == "not measured yet"
    assert [cell.valid for cell in figures.cells].count(False) == 1
    assert not figures.all_valid


def test_a_broken_cell_record_makes_its_cell_invalid(tmp_path: Path) -> None:
    folder = RunFolder(write_made_run(tmp_path, one_cell_plan()))
    (folder.cell_path(folder.read_record().order[0]) / "cell.json").write_text('{"cell": ')
    (cell,) = summarize(folder).cells
    assert only_reason(cell) == "cell.json is not what the kit writes"


def test_a_folder_that_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="is this the folder of a run"):
        summarize(RunFolder(tmp_path))


def test_an_empty_cell_is_invalid_and_has_no_latency(tmp_path: Path) -> None:
    cell = cell_with(tmp_path, lambda made: made.requests.clear())
    assert cell.steady
    assert (cell.steady.requests, cell.steady.median_ms) == (0, None)
    assert [result.met for result in cell.limits] == [False, False, False]
    assert not cell.valid


def test_paths_and_addresses_of_the_measuring_machine_are_left_out(tmp_path: Path) -> None:
    def tell(made: MadeCell) -> None:
        made.record.notes.append("metrics: http://10.1.2.3:8080/metrics: refused; see /tmp/ray/session/log.txt")
        made.record.notes.append("about: /model/: http://127.0.0.1:8000/model/ said no")

    target = {**made_target("two_replicas", 2), "start": "/home/me/venv/bin/python -m serve_app configs/two.yaml"}
    figures = summarized(tmp_path, one_cell_plan(targets=[target]), tell)
    assert figures.cells[0].notes == [
        "metrics: http://…:8080/metrics: refused; see …/log.txt",
        "about: /model/: http://127.0.0.1:8000/model/ said no",
    ]
    assert figures.test["start"] == {"two_replicas": "…/python -m serve_app configs/two.yaml"}


# Limits


def test_limits_are_judged_in_the_steady_window(tmp_path: Path) -> None:
    def put_known_requests(made: MadeCell) -> None:
        made.requests = [request(40, second / 10) for second in range(100, 500)]
        made.requests += [request(1500, 30.05, endpoint="predict"), request(9999, 2, error="status 500")]

    limits = [
        "failures_percent <= 0",
        "predict.p95_ms <= 1000",
        "lookup.median_ms < 40",
        "lookup.max_ms >= 40",
        "rps > 7",
    ]
    cell = cell_with(tmp_path, put_known_requests, limits=limits)
    assert [(str(result.limit), result.value, result.met) for result in cell.limits] == [
        ("failures_percent <= 0", 0, True),
        ("predict.p95_ms <= 1000", None, False),
        ("lookup.median_ms < 40", 40, False),
        ("lookup.max_ms >= 40", 40, True),
        ("rps > 7", pytest.approx(401 / 54, abs=1e-3), True),
    ]


def test_a_percentile_with_too_few_samples_meets_a_limit_that_the_largest_latency_meets(tmp_path: Path) -> None:
    def put_few(made: MadeCell) -> None:
        made.requests = [request(40, 10 + second) for second in range(40)]

    limits = ["lookup.p95_ms <= 40", "lookup.p95_ms < 40", "lookup.p99_ms >= 1", "predict.p95_ms <= 9"]
    cell = cell_with(tmp_path, put_few, limits=limits)
    assert [(result.value, result.met) for result in cell.limits] == [
        (None, True), (None, False), (None, False), (None, False)
    ]  # fmt: skip


def test_all_limits_are_met_only_if_some_cell_could_meet_them(tmp_path: Path) -> None:
    def fail(made: MadeCell) -> None:
        made.record.status = "failed"

    assert summarized(tmp_path / "met").all_limits_met
    assert not summarized(tmp_path / "failed", change=fail).all_limits_met
    assert not summarized(tmp_path / "missed", made_plan()).all_limits_met


def test_objectives_are_judged_by_valid_cells_alone(tmp_path: Path) -> None:
    def be_slow_and_invalid(made: MadeCell) -> None:
        if made.record.cell.repetition == 1:
            made.record.replicas_found = 7
            made.requests = [replace(row, latency_ms=9000) for row in made.requests]

    def be_invalid(made: MadeCell) -> None:
        made.record.replicas_found = 7

    twice = one_cell_plan(repetitions=2)
    assert summarized(tmp_path / "one", twice, change=be_slow_and_invalid).all_limits_met
    assert not summarized(tmp_path / "none", twice, change=be_invalid).all_limits_met
    assert summarized(tmp_path / "none", one_cell_plan(limits=[])).all_limits_met


# Baseline


def test_published_figures_stand_beside_the_target_with_as_many_replicas(tmp_path: Path) -> None:
    figures = summarized(tmp_path, made_plan())
    assert figures.baseline
    beside = {(point.target, point.users): point for point in figures.baseline.points}
    assert len(beside) == 8
    worst = beside["two_replicas", 100]
    assert (worst.requests, worst.failures_percent, worst.rps) == (387, 22, 2.4)
    assert beside["one_replica", 50].endpoints["lookup"] == {"median_ms": 310, "avg_ms": 2057}


def test_published_figures_without_exactly_one_target_are_left_out() -> None:
    plan = made_plan(targets=[made_target("a", 1), made_target("b", 2), made_target("c", 2), made_target("d", None)])
    baseline = read_baseline(BASELINE, plan.targets)
    assert {point.target for point in baseline.points} == {"a"}


def test_a_missing_baseline_is_none_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(write_made_run(tmp_path, one_cell_plan(baseline=made_plan().baseline)))
    folder.baseline_path.write_text("title: x\n")
    with pytest.raises(BadInputError, match="is not a baseline"):
        summarize(folder)
    folder.baseline_path.unlink()
    assert summarize(folder).baseline is None


# Findings


def test_the_target_that_meets_the_objectives_longer_is_recommended(tmp_path: Path) -> None:
    figures = summarized(tmp_path, made_plan())
    assert figures.bottom_line.startswith(
        "Run 2 replicas: it meets every objective up to 100 users, 1 replica up to 50 users; at 100 users it had "
    )
    assert figures.recommendations[0].startswith("Run 2 replicas: ")


def test_a_level_that_only_one_target_has_decides_nothing(tmp_path: Path) -> None:
    def lose_the_top_of_one(made: MadeCell) -> None:
        if (made.record.cell.target, made.record.cell.users) == ("one_replica", 50):
            made.record.status = "failed"

    figures = summarized(tmp_path, made_plan(users=[10, 50]), lose_the_top_of_one)
    assert figures.bottom_line.startswith(
        "Undecided: at 50 users no cell of 1 replica is valid, so that it is not known who meets every objective there"
    )
    safer = (
        "Until then 2 replicas is the safer choice: it meets every objective up to 50 users, 1 replica up to 10 users "
    )
    assert f"{safer}(at 50 users no cell is valid). At 10 users " in figures.bottom_line


def test_a_tie_is_decided_by_memory(tmp_path: Path) -> None:
    def make_alike(made: MadeCell) -> None:
        made.requests = [replace(row, latency_ms=50, error="", status=200, server_timing="") for row in made.requests]

    figures = summarized(tmp_path, made_plan(users=[10, 25], repetitions=3), make_alike)
    assert [level.verdict for level in figures.comparisons] == ["tie", "tie"]
    assert figures.bottom_line.startswith(
        "A tie: no figure tells 1 replica and 2 replicas apart. Run 1 replica for its memory: it needs 2.1 GiB "
        "resident, 2 replicas 3.1 GiB. At 25 users 1 replica had "
    )


def test_one_target_is_told_alone(tmp_path: Path) -> None:
    figures = summarized(tmp_path)
    assert figures.comparisons == []
    assert figures.bottom_line.startswith("2 replicas meets every objective up to 10 users; at 10 users it had 3.3 ")


def test_missed_objectives_are_told_with_their_values(tmp_path: Path) -> None:
    figures = summarized(tmp_path, one_cell_plan(limits=["predict.median_ms <= 1"]))
    assert figures.bottom_line.startswith("2 replicas misses objectives; at 10 users it had ")
    told = [sentence for sentence in figures.takeaways if "objectives" in sentence]
    missed = "predict.median_ms <= 1 on 2 replicas at 10 users (80.0 ms)"
    assert told == [f"1 of 1 checks of objectives in valid cells are missed: {missed}."]
    assert figures.recommendations[0].startswith("Change the service or its machine: 2 replicas at 10 users misses")


def test_without_a_valid_cell_nothing_is_concluded(tmp_path: Path) -> None:
    def fail(made: MadeCell) -> None:
        made.record.status, made.record.reason = "failed", "the target did not start"

    figures = summarized(tmp_path, made_plan(users=[10]), fail)
    assert figures.bottom_line == "No cell is valid, so this run says nothing about its targets."
    assert figures.takeaways == [
        "INVALID, and in no other figure: 2 of 2 cells, 1 replica at 10 users and 2 replicas at 10 users."
    ]
    assert figures.recommendations == [
        (
            "Measure again what is INVALID: 1 replica at 10 users: the target did not start; "
            "2 replicas at 10 users: the target did not start."
        )
    ]


def test_three_targets_without_limits_or_baseline(tmp_path: Path) -> None:
    targets = [made_target("one_replica", 1), made_target("two_replicas", 2), made_target("other", None)]
    figures = summarized(tmp_path, made_plan(targets=targets, users=[10, 100], limits=[], baseline=None))
    assert len(figures.points) == 6
    assert figures.bottom_line.startswith("Undecided: 1 replica, 2 replicas and other cannot be told apart, as 1 ")
    assert not any("objective" in sentence or "published" in sentence for sentence in figures.takeaways)


def test_targets_that_cannot_be_told_apart_are_a_tie(tmp_path: Path) -> None:
    def make_alike(made: MadeCell) -> None:
        made.requests = [replace(row, latency_ms=50, error="", status=200) for row in made.requests]

    targets = [made_target("left", None), made_target("right", None)]
    figures = summarized(
        tmp_path, made_plan(targets=targets, users=[10], roles=[], limits=[], repetitions=3), make_alike
    )
    assert figures.bottom_line == "A tie: nothing measured here speaks for one of left and right."


def test_figures_of_whole_runs_alone_are_concluded_too(tmp_path: Path) -> None:
    figures = summarized(tmp_path, made_plan())
    points = [one.model_copy(update={"steady": None, "roles": []}) for one in figures.points]
    whole = conclude(figures.model_copy(update={"points": points, "comparisons": [], "baseline": None}))
    assert whole.bottom_line.startswith("Run 2 replicas: ")


# How figures are written


def test_figures_are_rounded_for_readers() -> None:
    assert [show_ms(value) for value in (0.004, 4.187, 74.105, 99.96, 595.05, 12345.6, None)] == [
        "0.00", "4.19", "74.1", "100", "595", "12,346", "—",
    ]  # fmt: skip
    assert [show_percent(value) for value in (0.0, 0.0049, 0.42, 2.0, 1.96, 100.0)] == [
        "0", "0.0049", "0.42", "2", "2.0", "100",
    ]  # fmt: skip
    assert (show_bytes(190 * 2**20), show_bytes(8 * 2**30), show_count(1785.0)) == ("190 MiB", "8.0 GiB", "1,785")
    assert (show_value("predict.p95_ms", 10.0), show_value("rps", 3.26)) == ("10.0 ms", "3.3 requests/s")
