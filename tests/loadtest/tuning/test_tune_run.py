"""`python -m loadtest tune` as a user runs it, on a service whose best settings are known."""

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.run_folder import Cell, RunFolder
from tests.kit import (
    Ended,
    Kit,
    assert_nothing_left,
    known_target,
    processes_of,
    workload,
    write_plan,
)
from tests.ports import free_port

USERS = 40
RATE = 50
# Enough for four cells and a final of two, and to measure one of them again.
MINUTES = 0.355
BASE = """# A service of several workers.
service:
  workers: 1
  # Requests a second of each.
  rate_per_worker: 50
"""


@dataclass(frozen=True)
class Tuned:
    """One search: stopped by Ctrl-C, gone on with, and asked for again when all was measured."""

    interrupted: Ended
    resumed: Ended
    again: Ended
    refused: Ended
    first_cell_written: set[int]
    written: Path

    @property
    def folder(self) -> Path:
        return self.resumed.folder.path

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "tune.json").read_text())
        return found

    def candidate(self, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.result()["candidates"] if one["name"] == name]
        assert isinstance(found, dict)
        return found


def write_search(folder: Path) -> Path:
    """Write a search over 1 or 2 workers of 50 or 0 requests a second each; with 0 the service does not start."""
    base = folder / "service.yaml"
    base.write_text(BASE)
    target = known_target(
        "service", free_port(), f"--config {base}", replicas={"role": "replica", "count": 1}, files=[str(base)]
    )
    write_plan(
        folder / "plan.yaml",
        [target],
        users=[USERS],
        duration_s=2,
        spawn_rate_per_s=1000,
        settle_s=0.2,
        warmup={"duration_s": 0},
        workload=workload("serial", wait_s=[0, 0]),
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
        "minutes": MINUTES,
        "repetitions": 1,
        "overhead_s": 1.5,
    }
    path = folder / "tune.yaml"
    path.write_text(yaml.safe_dump(tune, sort_keys=False))
    return path


def run_tune(file: Path, out: Path, *options: str) -> Ended:
    kit = Kit(["tune", str(file), "--out", str(out), *options], out, file.parent)
    try:
        ended = kit.wait()
        assert_nothing_left(kit.mark)
        return ended
    finally:
        stop(kit)


def stop(kit: Kit) -> None:
    for process in processes_of(kit.mark):
        process.kill()
    kit.process.wait(10)


def interrupt_in_third_cell(file: Path, out: Path) -> Ended:
    kit = Kit(["tune", str(file), "--out", str(out)], out, file.parent)
    try:
        rows = out / "round-1" / "cells" / f"c03-{USERS}users-1" / "requests.csv"
        kit.wait_until(lambda: rows.is_file() and rows.read_bytes().count(b"\n") > 1, "requests to c03")
        kit.interrupt()
        ended = kit.wait()
        assert_nothing_left(kit.mark)
        return ended
    finally:
        stop(kit)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """Return a search that no other work on the machine disturbed, the third one in any case."""
    for _ in range(2):
        found = run_search(tmp_path_factory.mktemp("tuned"))
        if len(found.result()["rounds"]) == 2 and not any(found.candidate(name)["reasons"] for name in ("c01", "c03")):
            return found
    return run_search(tmp_path_factory.mktemp("tuned"))


def run_search(folder: Path) -> Tuned:
    file, out, written = write_search(folder), folder / "out", folder / "deploy.yaml"
    first = RunFolder(out / "round-1").cell_path(Cell(target="c01", users=USERS, repetition=1)) / "cell.json"
    interrupted = interrupt_in_third_cell(file, out)
    times = {first.stat().st_mtime_ns}
    refused = run_tune(file, out, "--users", str(USERS + 1))
    resumed = run_tune(file, out, "--write", str(written))
    times.add(first.stat().st_mtime_ns)
    again = run_tune(file, out, "--json")
    return Tuned(interrupted, resumed, again, refused, times, written)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tuned: Tuned) -> None:
    assert tuned.interrupted.exit_code == 128 + signal.SIGINT, tuned.interrupted.output
    assert "run the same command again" in tuned.interrupted.stderr
    assert "Traceback" not in tuned.interrupted.output


def test_what_was_measured_is_not_measured_again(tuned: Tuned) -> None:
    assert len(tuned.first_cell_written) == 1
    record = RunFolder(tuned.folder / "round-1").read_record()
    assert len(record.sessions) == 2


def test_another_search_in_the_same_folder_is_refused(tuned: Tuned) -> None:
    assert tuned.refused.exit_code == 2
    assert "differing: users" in tuned.refused.stderr
    assert "--out" in tuned.refused.stderr


def test_the_settings_that_serve_twice_as_much_win(tuned: Tuned) -> None:
    assert tuned.resumed.exit_code == 0, tuned.resumed.output
    assert tuned.result()["status"] == "winner found"
    assert tuned.result()["winner"] == "c03"
    assert tuned.candidate("c03")["knobs"] == {"workers": 2, "rate": RATE}
    assert tuned.candidate("c03")["rps"] == pytest.approx(2 * RATE, rel=0.25)
    assert tuned.candidate("c01")["rps"] == pytest.approx(RATE, rel=0.25)
    assert "Run workers=2 rate=50: throughput" in tuned.result()["recommendation"]
    assert [verdict["outcome"] for verdict in tuned.result()["verdicts"]] == ["winner"]


def test_what_does_not_start_is_told_and_the_rest_goes_on(tuned: Tuned) -> None:
    for name in ("c02", "c04"):
        assert tuned.candidate(name)["state"] == "invalid"
        assert "rate_per_worker must be above 0" in " ".join(tuned.candidate(name)["reasons"])
        assert f"INVALID {name}" in tuned.resumed.stdout


def test_the_estimate_and_what_was_excluded_are_told(tuned: Tuned) -> None:
    assert "4 of 4 candidates" in tuned.interrupted.stderr
    assert f"of {MINUTES} minutes" in tuned.interrupted.stderr
    assert "excluded by `workers <= 2`: 2 combination(s)" in tuned.resumed.stdout


def test_the_winners_yaml_is_the_base_with_its_values(tuned: Tuned) -> None:
    text = tuned.written.read_text()
    assert text == (tuned.folder / "winner.yaml").read_text()
    assert yaml.safe_load(text) == {"service": {"workers": 2, "rate_per_worker": RATE}}
    assert "  # Requests a second of each.\n" in text
    assert "# Values: workers=2 rate=50" in text
    assert "requests/s" in text
    assert str(tuned.folder) not in text


def test_a_search_that_is_over_is_told_again_without_measuring(tuned: Tuned) -> None:
    assert tuned.again.exit_code == 0
    assert json.loads(tuned.again.stdout) == tuned.result()
    assert "loading" not in tuned.again.stderr


def test_the_folders_of_rounds_are_ordinary_runs(tuned: Tuned) -> None:
    final = RunFolder(tuned.folder / "round-2")
    assert sorted(target.name for target in final.read_plan().targets) == ["c01", "c03"]
    assert [one["candidates"] for one in tuned.result()["rounds"]] == [["c01", "c02", "c03", "c04"], ["c03", "c01"]]
