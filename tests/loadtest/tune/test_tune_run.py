"""`python -m loadtest tune`: a live search that is stopped and gone on with, and one whose rounds are all made.

What the live one claims is counted. Which settings win is decided by figures, so that is claimed of made rows.
"""

import json
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from loadtest.errors import BadInputError
from loadtest.rows.columns import RequestRow, read_rows
from loadtest.rows.run_folder import Cell, RunFolder
from loadtest.tune.halving import Round
from loadtest.tune.search import Search
from loadtest.tune.tune_file import load_tuning
from loadtest.verdict.summary import summarize
from tests.failures import keep_on_failure
from tests.kit import (
    RUN_S,
    Ended,
    ask,
    assert_nothing_left,
    faults_of,
    known_target,
    run_command,
    started,
    workload,
    write_plan,
)
from tests.known_target import FileGate
from tests.made_run import MadeCell, write_made_run
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

USERS = 10
RATE = 50
THINK_S = 0.05
SECONDS = 2
# The first round fits by the tune file's own estimate; what its first cell took by its record leaves no time for more.
MINUTES = 0.5
BASE = """# A service of several workers.
service:
  workers: 1
  # Requests a second of each.
  rate_per_worker: 50
"""


def write_search(folder: Path, options: str = "", minutes: float = MINUTES) -> Path:
    """Write a search over 1 or 2 workers of 50 or 0 requests a second each; with 0 the service does not start."""
    base = folder / "service.yaml"
    base.write_text(BASE)
    target = known_target(
        "service",
        free_port(),
        f"--config {shlex.quote(str(base))} {options}",
        replicas={"role": "replica", "count": 1},
        files=[str(base)],
        about=["/about"],
    )
    write_plan(
        folder / "plan.yaml",
        [target],
        users=[USERS],
        duration_s=SECONDS,
        spawn_rate_per_s=1000,
        settle_s=0.2,
        warmup={"duration_s": 0},
        workload=workload("serial", wait_s=[THINK_S, THINK_S]),
        roles=[{"name": "replica", "command": r"known_target --replica$"}],
    )
    tune = {
        "plan": str(folder / "plan.yaml"),
        "base": str(base),
        "vary": [
            {"name": "workers", "path": "service.workers", "values": [1, 2, 3]},
            {"name": "rate", "path": "service.rate_per_worker", "values": [RATE, 0]},
        ],
        "constraints": ["workers <= 2"],
        "replicas_knob": "workers",
        "users": USERS,
        "objective": "maximise rps",
        "limits": ["failures_percent <= 0"],
        "minutes": minutes,
        "repetitions": 1,
        "overhead_s": 1.5,
    }
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump(tune, sort_keys=False))
    return path


def write_made_round(search: Search, number: int, size: Round, rps: dict[str, int], *, fails: bool = False) -> None:
    """Write a whole round: users who send `rps` to a candidate together, evenly; one without any does not start.

    Where it `fails`, every second answer is a 503.
    """
    with search.opened():
        plan = search._make_plan(number, [search.candidate(name) for name in rps], size)

    def make(made: MadeCell) -> None:
        record, rate_rps = made.record, rps[made.record.cell.target]
        if not rate_rps:
            record.status, record.moments = "failed", None
            record.reason = "the target ended with code 1; its last lines:\nrate_per_worker must be above 0"
            return
        assert record.moments
        began_s = record.moments.started_unix_s
        latency_ms = 1000 * (USERS / rate_rps - THINK_S)
        made.requests = [
            RequestRow(began_s + each / rate_rps, "serial", 200, latency_ms, 6, "", "")
            for each in range(rate_rps * plan.duration_s)
        ]
        if fails:
            made.requests[::2] = [replace(row, status=503, error="status 503") for row in made.requests[::2]]
        made.resources = [
            replace(row, role="replica", processes=record.replicas_asked or 0) if row.role == "classifier" else row
            for row in made.resources
        ]

    write_made_run(search._round_folder(number).path, plan, make)


@dataclass(frozen=True)
class Tuned:
    """A search whose first cell was measured already: stopped by SIGTERM in its third, resumed, asked for again."""

    interrupted: Ended
    resumed: Ended
    again: Ended
    refused: Ended
    first_cells: set[tuple[int, bytes]]
    """What the rows of the first were, and when they were written, before and after."""

    @property
    def folder(self) -> Path:
        return self.resumed.folder.path

    @property
    def round(self) -> RunFolder:
        return RunFolder(self.folder / "round-1")

    def result(self) -> dict[str, Any]:
        return read_result(self.folder)


def read_result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tune.json").read_text())
    return found


def candidate(result: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in result["candidates"] if one["name"] == name]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuned]:
    folder = tmp_path_factory.mktemp("tuned")
    out, gate = folder / "out", FileGate(folder / "gate")
    file = write_search(folder, f"--hold-at 20 --gate {shlex.quote(str(folder))}/gate")
    search = Search(load_tuning(file), out, print)
    write_made_round(search, 1, search._planned[0], dict.fromkeys(("c01", "c02", "c03", "c04"), 3 * RATE))
    first, *others = (search._round_folder(1).cell_path(cell_of(one.name)) for one in search.tried)
    for cell in others:
        (cell / "cell.json").unlink()
    first_cells = {fingerprint(first)}
    command = ["tune", file, "--out", out]
    with started(command, out, folder) as kit:
        kit.wait_until(gate.reached.is_file, "the load on c03")
        kit.process.terminate()
        gate.open()  # the signal is there already; Locust would wait for its answers
        interrupted = kit.wait()
        assert_nothing_left(kit.mark)
    refused = ask(*command, "--users", USERS + 1)
    resumed = run_command(command, out, folder)
    again = ask(*command, "--json")
    with keep_on_failure("tune", lambda: [out]):
        yield Tuned(interrupted, resumed, again, refused, first_cells | {fingerprint(first)})


def test_sigterm_ends_with_143_and_says_how_to_go_on(tuned: Tuned) -> None:
    assert tuned.interrupted.exit_code == 128 + signal.SIGTERM, tuned.interrupted.output
    assert "run the same command again" in tuned.interrupted.stderr
    assert "Traceback" not in tuned.interrupted.output


def test_what_was_measured_is_not_measured_again(tuned: Tuned) -> None:
    assert len(tuned.first_cells) == 1
    assert len(tuned.round.read_record().sessions) == 3


def test_another_search_in_the_same_folder_is_refused(tuned: Tuned) -> None:
    assert tuned.refused.exit_code == 2
    assert "differing: users" in tuned.refused.stderr
    assert "--out" in tuned.refused.stderr


def test_a_candidate_is_served_with_its_values_and_measured(tuned: Tuned) -> None:
    record = tuned.round.read_cell(cell_of("c03"))
    assert record
    assert (record.status, record.replicas_found) == ("finished", 2)
    assert (record.about["/about"]["workers"], record.about["/about"]["serial_rate"]) == (2, 2 * RATE)
    rows = list(read_rows(tuned.round.cell_path(cell_of("c03")) / "requests.csv", RequestRow))
    assert len(rows) >= 20
    assert {row.status for row in rows} == {200}
    (cell,) = [cell for cell in summarize(tuned.round).cells if cell.target == "c03"]
    assert faults_of(cell) == []
    assert candidate(tuned.result(), "c03")["knobs"] == {"workers": 2, "rate": RATE}


def test_what_does_not_start_is_told_and_the_rest_goes_on(tuned: Tuned) -> None:
    for name in ("c02", "c04"):
        found = candidate(tuned.result(), name)
        assert found["state"] == "invalid"
        assert "rate_per_worker must be above 0" in " ".join(found["reasons"])
        assert f"INVALID {name}" in tuned.resumed.stdout


def test_a_search_without_time_for_a_final_rests_on_its_rounds(tuned: Tuned) -> None:
    assert "the time is up; the result is based on the rounds so far" in tuned.resumed.stderr
    assert [one["number"] for one in tuned.result()["rounds"]] == [1]
    # Its rows are made, and of more than the other can serve.
    assert (tuned.resumed.exit_code, tuned.result()["winner"]) == (0, "c01"), tuned.resumed.output


def test_the_estimate_and_what_was_excluded_are_told(tuned: Tuned) -> None:
    assert "4 of 4 candidates" in tuned.interrupted.stderr
    assert re.search(rf"of {MINUTES} minutes; at most 0:\d+ min left, after which", tuned.interrupted.stderr)
    assert re.search(r"^round 1: .*; at most [\d:]+ min left$", tuned.interrupted.stderr, re.MULTILINE)
    assert "excluded by `workers <= 2`: 2 combination(s)" in tuned.resumed.stdout


def test_a_search_that_is_over_is_told_again_without_measuring(tuned: Tuned) -> None:
    assert tuned.again.exit_code == 0
    assert json.loads(tuned.again.stdout) == tuned.result()
    assert "loading" not in tuned.again.stderr


@dataclass(frozen=True)
class Made:
    """A search of two rounds that found what serves twice as much."""

    ended: Ended
    folder: Path
    written: Path

    def result(self) -> dict[str, Any]:
        return read_result(self.folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    out, written = folder / "out", folder / "deploy.yaml"
    file = write_search(folder, minutes=60)
    search = Search(load_tuning(file), out, print)
    write_made_round(search, 1, Round(4, 1, 8), {"c01": RATE, "c02": 0, "c03": 2 * RATE, "c04": 0})
    write_made_round(search, 2, Round(2, 3, 10), {"c01": RATE, "c03": 2 * RATE})
    return Made(ask("tune", file, "--out", out, "--write", written), out, written)


def test_the_settings_that_serve_twice_as_much_win(made: Made) -> None:
    assert made.ended.exit_code == 0, made.ended.output
    result = made.result()
    assert (result["status"], result["winner"]) == ("winner found", "c03")
    assert candidate(result, "c03")["rps"] == pytest.approx(2 * RATE, rel=0.01)
    assert candidate(result, "c01")["rps"] == pytest.approx(RATE, rel=0.01)
    assert "Run workers=2 rate=50: throughput" in result["recommendation"]
    assert [verdict["outcome"] for verdict in result["verdicts"]] == ["winner"]


def test_the_winners_yaml_is_the_base_with_its_values(made: Made) -> None:
    text = made.written.read_text()
    assert text == (made.folder / "winner.yaml").read_text()
    assert yaml.safe_load(text) == {"service": {"workers": 2, "rate_per_worker": RATE}}
    assert "  # Requests a second of each.\n" in text
    assert "# Values: workers=2 rate=50" in text
    assert "requests/s" in text
    assert str(made.folder) not in text


def test_the_folders_of_rounds_are_ordinary_runs(made: Made) -> None:
    final = RunFolder(made.folder / "round-2")
    assert sorted(target.name for target in final.read_plan().targets) == ["c01", "c03"]
    rounds = [sorted(one["candidates"]) for one in made.result()["rounds"]]
    assert rounds == [["c01", "c02", "c03", "c04"], ["c01", "c03"]]


def test_a_winner_that_the_resumed_search_does_not_bear_out_leaves_no_yaml(tmp_path: Path) -> None:
    out, file = tmp_path / "out", write_search(tmp_path, minutes=60)
    search, rps = Search(load_tuning(file), out, print), {"c01": RATE, "c03": 2 * RATE}
    write_made_round(search, 1, Round(4, 1, 8), {**rps, "c02": 0, "c04": 0})
    assert ask("tune", file, "--out", out, "--minutes", 1).exit_code == 0
    assert (out / "winner.yaml").is_file()
    write_made_round(search, 2, Round(2, 3, 10), rps, fails=True)
    ended = ask("tune", file, "--out", out)
    assert (ended.exit_code, read_result(out)["status"]) == (1, "no winner"), ended.output
    assert "No candidate meets the limits" in ended.stdout
    assert not (out / "winner.yaml").exists()


def test_a_final_that_was_cut_short_is_measured_further_only_if_there_is_time(tmp_path: Path) -> None:
    """A port in use, as by a service with the winner's settings, shows whether anything would be measured."""
    out, file = tmp_path / "out", write_search(tmp_path, minutes=60)
    search = Search(load_tuning(file), out, print)
    write_made_round(search, 1, Round(4, 1, 8), {"c01": RATE, "c02": 0, "c03": 2 * RATE, "c04": 0})
    write_made_round(search, 2, Round(2, 3, 10), {"c01": RATE, "c03": 2 * RATE})
    for name in ("c01", "c03"):
        (search._round_folder(2).cell_path(Cell(target=name, users=USERS, repetition=3)) / "cell.json").unlink()
    address = urlsplit(search.tuning.target.urls[0])
    with socket.create_server((str(address.hostname), address.port or 0)):
        brief = Search(load_tuning(file, {"minutes": 1}), out, print)
        brief.run(lambda: None)
        assert [one.point.repetitions for one in brief.deciding()] == [2, 2]
        with pytest.raises(BadInputError, match=f"{address.port}"):
            Search(load_tuning(file), out, print).run(lambda: None)


def cell_of(name: str) -> Cell:
    return Cell(target=name, users=USERS, repetition=1)


def fingerprint(cell: Path) -> tuple[int, bytes]:
    path = cell / "requests.csv"
    return path.stat().st_mtime_ns, path.read_bytes()
