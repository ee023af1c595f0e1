"""What the kit makes of recorded folders stays the same to the byte: the files, the standard output, the exit code.

A report that is meant to change: see tests/recorded/README.md.
"""

import json
import re
from pathlib import Path

import pytest

from loadtest.capacity.bisection import Step
from loadtest.capacity.judgement import judge
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
from tests.recorded.kinds import KINDS, OPEN_LOOP, PRINTED, RECORDED, lay_out, make, printed, read_files

MOST_BYTES, MOST_BYTES_OF_A_FILE = 5_000_000, 1_000_000
NEUTRAL = {"/srv/checkout", "/home/tester"}


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_made_of_recorded_data_is_made_again_byte_for_byte(kind: str, tmp_path: Path) -> None:
    workspace = tmp_path / "elsewhere" / kind
    lay_out(kind, workspace)
    recorded, raw = read_files(RECORDED / kind), read_files(workspace)
    assert {f"{PRINTED}/{name}.txt" for name in KINDS[kind].commands} <= recorded.keys() - raw.keys()
    for pattern in KINDS[kind].made:
        assert [name for name in recorded.keys() - raw.keys() if Path(name).match(pattern)], pattern
    make(kind, workspace)
    now = read_files(workspace)
    assert sorted(now) == sorted(recorded)
    for name, data in recorded.items():
        # As text where it is one, so that a failure shows the line.
        assert now[name].decode().splitlines() == data.decode().splitlines(), name
        assert now[name] == data, name


def test_every_kind_of_folder_is_recorded() -> None:
    assert {path.name for path in RECORDED.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(KINDS)


def test_a_finished_run_is_taken_up_again_with_nothing_left_to_measure(tmp_path: Path) -> None:
    workspace = tmp_path / "open_loop"
    lay_out("open_loop", workspace)
    before = read_files(workspace)
    told = printed(OPEN_LOOP, workspace)
    recorded = (RECORDED / "open_loop" / PRINTED / "report.txt").read_text(encoding="utf-8")
    assert told.splitlines()[1:] == recorded.splitlines()[1:]
    now = read_files(workspace)
    assert {name for name, data in before.items() if now[name] != data} == {"run/run.json"}
    plots = {path.name: path.read_bytes() for path in (RECORDED / "open_loop/run/plots").iterdir()}
    assert {path.name: path.read_bytes() for path in (workspace / "run/plots").iterdir()} == plots


@pytest.mark.parametrize("search", ["users", "rate", "none"])
def test_each_recorded_step_of_a_capacity_search_is_judged_as_it_was(search: str) -> None:
    folder = RECORDED / "capacity" / search
    steps = [Step.model_validate(step) for step in json.loads((folder / "capacity.json").read_text())["steps"]]
    assert len(steps) == len([*(folder / "steps").iterdir()]) > 0
    for step in steps:
        run = RunFolder(folder / step.folder)
        (cell,) = summarize(run).cells
        assert judge(cell, run.read_plan()) == (step.outcome, step.unsure, step.because)
        assert cell.limits == step.limits


def test_the_recorded_capacity_searches_hold_steps_of_every_kind() -> None:
    records = [json.loads(path.read_text()) for path in RECORDED.glob("capacity/*/capacity.json")]
    steps = [step for record in records for step in record["steps"]]
    assert {step["outcome"] for step in steps} == {"held", "failed", "invalid"}
    assert {step["purpose"] for step in steps} == {"search", "recheck", "confirm"}
    assert {record["result"]["status"] for record in records} == {"confirmed", "none_holds"}


def test_the_recorded_faults_ended_in_every_way() -> None:
    faults = json.loads((RECORDED / "faults/faults/faults.json").read_text())["faults"]
    assert {fault["status"] for fault in faults} == {"finished", "failed", "skipped"}
    finished = [fault for fault in faults if fault["status"] == "finished"]
    assert {fault["recovered_after_s"] is None for fault in finished} == {True, False}
    assert {bool(fault["missed"]) for fault in finished} == {True, False}


def test_recorded_files_are_small_and_name_no_machine() -> None:
    files = {f"{kind}/{name}": data for kind in KINDS for name, data in read_files(RECORDED / kind).items()}
    assert sum(map(len, files.values())) <= MOST_BYTES
    assert [name for name, data in files.items() if len(data) >= MOST_BYTES_OF_A_FILE] == []
    for name, data in files.items():
        places = re.findall(r"(?<![\w.…])/(?:home|root|tmp|work|srv|usr|opt|var|Users)/[\w.-]+", data.decode())
        assert {place for place in places if place not in NEUTRAL} == set(), name
