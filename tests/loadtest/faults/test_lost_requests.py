"""Requests of a fault run or a soak that have no row, in recorded folders whose records are changed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from loadtest.faults.figures import read_faults
from loadtest.faults.folder import FaultFolder
from loadtest.faults.soak import read_soak
from tests.recorded.kinds import RECORDED

DRAIN_S = 120
LOST: list[tuple[dict[str, Any], str]] = [
    (
        {"drained_s": DRAIN_S + 0.2},
        "answers were still due 120.2 s after the sending ended; those requests have no row: ",
    ),
    ({"arrivals": {"due": 500, "queued": 60, "unsent": 1}}, "1 of 500 arrivals were never sent, because all "),
]
NONE_LOST = {"drained_s": 0.5, "arrivals": {"due": 500, "queued": 60, "unsent": 0}}


def changed_folder(kind: str, load: str, folder: Path, changes: dict[str, Any]) -> FaultFolder:
    """Copy the recorded folder of a kind with `changes` in the record of one load."""
    shutil.copytree(RECORDED / kind / kind, folder)
    path = FaultFolder(folder).stretch_path(load) / "stretch.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return FaultFolder(folder)


@pytest.mark.parametrize(("changes", "words"), LOST)
def test_a_fault_whose_load_lost_requests_missed_its_limits(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    def missed(folder: Path, changes: dict[str, Any]) -> list[str]:
        figures = read_faults(changed_folder("faults", "freeze", folder, changes))
        (fault,) = [fault for fault in figures.faults if fault.name == "freeze"]
        return fault.missed

    assert missed(tmp_path / "before", NONE_LOST) == []
    (told,) = missed(tmp_path / "after", changes)
    assert words in told


@pytest.mark.parametrize(("changes", "words"), LOST)
def test_a_soak_that_lost_requests_does_not_hold(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert read_soak(changed_folder("soak", "soak", tmp_path / "before", NONE_LOST)).all_hold
    figures = read_soak(changed_folder("soak", "soak", tmp_path / "after", changes))
    assert not figures.all_hold
    (told,) = figures.missed
    assert words in told
