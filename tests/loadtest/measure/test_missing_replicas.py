"""A target that runs fewer replicas than the plan asks for is not loaded, whatever the command."""

from pathlib import Path

import pytest
import yaml

from tests.kit import RUN_S, known_target, run_command, workload, write_plan
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

MISSING = "1 processes of the role replica run, the plan asks for 2; see replicas and roles in the plan"


def write_input(command: str, path: Path) -> Path:
    """Write what a command measures: a target with one of two replicas."""
    asked = {"role": "replica", "count": 2, "wait_s": 0}
    target = known_target("short", free_port(), "--workers 1", replicas=asked)
    roles = {"roles": [{"name": "replica", "command": "--replica"}]}
    if command == "overload":
        return write_plan(path, [target], workload=workload("fixed", "serial", wait_s=[1, 1]), **roles)
    setting = {"target": target, "faults": [{"name": "nothing", "command": "true"}]}
    plan = {"groups": [{"name": "known", **setting}]} if command == "faults" else setting
    load = {"title": "t", "users": 1, "spawn_rate_per_s": 1, "workload": workload("fixed", wait_s=[1, 1])}
    path.write_text(yaml.safe_dump({**load, **roles, **plan}))
    return path


@pytest.mark.parametrize(
    ("command", "options"),
    [("overload", ["--heavy", "serial", "--light", "fixed", "--capacity", 10]), ("faults", []), ("soak", ["--plan"])],
)
def test_a_missing_replica_ends_each_command_before_it_sends_anything(
    command: str, options: list[object], tmp_path: Path
) -> None:
    plan, out = write_input(command, tmp_path / "plan.yaml"), tmp_path / "out"
    ended = run_command([command, *options, plan, "--out", out], out, tmp_path)
    assert ended.exit_code == 1
    assert MISSING in ended.output
    assert list(out.rglob("*.csv")) == []
