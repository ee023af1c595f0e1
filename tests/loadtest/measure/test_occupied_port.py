"""A port that another program uses: every command that starts a target stops at once, in one line with the remedy."""

import re
from pathlib import Path

import pytest
import yaml

from tests.kit import RUN_S, known_target, run_command, running_known_target, workload, write_plan
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

COMMANDS = {
    "run": [],
    "capacity": ["--target", "second", "--slo", "fixed.p95_ms<=1000"],
    "overload": ["--target", "second", "--heavy", "fixed", "--light", "serial", "--capacity", "10"],
    "faults": [],
}


def write_fault_plan(path: Path, port: int) -> Path:
    group = {
        "name": "known",
        "target": known_target("second", port),
        "faults": [{"name": "nothing", "command": "true"}, {"name": "nothing_else", "command": "true"}],
    }
    roles = {"roles": [{"name": "server", "command": "known_target"}], "steady_roles": ["server"]}
    plan = {"title": "t", "users": 1, "spawn_rate_per_s": 1, "workload": workload("fixed", wait_s=[1, 1]), **roles}
    path.write_text(yaml.safe_dump({**plan, "groups": [group]}))
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_foreign_program_on_the_port_stops_the_command_before_anything_is_started(
    command: str, tmp_path: Path
) -> None:
    """The port of the second target: the first one is not measured either."""
    port, path = free_port(), tmp_path / "plan.yaml"
    if command == "faults":
        write_fault_plan(path, port)
    else:
        targets = [known_target("first", free_port()), known_target("second", port)]
        write_plan(path, targets, workload=workload("fixed", "serial", wait_s=[1, 1]))
    with running_known_target(port):
        ended = run_command([command, path, "--out", tmp_path / "out", *COMMANDS[command]], tmp_path / "out", tmp_path)
    assert ended.exit_code == 2, ended.output
    told = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.stderr.splitlines()[-1:] == told
    assert re.fullmatch(
        rf"error: port {port} of 127.0.0.1 is already in use by python\S* -m tests.known_target --port {port} "
        r"\(process \d+\): stop it, or give the target second another url",
        told[0],
    ), told
    assert not [*(tmp_path / "out").rglob("*.log")]
