"""Figures from a plain Locust's CSV: files of a real Locust against a server with known answers, and written ones."""

import csv
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from loadtest.errors import BadInputError
from loadtest.figures.figures import CellFigures, Figures, Traffic
from loadtest.figures.locust_csv import read_locust_csv
from loadtest.page.overview import print_overview
from loadtest.page.report import write_report
from loadtest.page.text import render_markdown
from loadtest.statistics.intervals import failures_interval_percent
from loadtest.statistics.percentiles import LEAST_SAMPLES
from loadtest.verdict.findings import conclude
from tests.loadtest.test_locustfile import LOOKUP, PREDICT, RIGHT_ANSWERS, csv_rows, run_locust

USERS = 20
LEAST_REQUESTS = 60
"""Of both kinds together in the steady window: that none of them is a prediction is not to be expected."""
SOME_WRONG = {**RIGHT_ANSWERS, LOOKUP: [*RIGHT_ANSWERS[LOOKUP] * 4, (503, b"")]}
STATS = "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,"
STATS += (
    "Max Response Time,Average Content Size,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%"
)
HISTORY = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%,"
HISTORY += "Total Request Count,Total Failure Count,Total Median Response Time,Total Average Response Time,"
HISTORY += "Total Min Response Time,Total Max Response Time,Total Average Content Size"
DAY_UNIX_S = 1_768_471_200  # 2026-01-15, 10:00 UTC


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The prefixes of what two real Locusts wrote, by whether with lines of single endpoints.

    Every fifth lookup fails.
    """
    folders = {full: tmp_path_factory.mktemp("locust") for full in (True, False)}

    def run(full: bool) -> Path:  # noqa: FBT001
        prefix = folders[full] / "run"
        options = ["--csv-full-history"] * full
        run_locust(SOME_WRONG, folders[full], *options, users=USERS, enough=lambda _: has_a_steady_window(prefix))
        return prefix

    with ThreadPoolExecutor(2) as running:
        return dict(zip(folders, running.map(run, folders), strict=True))


def has_a_steady_window(prefix: Path) -> bool:
    """Return whether for a second with all users something of each kind was counted, and something failed."""
    if not prefix.with_name("run_stats_history.csv").exists():
        return False
    rows = [row for row in csv_rows(prefix.with_name("run_stats_history.csv")) if row["Name"] == "Aggregated"]
    steady = [row for row in rows if row["User Count"] == str(USERS) and row["Total Average Content Size"]]
    if not steady or int(steady[-1]["Timestamp"]) <= int(steady[0]["Timestamp"]):
        return False
    requests, failures = (
        int(steady[-1][f"Total {what} Count"]) - int(steady[0][f"Total {what} Count"])
        for what in ("Request", "Failure")
    )
    return requests >= LEAST_REQUESTS and failures > 0


@pytest.fixture(params=[True, False], ids=["full history", "plain"])
def real(request: pytest.FixtureRequest, real_runs: dict[bool, Path]) -> tuple[Path, bool]:
    """The prefix of what a real Locust wrote, and whether with lines of single endpoints."""
    return real_runs[request.param], request.param


def test_the_whole_run_is_what_locust_counted(real: tuple[Path, bool]) -> None:
    prefix, _ = real
    cell = read(prefix).cells[0]
    assert (cell.valid, cell.reasons, cell.users) == (True, [], USERS)
    rows = {row["Name"]: row for row in _rows(prefix, "_stats.csv")}
    assert set(rows) == {LOOKUP, PREDICT, "Aggregated"}
    whole_runs = {part.endpoint: part.whole_run for part in cell.endpoints}
    for name, row in rows.items():
        whole_run = cell.whole_run if name == "Aggregated" else whole_runs[name]
        assert whole_run is not None
        assert whole_run.requests == int(row["Request Count"]) > 0
        assert whole_run.failures == int(row["Failure Count"])
        assert whole_run.failures_percent == pytest.approx(100 * whole_run.failures / whole_run.requests, abs=1e-3)
        assert whole_run.rps == pytest.approx(float(row["Requests/s"]), abs=1e-3)
        assert whole_run.median_ms == pytest.approx(float(row["Median Response Time"]), abs=1e-3)
        assert whole_run.avg_ms == pytest.approx(float(row["Average Response Time"]), abs=1e-3)
        for value, share, column in ((whole_run.p95_ms, 0.95, "95%"), (whole_run.p99_ms, 0.99, "99%")):
            assert value == (float(row[column]) if whole_run.requests >= LEAST_SAMPLES[share] else None)
        assert whole_run.max_ms == pytest.approx(float(row["Max Response Time"]), abs=1e-3)
    assert whole_runs[LOOKUP].failures > 0
    assert whole_runs[PREDICT].failures == 0
    assert any(f"{LOOKUP} failed" in note and "status 503" in note for note in cell.notes)


def test_the_steady_window_is_counted_between_the_lines_with_all_users(real: tuple[Path, bool]) -> None:
    prefix, full = real
    cell = read(prefix).cells[0]
    parts = {part.endpoint: part.steady for part in cell.endpoints}
    rows = [row for row in _rows(prefix, "_stats_history.csv") if int(row["User Count"]) == USERS]
    seconds = [int(row["Timestamp"]) for row in rows if row["Name"] == "Aggregated"]
    assert cell.steady_window_s == seconds[-1] - seconds[0] > 0
    assert cell.steady is not None
    for name, steady in [("Aggregated", cell.steady), *parts.items()]:
        assert steady.median_ms is steady.avg_ms is steady.p95_ms is steady.p99_ms is steady.max_ms is None
        if name != "Aggregated" and not full:
            assert (steady.requests, steady.rps) == (0, None)
            continue
        own = {int(row["Timestamp"]): row for row in rows if row["Name"] == name}
        requests, failures = (
            int(own[seconds[-1]][column]) - int(own.get(seconds[0], {}).get(column, 0))  # it may have begun later
            for column in ("Total Request Count", "Total Failure Count")
        )
        assert (steady.requests, steady.failures) == (requests, failures)
        assert requests > 0
        assert steady.rps == pytest.approx(requests / cell.steady_window_s, abs=1e-3)
    assert full != any("--csv-full-history" in note for note in cell.notes)


def test_any_of_the_files_stands_for_all(real: tuple[Path, bool]) -> None:
    prefix, _ = real
    figures = read(prefix)
    for suffix in ("_stats.csv", "_stats_history.csv", "_failures.csv", "_exceptions.csv"):
        assert read(prefix.with_name(f"run{suffix}")) == figures


def test_an_interrupted_run_is_read_from_its_history(real: tuple[Path, bool], tmp_path: Path) -> None:
    prefix, full = real
    shutil.copy(prefix.with_name("run_stats_history.csv"), tmp_path)
    whole, cut = read(prefix).cells[0], read(tmp_path / "run").cells[0]
    assert cut.valid
    assert cut.steady == whole.steady
    assert cut.whole_run is not None
    assert whole.whole_run is not None
    for metric in ("requests", "failures", "median_ms", "avg_ms", "max_ms"):
        assert getattr(cut.whole_run, metric) == getattr(whole.whole_run, metric)
    rows = _rows(prefix, "_stats_history.csv")
    whole_run_s = int(rows[-1]["Timestamp"]) - int(rows[0]["Timestamp"])
    assert cut.whole_run.rps == pytest.approx(cut.whole_run.requests / whole_run_s, abs=1e-3)
    assert cut.whole_run.p95_ms is None
    assert [part.endpoint for part in cut.endpoints] == ([LOOKUP, PREDICT] if full else [])
    assert any("run_stats.csv is missing" in note for note in cut.notes)


def test_a_report_is_made_of_it(real: tuple[Path, bool], tmp_path: Path) -> None:
    prefix, _ = real
    write_report(read(prefix), tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert PREDICT in markdown
    assert "rounded to two digits" in markdown
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["failures.svg", "throughput.svg"]
    assert str(prefix.parent) not in markdown + (tmp_path / "report.json").read_text()


@dataclass(frozen=True)
class Moment:
    """A line of a written history, for each endpoint and all together."""

    second: int
    users: int
    lookups: int
    predicts: int
    failures: int = 0
    """Of the lookups."""


USUAL = [
    Moment(0, 0, 0, 0),
    Moment(1, 5, 3, 1),
    Moment(2, 10, 9, 4, 1),
    Moment(3, 10, 15, 8, 1),
    Moment(6, 10, 33, 16, 3),
    Moment(7, 4, 34, 17, 3),
]


def test_known_lines_give_known_figures(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL)
    write_stats(tmp_path, lookups=34, predicts=17, failures=3)
    figures = read(tmp_path / "run", wait_s=(1, 5))
    cell, point = figures.cells[0], figures.points[0]
    assert (cell.steady_window_s, cell.whole_run_s) == (4.0, 7.0)
    assert cell.steady == traffic(requests=36, failures=2, failures_percent=5.5556, rps=9.0)
    assert [part.steady for part in cell.endpoints] == [
        traffic(requests=24, failures=2, failures_percent=8.3333, rps=6.0),
        traffic(requests=12, failures=0, failures_percent=0.0, rps=3.0),
    ]
    assert figures.endpoints == ["GET /user/", "POST /model/predict"]
    assert (point.users, point.think_time_limit_rps, point.steady) == (10, 3.3333, cell.steady)
    assert figures.dates == ["2026-01-15"]
    assert figures.test == {"users": [10], "workload": {"wait_s": [1, 5]}}
    assert (figures.title, figures.source, figures.all_valid) == ("made", "Locust CSV", True)
    assert figures.bottom_line
    assert figures.takeaways


def test_an_endpoint_is_called_as_on_locusts_console(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL, names=(("GET", "/user/"), ("", "a job")))
    assert read(tmp_path / "run").endpoints == ["GET /user/", "a job"]


def test_an_endpoint_that_came_late_counts_from_zero(tmp_path: Path) -> None:
    write_history(tmp_path, [Moment(0, 2, 1, 0), Moment(4, 2, 5, 2)])
    late = [line for line in history_lines(tmp_path) if not line.startswith(f"{DAY_UNIX_S},2,POST")]
    (tmp_path / "run_stats_history.csv").write_text("\n".join(late) + "\n")
    assert [part.steady.requests for part in read(tmp_path / "run").cells[0].endpoints] == [4, 2]


def test_the_history_counts_from_its_last_reset_on(tmp_path: Path) -> None:
    again = [Moment(moment.second + 60, *(moment.users, moment.lookups, moment.predicts)) for moment in USUAL]
    write_history(tmp_path, [*USUAL, *again])
    cell = read(tmp_path / "run").cells[0]
    assert (cell.valid, cell.steady_window_s, cell.whole_run_s) == (True, 4.0, 7.0)
    assert cell.whole_run is not None
    assert (cell.whole_run.requests, cell.whole_run.failures) == (51, 0)
    assert any("reset its counts" in note for note in cell.notes)


def test_a_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL)
    lines = history_lines(tmp_path)
    (tmp_path / "run_stats_history.csv").write_text("\n".join([*lines, lines[-1][:40]]))
    cell = read(tmp_path / "run").cells[0]
    assert (cell.valid, cell.steady_window_s) == (True, 4.0)
    assert "the last line of run_stats_history.csv is cut off, and left out" in cell.notes


def test_a_killed_locust_leaves_a_history_that_ends_early(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL[:-1])
    write_stats(tmp_path, lookups=34, predicts=17, failures=3)
    cell = read(tmp_path / "run").cells[0]
    assert cell.valid
    assert any(note.startswith("Locust was killed") and "2 requests more" in note for note in cell.notes)


def test_without_a_history_the_number_of_users_must_be_given(tmp_path: Path) -> None:
    write_stats(tmp_path, lookups=34, predicts=17)
    with pytest.raises(BadInputError, match=r"run_stats_history\.csv .* by --users"):
        read(tmp_path / "run")
    figures = read(tmp_path / "run", users=10)
    cell = figures.cells[0]
    assert (cell.valid, cell.users, cell.steady, cell.steady_window_s) == (True, 10, None, None)
    assert cell.whole_run is not None
    assert cell.whole_run.requests == 51
    assert "run_stats_history.csv is missing: nothing is known of the steady window" in cell.notes
    write_report(figures, tmp_path / "report")


def test_users_who_came_for_one_line_make_no_steady_window(tmp_path: Path) -> None:
    write_history(tmp_path, [*USUAL[:3], USUAL[-1]])
    cell = read(tmp_path / "run").cells[0]
    assert (cell.steady, cell.steady_window_s) == (None, None)


def test_other_users_than_asked_for_are_told(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL)
    assert read(tmp_path / "run", users=10).all_valid
    assert reasons(tmp_path, users=25) == ["25 users were asked for, but at most 10 came"]


def test_a_run_without_requests_is_not_valid(tmp_path: Path) -> None:
    write_history(tmp_path, [Moment(second, 3, 0, 0) for second in range(4)])
    write_stats(tmp_path, lookups=0, predicts=0)
    figures = read(tmp_path / "run")
    assert figures.cells[0].reasons == ["no request was counted"]
    assert (figures.all_valid, figures.points[0].repetitions, figures.points[0].steady) == (False, 0, None)
    write_report(figures, tmp_path / "report")
    assert "INVALID" in (tmp_path / "report" / "report.md").read_text()


def test_totals_that_do_not_fit_are_not_valid(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL)
    write_stats(tmp_path, lookups=34, predicts=17, failures=3, total=99)
    assert reasons(tmp_path) == ["the requests of the endpoints are 51 together, but the line Aggregated has 99"]
    write_stats(tmp_path, lookups=3, predicts=1, failures=4)
    assert reasons(tmp_path) == [
        "there are more failures than requests",
        "run_stats_history.csv ends with 51 requests, run_stats.csv has only 4: they are not of the same run",
    ]


def test_the_most_frequent_failures_are_told_on_one_line_each(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL)
    rows = [["GET", "GET /user/", f"error {number}\n<b>", number, "", ""] for number in range(1, 8)]
    with (tmp_path / "run_failures.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Method", "Name", "Error", "Occurrences", "First Seen", "Last Seen"], *rows])
    notes = read(tmp_path / "run").cells[0].notes[-6:]
    assert notes[0] == "GET /user/ failed 7 time(s): error 7 <b>"
    assert notes[-1] == "2 more kinds of failures are in run_failures.csv"


def test_a_missing_file_is_refused_with_what_to_give(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, tmp_path / "none_stats.csv", tmp_path / "no" / "where"):
        with pytest.raises(BadInputError, match=r"neither .*_stats.csv .* give the PREFIX of `locust --csv PREFIX`"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"\n", f"{STATS}\r\n".encode()])
def test_files_without_a_line_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run_stats.csv").write_bytes(content)
    with pytest.raises(BadInputError, match=r"neither run_stats\.csv with a line `Aggregated`"):
        read(tmp_path / "run")


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\x89PNG\r\n\x1a\n\x00\x00", b"{}\n", "\u202e\n".encode("utf-16")])
def test_another_file_is_refused_with_the_columns_it_lacks(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run_stats.csv").write_bytes(content)
    with pytest.raises(BadInputError, match=r"run_stats.csv: is not what Locust writes, .* Type, Name, Request Count"):
        read(tmp_path / "run")


@pytest.mark.parametrize("number", ["", "N/A", "nan", "inf", "-1", "1,000", "ten"])
def test_garbage_numbers_are_told_with_file_line_and_column(tmp_path: Path, number: str) -> None:
    write_history(tmp_path, USUAL)
    lines = history_lines(tmp_path)
    cells = lines[5].split(",")
    cells[1] = f'"{number}"'
    (tmp_path / "run_stats_history.csv").write_text("\n".join([*lines[:5], ",".join(cells), *lines[6:]]))
    with pytest.raises(BadInputError) as refused:
        read(tmp_path / "run")
    path = tmp_path / "run_stats_history.csv"
    assert f"{path}: line 6, column User Count: {number!r} is not a number from 0 on" in str(refused.value)


def test_of_many_garbage_numbers_the_first_are_told(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL)
    lines = [line.replace(f"{DAY_UNIX_S}"[:6], "never") for line in history_lines(tmp_path)]
    (tmp_path / "run_stats_history.csv").write_text("\n".join(lines))
    with pytest.raises(BadInputError, match="more of them") as refused:
        read(tmp_path / "run")
    assert str(refused.value).count("column Timestamp") == 5


@pytest.mark.parametrize(
    ("users", "wait_s"), [(0, None), (-3, None), (None, (5, 1)), (None, (-1, 1)), (1, (0, float("nan")))]
)
def test_impossible_options_are_refused(tmp_path: Path, users: int | None, wait_s: tuple[float, float] | None) -> None:
    write_history(tmp_path, USUAL)
    with pytest.raises(BadInputError, match=r"--users|--wait"):
        read(tmp_path / "run", users=users, wait_s=wait_s)


OLD_STATS = "Median response time,Average response time,Min response time,Max response time,Average Content Size"


def test_locust_0_14_is_read_by_the_names_that_it_gave_columns(tmp_path: Path) -> None:
    times = f"# requests,# failures,Requests/s,Requests Failed/s,{OLD_STATS},50%,95%,99%,99.999"
    history = [f"Type,Name,Timestamp,{times}"]
    for second, requests in ((0, 0), (1, 20), (3, 100)):
        history.append(f"None,Aggregated,{DAY_UNIX_S + second},{requests},1,1.0,0.0,7,8,1,40,30,7,8,9,9")
    (tmp_path / "run_stats_history.csv").write_text("\n".join(history))
    head = f"Type,Name,# requests,# failures,{OLD_STATS},Requests/s,Requests Failed/s,50%,95%,99%,99.999"
    lines = [f"{name},400,1,7,8,1,40,30,7.31,0.02,7,20,30,40" for name in ("GET,/user/", "None,Aggregated")]
    (tmp_path / "run_stats.csv").write_text("\n".join([head, *lines]))
    with pytest.raises(BadInputError, match="by --users"):
        read(tmp_path / "run")
    figures = read(tmp_path / "run", users=10)
    (cell,) = figures.cells
    (part,) = cell.endpoints
    assert (part.endpoint, part.whole_run.requests, part.whole_run.failures, part.whole_run.rps) == (
        "GET /user/", 400, 1, 7.31,
    )  # fmt: skip
    assert (part.whole_run.median_ms, part.whole_run.avg_ms, part.whole_run.p95_ms, part.whole_run.max_ms) == (
        7, 8, 20, 40,
    )  # fmt: skip
    assert (cell.valid, cell.steady, cell.whole_run_s) == (True, None, 3.0)
    assert any("of Locust before 1.0, which writes no number of users" in note for note in cell.notes)


def test_locust_0_12_is_read_from_its_two_files(tmp_path: Path) -> None:
    requests = f"Method,Name,# requests,# failures,{OLD_STATS},Requests/s"
    lines = [f"{name},400,0,7,8,1,40,30,7.31" for name in ('"GET","/user/"', '"None","Total"')]
    (tmp_path / "run_requests.csv").write_text("\n".join([requests, *lines]))
    spread = [
        "Name,# requests,50%,95%,99%,100%",
        *(f'"{name}",400,7,20,30,40' for name in ("GET /user/", "None Total")),
    ]
    (tmp_path / "run_distribution.csv").write_text("\n".join(spread))
    for path in (tmp_path / "run", tmp_path / "run_requests.csv"):
        figures = read(path, users=10)
        assert (figures.endpoints, figures.all_valid) == (["GET /user/"], True)
        whole_run = figures.cells[0].whole_run
        assert whole_run
        assert (whole_run.requests, whole_run.median_ms, whole_run.p95_ms, whole_run.p99_ms) == (400, 7, 20, 30)


def test_table_and_sentence_have_the_same_latencies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_history(tmp_path, USUAL)
    write_stats(tmp_path, lookups=340, predicts=170)
    figures = read(tmp_path / "run")
    assert "a GET /user/ median of 7.00 ms (whole run)" in figures.bottom_line
    print_overview(figures)
    assert capsys.readouterr().out.count("7.00, 7.00 (whole run)") == 2
    assert "| GET /user/ p95 ms          | 7.00 (whole run) |" in render_markdown(figures)


def test_without_a_steady_window_table_and_sentence_have_the_figures_of_the_whole_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stats(tmp_path, lookups=340, predicts=170)
    figures = read(tmp_path / "run", users=10)
    assert "it had 7.3 requests/s, 0 % failures (whole run)" in figures.bottom_line
    print_overview(figures)
    printed = capsys.readouterr().out
    assert "7.3 (whole run)" in printed
    assert "—" not in printed


def test_no_think_time_sets_no_limit(tmp_path: Path) -> None:
    write_history(tmp_path, USUAL)
    assert read(tmp_path / "run", wait_s=(0, 0)).points[0].think_time_limit_rps is None


def read(path: Path, users: int | None = None, wait_s: Sequence[float] | None = None) -> Figures:
    return conclude(read_locust_csv(path, users=users, wait_s=wait_s, title="made"))


def reasons(folder: Path, users: int | None = None) -> Sequence[str]:
    cell: CellFigures = read(folder / "run", users=users).cells[0]
    assert not cell.valid
    return cell.reasons


def traffic(*, requests: int, failures: int, failures_percent: float, rps: float) -> Traffic:
    unknown = dict.fromkeys(("median_ms", "avg_ms", "p95_ms", "p99_ms", "max_ms"))
    return Traffic(
        requests=requests,
        failures=failures,
        failures_percent=failures_percent,
        failures_interval_percent=failures_interval_percent(failures, requests),
        rps=rps,
        **unknown,
    )


NAMES = (("GET", "GET /user/"), ("POST", "POST /model/predict"))


def write_history(folder: Path, moments: Sequence[Moment], names: Sequence[tuple[str, str]] = NAMES) -> None:
    lines = [HISTORY]
    for moment in moments:
        counts = [(moment.lookups, moment.failures), (moment.predicts, 0)]
        counts.append((moment.lookups + moment.predicts, moment.failures))
        for (kind, name), (requests, failures) in zip([*names, ("", "Aggregated")], counts, strict=True):
            start = f"{DAY_UNIX_S + moment.second},{moment.users},{kind},{name},1.0,0.0"
            lines.append(f"{start}{',7' * 11},{requests},{failures},7,8.5,1.25,40.125,30.0")
    (folder / "run_stats_history.csv").write_text("\r\n".join(lines) + "\r\n")


def history_lines(folder: Path) -> list[str]:
    return (folder / "run_stats_history.csv").read_text().splitlines()


def write_stats(folder: Path, *, lookups: int, predicts: int, failures: int = 0, total: int | None = None) -> None:
    counts = [(lookups, failures), (predicts, 0), (lookups + predicts if total is None else total, failures)]
    lines = [STATS]
    for (kind, name), (requests, failed) in zip([*NAMES, ("", "Aggregated")], counts, strict=True):
        percentiles = ",7" * 11 if requests else ",N/A" * 11
        lines.append(f"{kind},{name},{requests},{failed},7,8.5,1.25,40.125,30.0,7.3,0.1{percentiles}")
    (folder / "run_stats.csv").write_text("\r\n".join(lines) + "\r\n")


def _rows(prefix: Path, suffix: str) -> list[dict[str, str]]:
    return csv_rows(prefix.with_name(prefix.name + suffix))
