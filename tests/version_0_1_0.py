"""The code of version 0.1.0, out of the git history: what it left behind must be of use to this version.

Registered as a pytest plugin by conftest.
"""

import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMIT = "78f519b6b5e1200a03acd77e5671dc5ddfa02101"
RUN_S = 600


def unpack_version_0_1_0(folder: Path, repository: Path = ROOT) -> Path:
    """Write the code of 0.1.0 into the new folder `folder` and return it.

    Raises AssertionError when `repository` lacks the commit: without it nothing is tested.
    """
    try:
        done = subprocess.run(["git", "archive", COMMIT], cwd=repository, capture_output=True, check=False)
        archive, fault = (done.stdout, "") if done.returncode == 0 else (b"", done.stderr.decode())
    except FileNotFoundError as exc:
        archive, fault = b"", str(exc)
    assert archive, (
        f"the code of 0.1.0, commit {COMMIT[:7]}, is not in the git history of {repository}: these tests need a clone "
        f"with its whole history (git fetch --unshallow)\n{fault}"
    )
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    assert 'version = "0.1.0"' in (folder / "pyproject.toml").read_text()
    return folder


def run_with_version_0_1_0(code: Path, script: Path, *arguments: str) -> str:
    """Run a script with the modules of 0.1.0, among them its tests, and return what it prints.

    Raises AssertionError when it ends in another way than by SIGKILL, which is how its replicas die.
    """
    done = subprocess.run(
        [sys.executable, "-P", str(script), *arguments],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code)},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == -9, f"ended with code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def version_0_1_0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of its code."""
    return unpack_version_0_1_0(tmp_path_factory.mktemp("version") / "0.1.0")
