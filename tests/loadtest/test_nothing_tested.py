"""A check that has tested nothing does not say that all is well: what each command says and exits with then.

`fuzz` is in fuzzing/test_fuzz_untested.py, `audit` in auditing/test_audit_nothing.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtest.__main__ import main
from loadtest.audit.audit import audit_file
from loadtest.audit.locust_stats import RunFacts
from loadtest.capacity import judgement
from loadtest.faults.fault_plan import FaultPlan, SoakPlan
from loadtest.faults.figures import read_faults
from loadtest.faults.folder import SOAK, Event, FaultFolder, StretchRecord
from loadtest.faults.soak import read_soak
from loadtest.figures.figures import CellFigures, Figures
from loadtest.machine.environment import read_environment
from loadtest.overload.figures import LevelFigures, judge
from loadtest.overload.question import Promises
from loadtest.plan.plan import Plan
from loadtest.rows.columns import ProcessRow, RequestRow, RowWriter
from loadtest.rows.run_folder import RunFolder, write_json
from loadtest.verdict.summary import summarize
from tests.kit import RUN_S, run_kit, write_plan
from tests.loadtest.overload.test_overload import level
from tests.loadtest.test_locustfile import known_server
from tests.made_run import MadeCell, made_plan, write_made_run

ONE = {"users": [25], "targets": made_plan().model_dump(mode="json")["targets"][:1], "baseline": None, "limits": []}


def failing(status: int, *endpoints: str) -> Callable[[MadeCell], None]:
    """Have all requests of these endpoints answered with a status."""

    def change(made: MadeCell) -> None:
        made.requests = [
            replace(row, status=status, error=f"status {status}") if row.endpoint in endpoints else row
            for row in made.requests
        ]

    return change


def summary(folder: Path, change: Callable[[MadeCell], None], plan: Plan | None = None) -> Figures:
    return summarize(RunFolder(write_made_run(folder / "run", plan or made_plan(**ONE), change)))


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["loadtest", *arguments])
    return main()


NOTHING = "nothing of {0} was measured: all {{{0}}} requests were refused, {{{0}}} × status {1}"
NONE = "none of {{all}} requests was answered right: {{all}} × status {0}"


KEY = "see LOADTEST_API_KEY"


@pytest.mark.parametrize(
    "case",
    [
        (
            401,
            "predict lookup",
            [f"{NOTHING.format(name, 401)}; see LOADTEST_API_KEY" for name in ("predict", "lookup")],
        ),
        (404, "predict", [NOTHING.format("predict", 404)]),
        (307, "lookup", [NOTHING.format("lookup", 307)]),
        (503, "predict lookup", [NONE.format(503)]),
        (0, "predict lookup", [NONE.format(0)]),
        (200, "predict lookup", [NONE.format(200)]),
    ],
    ids=["all 401", "one kind 404", "one kind redirected", "all 503", "no answer", "another page"],
)
def test_a_cell_in_which_nothing_is_answered_right_is_not_valid_and_the_command_fails_without_any_limit(
    tmp_path: Path,
    case: tuple[int, str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, endpoints, reasons = case
    (cell,) = summary(tmp_path, failing(status, *endpoints.split())).cells
    assert cell.steady
    counts = {part.endpoint: part.steady.requests for part in cell.endpoints} | {"all": cell.steady.requests}
    assert cell.reasons == [reason.format(**counts) for reason in reasons]
    assert run_command(monkeypatch, "report", str(tmp_path / "run")) == 1
    printed = capsys.readouterr().out
    assert f"INVALID one_replica, 25 users, repetition 1: {cell.reasons[0]}" in printed
    assert "No cell is valid, so this run says nothing about its targets." in printed


@pytest.mark.parametrize("change", [failing(503, "predict"), failing(408, "predict"), failing(429, "predict")])
def test_one_kind_that_a_busy_target_refuses_is_a_measurement(
    tmp_path: Path, change: Callable[[MadeCell], None]
) -> None:
    (cell,) = summary(tmp_path, change).cells
    assert (cell.valid, cell.reasons) == (True, [])
    assert cell.steady
    assert cell.steady.failures_percent
    assert cell.steady.failures_percent > 30


def test_no_target_wins_by_answering_nothing(tmp_path: Path) -> None:
    def change(made: MadeCell) -> None:
        if made.record.cell.target == "two_replicas":
            failing(404, "lookup", "predict")(made)
            made.requests = [replace(row, latency_ms=0.1) for row in made.requests]

    figures = summary(tmp_path, change, made_plan(users=[25], limits=["rps >= 1"], baseline=None))
    assert figures.comparisons[0].winner is None
    assert figures.bottom_line.startswith("Only 1 replica has valid cells")
    assert not figures.all_valid


def test_a_csv_of_locust_in_which_all_failed_is_not_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = (
        "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Max Response Time,Requests/s"
    )
    lines = [columns, "GET,/a,120,120,3,3.1,9,2.0", ",Aggregated,120,120,3,3.1,9,2.0"]
    (tmp_path / "run_stats.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert run_command(monkeypatch, "report", "--csv", str(tmp_path / "run"), "--users", "3") == 1
    assert "none of 120 requests was answered right" in capsys.readouterr().out


def judged(cell: CellFigures) -> tuple[str, bool, str]:
    return judgement.judge(cell, made_plan(**{**ONE, "limits": ["failures_percent <= 100"]}))


def test_a_level_at_which_nothing_is_answered_holds_no_objective_and_one_that_is_refused_is_no_measurement(
    tmp_path: Path,
) -> None:
    plan = made_plan(**{**ONE, "limits": ["failures_percent <= 100"]})
    (overloaded,) = summary(tmp_path / "503", failing(503, "lookup", "predict"), plan).cells
    assert overloaded.limits[0].met
    assert judged(overloaded)[0] == "failed"
    assert "requests was answered right: " in judged(overloaded)[2]
    (refused,) = summary(tmp_path / "401", failing(401, "lookup", "predict"), plan).cells
    assert judged(refused)[0] == "invalid"
    assert "see LOADTEST_API_KEY" in judged(refused)[2]


@pytest.mark.parametrize(
    ("changes", "promise", "measured"),
    [
        ({"goodput_rps": 0, "refused": 900, "refusal_max_ms": 20}, "some requests are answered right", "0.0/s"),
        ({"sent_rps": 0}, "some requests are answered right", "no request was sent"),
    ],
)
def test_an_overload_that_served_nothing_breaks_a_promise(changes: dict[str, Any], promise: str, measured: str) -> None:
    only: LevelFigures = level(10, **changes)
    broken = [one for one in judge(Promises(), [only], refusals_checked=True) if not one.kept]
    assert [(one.promise.startswith(promise), one.measured) for one in broken] == [(True, measured)]


WORKLOAD = {
    "locustfile": "l.py",
    "wait_s": [0, 1],
    "endpoints": {"light": {"request": "GET /light"}, "heavy": {"request": "GET /heavy"}},
}
LOAD: dict[str, Any] = {
    "title": "t", "users": 5, "spawn_rate_per_s": 5, "workload": WORKLOAD, "roles": [{"name": "w", "command": "w"}],
}  # fmt: skip
SETTING: dict[str, Any] = {
    "target": {"name": "a", "url": "http://127.0.0.1:1", "start": "x"},
    "faults": [{"name": "kill", "kill": {"role": "w"}, "may_fail": {"light": {}, "heavy": {}}}],
}
BEGAN_S = 1000.0
BEFORE = "failed before the quiet period ended"


def rows_of(*spans: tuple[str, int, int, str]) -> list[RequestRow]:
    """Return a request a second of each kind, from and until seconds around the fault, with an error or none."""
    return [
        RequestRow(BEGAN_S + second, endpoint, 200, 3.0, 9, error, "")
        for endpoint, begin, end, error in spans
        for second in range(begin, end)
    ]


VICTIM = 7
CAME = ProcessRow(BEGAN_S - 9, "w", VICTIM, "came")
USUAL = (("light", -9, -1, ""), ("heavy", -9, -1, ""), ("light", 1, 20, ""), ("heavy", 1, 20, ""))
UNTESTED = {
    "all is answered": (USUAL, []),
    "refused before and after": (
        tuple((name, begin, end, "status 401") for name, begin, end, _ in USUAL),
        ["no light was answered right in the quiet period", "no heavy was answered right in the quiet period"],
    ),
    "nothing before": (USUAL[2:], [
        "no light was answered right in the quiet period", "no heavy was answered right in the quiet period",
    ]),
    "nothing after": (USUAL[:2], [
        "no light was sent after the fault began", "no heavy was sent after the fault began",
    ]),
    "one kind only": ((USUAL[0], USUAL[2]), [
        "no heavy was answered right in the quiet period", "no heavy was sent after the fault began",
    ]),
    "nothing at all": ((), [
        "no light was answered right in the quiet period", "no heavy was answered right in the quiet period",
        "no light was sent after the fault began", "no heavy was sent after the fault began",
    ]),
}  # fmt: skip


def write_stretch(
    folder: FaultFolder,
    name: str,
    plan: FaultPlan | SoakPlan,
    rows: list[RequestRow],
    processes: Sequence[ProcessRow] = (),
) -> None:
    write_json(folder.plan, plan)
    folder.write_environment(read_environment())
    event = Event(
        fault="kill", began_unix_s=BEGAN_S, ended_unix_s=BEGAN_S, struck=[], pids=[VICTIM] if processes else []
    )
    record = StretchRecord(
        status="finished", complete_unix_s=BEGAN_S - 10, stopping_unix_s=BEGAN_S + 20, events=[event]
    )
    folder.write_record(name, record)
    for file, kind, known in (("requests", RequestRow, rows), ("processes", ProcessRow, processes)):
        writer = RowWriter(folder.stretch_path(name) / f"{file}.csv", kind)
        for row in known:
            writer.write(row)
        writer.close()


@pytest.mark.parametrize("case", UNTESTED)
def test_a_fault_that_no_request_tells_of_is_not_within_its_limits(tmp_path: Path, case: str) -> None:
    spans, missed = UNTESTED[case]
    folder = FaultFolder(tmp_path / "run")
    write_stretch(
        folder, "kill", FaultPlan.model_validate({**LOAD, "groups": [{"name": "g", **SETTING}]}), rows_of(*spans)
    )
    figures = read_faults(folder)
    found = [miss for miss in figures.faults[0].missed if BEFORE not in miss]
    assert found == missed
    assert figures.all_hold is not bool(missed)


@pytest.mark.parametrize(
    ("gone", "missed"),
    [([], ["no signalled process ended within 20 s"]), ([ProcessRow(BEGAN_S + 1, "w", VICTIM, "gone")], [])],
)
def test_a_kill_that_ended_no_process_is_not_within_its_limits(
    gone: list[ProcessRow], missed: list[str], tmp_path: Path
) -> None:
    folder = FaultFolder(tmp_path / "run")
    plan = FaultPlan.model_validate({**LOAD, "groups": [{"name": "g", **SETTING}]})
    write_stretch(folder, "kill", plan, rows_of(*USUAL), [CAME, *gone])
    figures = read_faults(folder)
    assert figures.faults[0].missed == missed
    assert figures.all_hold is not bool(missed)


def test_requests_that_failed_before_a_fault_are_told_even_if_those_after_it_may_fail(tmp_path: Path) -> None:
    folder = FaultFolder(tmp_path / "run")
    plan = FaultPlan.model_validate({**LOAD, "groups": [{"name": "g", **SETTING}]})
    failed = (("light", -12, -9, "status 503"), ("light", -3, -2, "status 503"), ("light", 2, 3, "status 503"))
    write_stretch(folder, "kill", plan, rows_of(*USUAL, *failed))
    figures = read_faults(folder)
    assert figures.faults[0].missed == [f"4 requests {BEFORE}"]
    assert not figures.all_hold


@pytest.mark.parametrize("case", UNTESTED)
def test_a_soak_that_no_request_tells_of_does_not_hold(tmp_path: Path, case: str) -> None:
    spans, missed = UNTESTED[case]
    folder = FaultFolder(tmp_path / "run")
    write_stretch(folder, SOAK, SoakPlan.model_validate({**LOAD, **SETTING}), rows_of(*spans))
    writer = RowWriter(folder.stretch_path(SOAK) / "resources.csv", ProcessRow)
    writer.close()
    (folder.stretch_path(SOAK) / "resources.csv").write_text("")
    figures = read_soak(folder)
    found = [miss for miss in figures.missed if BEFORE not in miss]
    assert found == [f"kill: {miss}" for miss in missed]
    assert figures.all_hold is not bool(missed)


EVENTS = """
from locust import User, constant, tag, task

class Pusher(User):
    wait_time = constant(0.05)

    @tag("push")
    @task
    def push(self):
        fire = self.environment.events.request.fire
        fire(request_type="WSS", name="push", response_time=None, response_length=3, exception=None, context={})

    @tag("ask")
    @task
    def ask(self):
        fire = self.environment.events.request.fire
        fire(request_type="WSS", name="ask", response_time=40.0, response_length=3, exception=None, context={})

    @tag("lose")
    @task
    def lose(self):
        lost = ConnectionError("gone")
        fire = self.environment.events.request.fire
        fire(request_type="WSS", name="lose", response_time=None, response_length=0, exception=lost, context={})
"""


@pytest.mark.timeout(3 * RUN_S)
def test_requests_of_ones_own_without_a_time_or_a_beginning_are_counted_and_in_no_latency(tmp_path: Path) -> None:
    locustfile = tmp_path / "events.py"
    locustfile.write_text(EVENTS)
    endpoints = {name: {"request": name} for name in ("push", "ask", "lose")}
    with known_server({"GET /ready": [(200, b"")]}) as server:
        target = {"name": "own", "url": f"http://127.0.0.1:{server.server_port}", "ready": ["/ready"]}
        work = {"locustfile": str(locustfile), "endpoints": endpoints, "wait_s": [0.05, 0.05]}
        plan = write_plan(tmp_path / "plan.yaml", [target], workload=work, warmup={"duration_s": 0})
        ended = run_kit(plan, tmp_path / "run")
    cell = ended.cell("own")
    parts = {part.endpoint: part.steady for part in cell.endpoints}
    assert all(part.requests > 10 for part in parts.values()), ended.output
    assert (parts["push"].untimed, parts["push"].failures) == (parts["push"].requests, 0)
    assert (parts["push"].median_ms, parts["push"].max_ms) == (None, None)
    assert (parts["ask"].untimed, parts["ask"].median_ms, parts["ask"].avg_ms) == (0, 40, 40)
    assert (parts["lose"].untimed, parts["lose"].failures) == (0, parts["lose"].requests)
    assert cell.steady
    assert (cell.steady.untimed, cell.steady.avg_ms) == (parts["push"].untimed, 40)
    assert audit_file(ended.folder.path / "report.json", RunFacts()).findings == []
