"""The tests of a group stay in one process, also with the newest pytest."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.groups import ANOTHER_ENGINE, POSTGRES, RAY, group_of

ROOT = Path(__file__).parents[1]
RUN_S = 120


def test_the_groups_are_those_of_the_files() -> None:
    assert group_of("tests/serve_app/running/test_serve.py::test_x[a/b::c]") == RAY
    assert group_of("tests/serve_app/open_inference/test_grpc_service.py::test_x") == ANOTHER_ENGINE
    assert group_of("tests/serve_app/users/test_users.py::test_x") == POSTGRES
    assert group_of("tests/loadtest/plan/test_plan.py::test_x") == "tests/loadtest/plan/test_plan.py"


def test_the_tests_of_a_file_stay_in_one_process(tmp_path: Path) -> None:
    program = "import pytest\n\n@pytest.mark.parametrize('number', range(9))\ndef test_nothing(number): pass\n"
    for name in ("test_a.py", "test_b.py", "test_c.py"):
        (tmp_path / name).write_text(program)
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "tests.groups", "--numprocesses=2", "--verbose"]
    ended = subprocess.run(
        [*command, f"--rootdir={tmp_path}", "--config-file=/dev/null", tmp_path],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    passed = re.findall(r"^\[(gw\d)\].* PASSED (test_\w\.py)::", ended.stdout, re.MULTILINE)
    assert len(passed) == 27
    assert len(set(passed)) == 3
    assert len({process for process, _ in passed}) == 2
