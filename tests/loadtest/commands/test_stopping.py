"""What the kit says when Ctrl-C comes: whether the same command resumes, and no traceback."""

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import RUN_S, known_target, started, workload
from tests.ports import free_port

pytestmark = pytest.mark.timeout(2 * RUN_S)


def write_fault_plan(path: Path, **keys: Any) -> None:
    work = workload("fixed", wait_s=[0.05, 0.15])
    roles = [{"name": "server", "command": "tests.known_target"}]
    path.write_text(
        yaml.safe_dump({"title": "Known", "users": 2, "spawn_rate_per_s": 9, "workload": work, "roles": roles, **keys})
    )


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["soak", "--plan", "soak.yaml"], "stopped; the same command starts anew"),
        (["faults", "faults.yaml", "--only", "nothing"], "stopped; the same command starts anew"),
        (["faults", "faults.yaml"], "stopped; run the same command again to resume"),
    ],
    ids=" ".join,
)
def test_a_stopped_command_says_whether_it_resumes(command: list[str], told: str, tmp_path: Path) -> None:
    setting = {"target": known_target("known", free_port()), "faults": [{"name": "nothing", "command": "true"}]}
    write_fault_plan(tmp_path / "soak.yaml", minutes=60, every_s=600, **setting)
    write_fault_plan(tmp_path / "faults.yaml", before_s=3600, after_s=1, groups=[{"name": "all", **setting}])
    words = [str(tmp_path / word) if word.endswith(".yaml") else word for word in command]
    folder = tmp_path / "run"
    with started([*words, "--out", folder], folder, tmp_path) as kit:
        kit.wait_until((folder / "plan.json").is_file, "the plan")
        kit.interrupt()
        ended = kit.wait()
    assert ended.exit_code == 128 + signal.SIGINT, ended.output
    assert ended.stderr.splitlines()[-1] == told
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("command", ["report run", "compare run other", "audit run/plan.json"])
def test_ctrl_c_where_nothing_is_measured_is_told_in_one_line(command: str, tmp_path: Path) -> None:
    folder, pipe = tmp_path / "run", tmp_path / "run" / "plan.json"
    folder.mkdir()
    os.mkfifo(pipe)  # as a file that takes long to read
    name, *paths = command.split()
    ends: list[int] = []
    with started([name, *(tmp_path / path for path in paths)], folder, tmp_path) as kit:
        kit.wait_until(lambda: is_read(pipe, ends), "its input is read")
        kit.interrupt()
        ended = kit.wait()
    for end in ends:
        os.close(end)
    assert (ended.exit_code, ended.stderr) == (128 + signal.SIGINT, "stopped by Ctrl-C\n")


def is_read(pipe: Path, ends: list[int]) -> bool:
    """Return whether somebody reads a pipe; if so, add an open end of it to `ends`, so that the reader waits."""
    with suppress(OSError):
        ends.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    return bool(ends)
