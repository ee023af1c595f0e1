"""What a run compares with its folder before it measures anything."""

from pathlib import Path

import pytest

from loadtest.errors import BadInputError
from loadtest.measure.runner import run_plan
from loadtest.rows.run_folder import RunFolder
from tests.made_run import made_plan


def begin_or_resume(folder: RunFolder, locustfile: Path, *files: Path) -> None:
    """Do all of a run but its cells."""
    target = {"name": "running", "url": "http://127.0.0.1:1", "files": files}
    plan = made_plan(targets=[target], baseline=None)
    plan = plan.model_copy(update={"workload": plan.workload.model_copy(update={"locustfile": locustfile})})
    run_plan(plan, locustfile.with_suffix(".yaml"), folder, may_begin=lambda _: False)


def test_a_run_is_resumed_with_the_locustfile_that_it_began_with_and_with_no_other(tmp_path: Path) -> None:
    folder, locustfile = RunFolder(tmp_path / "run"), tmp_path / "mine.py"
    locustfile.write_text("first = 1")
    begin_or_resume(folder, locustfile)
    begin_or_resume(folder, locustfile)
    locustfile.write_text("second = 2")
    with pytest.raises(BadInputError, match=r": workload\.locustfile: .*mine\.py has changed .* --out, or restore"):
        begin_or_resume(folder, locustfile)
    locustfile.unlink()
    with pytest.raises(BadInputError, match=r": workload\.locustfile: .*mine\.py cannot be read: No such file"):
        begin_or_resume(folder, locustfile)
    locustfile.write_text("first = 1")
    begin_or_resume(folder, locustfile)
    assert len(folder.read_record().sessions) == 3


def test_a_run_is_resumed_with_the_files_of_its_targets_and_with_no_others(tmp_path: Path) -> None:
    folder, locustfile, config = RunFolder(tmp_path / "run"), tmp_path / "mine.py", tmp_path / "served.yaml"
    locustfile.touch()
    config.write_text("threads: 1")
    begin_or_resume(folder, locustfile, config)
    config.write_text("threads: 2")
    with pytest.raises(
        BadInputError, match=r": targets\.running\.files: .*served\.yaml has changed .* --out, or restore"
    ):
        begin_or_resume(folder, locustfile, config)
    config.unlink()
    with pytest.raises(BadInputError, match=r": targets\.running\.files: .*served\.yaml cannot be read: No such file"):
        begin_or_resume(folder, locustfile, config)
    config.write_text("threads: 1")
    begin_or_resume(folder, locustfile, config)
    assert len(folder.read_record().sessions) == 2


def test_a_run_of_an_older_kit_is_resumed_whatever_became_of_its_files(tmp_path: Path) -> None:
    folder, locustfile = RunFolder(tmp_path / "run"), tmp_path / "mine.py"
    config = tmp_path / "served.yaml"
    locustfile.touch()
    config.touch()
    begin_or_resume(folder, locustfile, config)
    (folder.path / "files.json").unlink()
    locustfile.unlink()
    config.unlink()
    begin_or_resume(folder, locustfile, config)
    assert len(folder.read_record().sessions) == 2
