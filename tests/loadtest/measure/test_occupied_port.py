"""A port that another program uses: every command that starts a target stops at once, in one line with the remedy."""

import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.kit import RUN_S, ask, known_target, running_known_target, workload, write_plan
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

COMMANDS = {
    "run": [],
    "capacity": ["--target", "second", "--slo", "fixed.p95_ms<=1000"],
    "overload": ["--target", "second", "--heavy", "fixed", "--light", "serial", "--capacity", "10"],
    "faults": [],
    "soak": [],
    "tune": [],
}
"""Each command that starts a target, with its options."""


def write_input(command: str, folder: Path, port: int) -> Path:
    """Write what a command measures: one target whose port is taken, where it can have two the second one."""
    path, second = folder / "plan.yaml", known_target("second", port)
    both = [known_target("first", free_port()), second]
    match command:
        case "faults" | "soak":
            faults = {"faults": [{"name": "nothing", "command": "true"}, {"name": "nothing_else", "command": "true"}]}
            roles = {"roles": [{"name": "server", "command": "known_target"}], "steady_roles": ["server"]}
            load = {"title": "t", "users": 1, "spawn_rate_per_s": 1, "workload": workload("fixed", wait_s=[1, 1])}
            struck = {"target": second, **faults}
            plan = {"groups": [{"name": "known", **struck}]} if command == "faults" else struck
            path.write_text(yaml.safe_dump({**load, **roles, **plan}))
        case "tune":
            base = folder / "service.yaml"
            base.write_text("workers: 1\n")
            target = known_target("second", port, f"--config {base}", files=[str(base)])
            given = {"plan": str(write_plan(folder / "base.yaml", [target])), "base": str(base)}
            varied = {"vary": [{"name": "workers", "path": "workers", "values": [1, 2]}]}
            path.write_text(yaml.safe_dump({**given, **varied, "users": 1, "objective": "maximise rps", "minutes": 9}))
        case _:
            write_plan(path, both, workload=workload("fixed", "serial", wait_s=[1, 1]))
    return path


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port on which a foreign program listens. It may be a child of this process: the kit asks only who listens."""
    port = free_port()
    with running_known_target(port):
        yield port


@pytest.mark.parametrize("command", COMMANDS)
def test_a_foreign_program_on_the_port_stops_the_command_before_anything_is_started(
    command: str, port: int, tmp_path: Path
) -> None:
    """The port of the second target: the first one is not measured either."""
    given: list[object] = ["--plan"] if command == "soak" else []
    given += [write_input(command, tmp_path, port), "--out", tmp_path / "out", *COMMANDS[command]]
    before = {*children()}
    ended = ask(command, *given)
    assert not {*children()} - before
    assert ended.exit_code == 2, ended.output
    told = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.stderr.splitlines()[-1:] == told
    assert re.fullmatch(
        rf"error: port {port} of 127.0.0.1 is already in use by python\S* -m tests.known_target --port {port} "
        rf"\(process \d+\): stop it, or give the target {'c01' if command == 'tune' else 'second'} another url",
        told[0],
    ), told
    assert not [*(tmp_path / "out").rglob("*.log")]
