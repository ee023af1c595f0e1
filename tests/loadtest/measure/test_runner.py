"""What a run compares with its folder before it measures anything."""

import json
from pathlib import Path

import pytest

from loadtest.errors import BadInputError
from loadtest.measure.runner import run_plan
from loadtest.rows.run_folder import RunFolder
from tests.made_run import made_plan


def begin_or_resume(folder: RunFolder, locustfile: Path) -> None:
    """Do all of a run but its cells."""
    plan = made_plan(targets=[{"name": "running", "url": "http://127.0.0.1:1"}], baseline=None)
    plan = plan.model_copy(update={"workload": plan.workload.model_copy(update={"locustfile": locustfile})})
    run_plan(plan, locustfile.with_suffix(".yaml"), folder, may_begin=lambda _: False)


def test_a_run_is_resumed_with_the_locustfile_that_it_began_with_and_with_no_other(tmp_path: Path) -> None:
    folder, locustfile = RunFolder(tmp_path / "run"), tmp_path / "mine.py"
    locustfile.write_text("first = 1")
    begin_or_resume(folder, locustfile)
    begin_or_resume(folder, locustfile)
    locustfile.write_text("second = 2")
    with pytest.raises(BadInputError, match=r"^workload\.locustfile: .*mine\.py has changed .* --out, or restore"):
        begin_or_resume(folder, locustfile)
    locustfile.unlink()
    with pytest.raises(BadInputError, match=r"^workload\.locustfile: .*mine\.py cannot be read: No such file"):
        begin_or_resume(folder, locustfile)
    locustfile.write_text("first = 1")
    begin_or_resume(folder, locustfile)
    assert len(folder.read_record().sessions) == 3


def test_a_run_of_an_older_kit_is_resumed_whatever_became_of_its_locustfile(tmp_path: Path) -> None:
    folder, locustfile = RunFolder(tmp_path / "run"), tmp_path / "mine.py"
    locustfile.write_text("first = 1")
    begin_or_resume(folder, locustfile)
    record = json.loads(folder.record_path.read_text())
    del record["locustfile_sha256"]
    folder.record_path.write_text(json.dumps(record))
    locustfile.unlink()
    begin_or_resume(folder, locustfile)
    assert len(folder.read_record().sessions) == 2
