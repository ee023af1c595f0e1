"""What a failed test says to look at is there, whoever started what wrote it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.failures import FOLDER
from tests.service import ROOT

TEST = """
import pytest
from tests.failures import keep_on_failure

@pytest.fixture
def server(tmp_path):
    (tmp_path / "fixture.log").write_text("of the fixture")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "gone.log").symlink_to("nowhere")
    with keep_on_failure("server", lambda: [tmp_path / "gone.log", tmp_path / "fixture.log", tmp_path / "folder"]):
        yield

def test_fails(server, tmp_path):
    log = tmp_path / "own.log"
    log.write_text("of the test")
    with pytest.raises(ZeroDivisionError), keep_on_failure("own", lambda: [log]):
        assert 1 / 0
    log.unlink()
    assert False

def test_passes(server):
    pass
"""


def test_the_logs_of_what_fixtures_and_the_test_itself_started_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "test_of_failures.py"
    file.write_text(TEST)
    options = ["-p", "tests.failures", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "--config-file=/dev/null"]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in ended.stdout, ended.stdout + ended.stderr
    kept = [Path(line) for line in re.findall(r"^/.+(?:own|\.log)$", ended.stdout, re.MULTILINE)]
    texts = {path.read_text() for each in kept for path in ([each] if each.is_file() else each.rglob("*.log"))}
    assert texts == {"of the fixture", "of the test"}
    shutil.rmtree(FOLDER / f"{file.name}_test_fails")
