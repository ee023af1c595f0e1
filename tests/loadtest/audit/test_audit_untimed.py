"""Runs of Locust in which requests have no response time: honest ones, by every version, are not accused."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from loadtest.audit.audit import audit_file
from loadtest.audit.finding import Audit
from loadtest.audit.locust_stats import RunFacts
from loadtest.figures.locust_csv import read_locust_csv
from loadtest.page.report import write_report
from loadtest.verdict.findings import conclude
from tests.audits.closed_loop import SHARES, bucket_ms
from tests.service import ROOT

REAL = ROOT / "tests/audits/locust_none"
HEAD = (
    "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,Max Response "
    "Time,Average Content Size,Requests/s,Failures/s," + ",".join(f"{100 * share:.6g}%" for share in SHARES)
)
Times = Sequence[float | None]


def stats_csv(kinds: dict[str, Times], *, counts_untimed: bool = False, mean_factor: float = 1.0) -> str:
    """Return what Locust writes of requests with these times; `counts_untimed` as before 2.47, in percentiles."""
    whole = [time for times in kinds.values() for time in times]
    lines = [_line(f"GET,{name}", times, counts_untimed=counts_untimed) for name, times in kinds.items()]
    lines.append(_line(",Aggregated", whole, counts_untimed=counts_untimed, mean_factor=mean_factor))
    return "\n".join([HEAD, *lines]) + "\n"


def _line(name: str, times: Times, *, counts_untimed: bool, mean_factor: float = 1.0) -> str:
    timed = [time for time in times if time is not None]
    buckets = sorted(map(bucket_ms, timed))
    least, most = min(timed, default=0), max(timed, default=0)
    mean = mean_factor * sum(timed) / len(timed) if timed else 0
    percentiles = [_percentile(buckets, len(times) if counts_untimed else len(timed), share) for share in SHARES]
    # Of an even number, Locust before 2.47 took the lower one of the two in the middle.
    median = buckets[(len(buckets) - 1) // 2 if counts_untimed else len(buckets) // 2] if buckets else 0
    figures = [len(times), 0, min(max(median, least), most), mean, least, most, 0.0, len(times) / 60, 0.0, *percentiles]
    return ",".join([name, *map(str, figures)])


def _percentile(buckets: Sequence[int], count: int, share: float) -> int:
    """Return a percentile as Locust takes it, from the top; 0 when it is of a request without a time."""
    place = int(count * share) - (count - len(buckets))
    return buckets[min(place, len(buckets) - 1)] if buckets and place >= 0 else 0


def audit(folder: Path, text: str, facts: RunFacts | None = None) -> Audit:
    path = folder / "run_stats.csv"
    path.write_text(text, encoding="utf-8")
    return audit_file(path, facts or RunFacts())


def drawn(rng: random.Random, count: int, mean_ms: float, untimed_share: float) -> Times:
    return [None if rng.random() < untimed_share else rng.expovariate(1 / mean_ms) for _ in range(count)]


RUNS: dict[str, dict[str, Times]] = {
    "one kind without any": {"/a": [12.0] * 75, "/fail": [0.0] * 75, "/push": [None] * 75},
    "nothing timed": {"/a": [None] * 20, "/b": [None] * 7},
    "half of one kind": {"/a": drawn(random.Random(1), 300, 120, 0.5), "/b": drawn(random.Random(2), 500, 9, 0)},
    "a tenth of one kind": {"/a": drawn(random.Random(3), 300, 120, 0.1), "/b": drawn(random.Random(4), 500, 9, 0)},
    "a single request": {"/a": [None, *([120.5] * 299)], "/b": [9.25] * 501},
    "some of both kinds": {"/a": drawn(random.Random(5), 300, 120, 0.3), "/b": drawn(random.Random(6), 500, 9, 0.7)},
    "some of three kinds": {f"/{n}": drawn(random.Random(n), 60, 5 * n, 0.1 * n) for n in (3, 5, 7)},
    "every second one": {name: [time, None] * 50 for name, time in (("/a", 12.0), ("/b", 340.0))},
    "the only kind": {"/a": drawn(random.Random(7), 400, 80, 0.6)},
    "most of one kind": {"/a": drawn(random.Random(8), 400, 80, 0.9), "/b": drawn(random.Random(9), 40, 900, 0)},
    "two requests": {"/a": [10.0, 500.0]},
}  # fmt: skip


@pytest.mark.parametrize("counts_untimed", [False, True], ids=["2.47", "before 2.47"])
@pytest.mark.parametrize("run", RUNS)
def test_an_honest_run_with_requests_without_a_time_is_not_accused(
    tmp_path: Path, run: str, *, counts_untimed: bool
) -> None:
    assert audit(tmp_path, stats_csv(RUNS[run], counts_untimed=counts_untimed)).findings == []


def test_how_many_requests_had_no_time_is_told() -> None:
    found = audit_file(REAL.with_name("locust_none_stats.csv"), RunFacts())
    assert found.findings == []
    told = [note for note in found.notes if "no response time" in note]
    assert len(told) == 1
    assert "a mean of 4 ms, printed is 6 ms; that fits if 75 of the 225 requests had no response time" in told[0]


@pytest.mark.parametrize(("name", "untimed"), [("a single request", 1), ("half of one kind", 148)])
def test_the_number_without_a_time_is_exact_where_it_is_of_one_kind(tmp_path: Path, name: str, untimed: int) -> None:
    assert sum(time is None for time in itertools.chain(*RUNS[name].values())) == untimed
    notes = audit(tmp_path, stats_csv(RUNS[name])).notes
    assert any(f"that fits if {untimed} of the 80" in note for note in notes)


@pytest.mark.parametrize("factor", [0.5, 0.98, 1.001, 1.1, 2.0])
@pytest.mark.parametrize("run", ["half of one kind", "some of both kinds"])
def test_a_mean_that_no_number_of_them_makes_is_still_found(tmp_path: Path, run: str, factor: float) -> None:
    rules = {one.rule for one in audit(tmp_path, stats_csv(RUNS[run], mean_factor=factor)).findings}
    assert "weighted mean" in rules


@pytest.mark.parametrize("factor", [0.9, 1.000001, 1.01])
def test_a_changed_mean_of_a_run_in_which_all_are_timed_is_found(tmp_path: Path, factor: float) -> None:
    rng = random.Random(11)
    kinds = {"/a": drawn(rng, 700, 120, 0), "/b": drawn(rng, 1300, 9, 0)}
    assert audit(tmp_path, stats_csv(kinds)).findings == []
    assert {one.rule for one in audit(tmp_path, stats_csv(kinds, mean_factor=factor)).findings} == {"weighted mean"}


def test_users_who_do_not_wait_for_untimed_answers_are_not_accused_of_too_many_requests(tmp_path: Path) -> None:
    # Ten users: each sends and waits for the answer, pushes without waiting for one, and thinks for 1 s after either.
    rounds = 200
    kinds: dict[str, Times] = {"/a": [2000.0, None] * (rounds // 2)}
    facts = RunFacts(users=4, duration_s=60, wait_s=(1.0, 1.0), spawn_rate_per_s=1000)
    # 4 users × 60 s ÷ 200 requests = 1.2 s a cycle: less than 1 s of waiting and the mean of 2 s.
    assert "think-time limit" not in {one.rule for one in audit(tmp_path, stats_csv(kinds), facts).findings}


def test_more_requests_than_the_waits_alone_allow_are_found_all_the_same(tmp_path: Path) -> None:
    facts = RunFacts(users=4, duration_s=60, wait_s=(3.0, 3.0), spawn_rate_per_s=1000)
    found = audit(tmp_path, stats_csv({"/a": [2000.0, None] * 100}), facts)
    assert {one.rule for one in found.findings} == {"think-time limit"}


def test_the_report_of_such_a_run_has_no_latency_where_there_is_none_and_stands_its_audit(tmp_path: Path) -> None:
    figures = conclude(read_locust_csv(REAL, users=3, wait_s=None, title="run"))
    write_report(figures, tmp_path)
    parts = {part.endpoint: part.whole_run for part in figures.cells[0].endpoints}
    (push,) = [name for name in parts if name.startswith("WSS")]
    assert [parts[name].max_ms for name in ("GET /a", "GET /fail", push)] == [12, None, None]
    assert [parts[name].median_ms for name in ("GET /a", push)] == [12, None]
    assert [traffic.requests for traffic in parts.values()] == [75, 75, 75]
    assert any("without a response time" in note and "WSS push" in note for note in figures.cells[0].notes)
    assert "median of 0" not in figures.bottom_line
    assert audit_file(tmp_path / "report.json", RunFacts()).findings == []


def test_the_same_run_as_a_table_is_not_accused_either(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    rows = "a: {requests: 75, median_ms: 12, avg_ms: 12}, push: {requests: 75, median_ms: 0, avg_ms: 0}"
    for mean_ms, rules in ((12, set()), (30, {"weighted mean"})):
        row = f"{{instances: 1, users: 3, requests: 150, rps: 30, median_ms: 12, avg_ms: {mean_ms}, {rows}}}"
        path.write_text(f"title: t\nendpoints: {{a: {{}}, push: {{}}}}\nresults:\n- {row}\n", encoding="utf-8")
        assert {one.rule for one in audit_file(path, RunFacts()).findings} == rules
