"""Folders that the kit of 0.1.0 began are gone on with and reported by this one."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import RUN_S, Ended, ask, assert_nothing_left, known_target, run_command, started, workload, write_plan
from tests.known_target import FileGate
from tests.loadtest.faults.test_faults_run import load
from tests.loadtest.tune.test_tune_run import write_search
from tests.ports import free_port
from tests.version_0_1_0 import unpack_version_0_1_0

pytestmark = pytest.mark.timeout(3 * RUN_S)


@dataclass(frozen=True)
class Begun:
    """A command that is to be interrupted once `is_begun`, and what it has measured by then."""

    command: list[object]
    is_begun: Callable[[], bool]
    measured: str
    """Pattern of the files whose rows must stay as they are."""
    report: list[object]
    """The command that makes the report again."""


def held(folder: Path) -> str:
    """Return options of a known target that holds its first requests until the test lets them go."""
    return f"--hold-at 1 --gate {shlex.quote(str(folder))}/gate"


def begin_run(folder: Path, out: Path) -> Begun:
    targets = [known_target("first", free_port()), known_target("second", free_port(), held(folder))]
    plan = write_plan(folder / "plan.yaml", targets, warmup={"duration_s": 0}, repetitions=1)
    is_held = FileGate(folder / "gate").reached.is_file
    return Begun(["run", plan, "--out", out], is_held, "cells/first-*/requests.csv", ["report", out])


def begin_capacity(folder: Path, out: Path) -> Begun:
    target = known_target("crowded", free_port(), "--delay-ms 5 --crowd 4 --slow-ms 300")
    work = workload("fixed", wait_s=[0.2, 0.2])
    plan = write_plan(folder / "plan.yaml", [target], users=[4], settle_s=0.2, warmup={"duration_s": 0}, workload=work)
    command = ["capacity", plan, "--slo", "fixed.median_ms<=150", "--out", out, "--window", "1.6", "--confirm", "1.6"]
    command += ["--resolution", "100"]
    first = "steps/001/cells/*/requests.csv"
    return Begun(command, lambda: has_steps(out / "capacity.json"), first, [*command, "--json"])


def has_steps(record: Path) -> bool:
    return record.is_file() and bool(json.loads(record.read_text())["steps"])


def begin_overload(folder: Path, out: Path) -> Begun:
    target = known_target("bounded", free_port(), "--serial-rate 40 --delay-ms 5 --most-wait-s 0.5")
    work = workload("serial", "fixed", wait_s=[0, 0])
    roles = [{"name": "known", "command": "tests.known_target"}]
    plan = write_plan(folder / "plan.yaml", [target], workload=work, roles=roles)
    command = ["overload", plan, "--out", out, "--heavy", "serial", "--light", "fixed", "--times", "1,2"]
    command += ["--seconds", "2", "--idle-s", "3", "--tail-s", "1", "--saturating-s", "5"]
    is_begun = (out / "levels/1x/level.json").is_file
    return Begun(command, is_begun, "levels/1x/requests.csv", [*command, "--json"])


def begin_faults(folder: Path, out: Path) -> Begun:
    def group(name: str, options: str) -> dict[str, Any]:
        target = known_target(name, free_port(), f"--workers 2 {options}")
        return {"name": name, "target": target, "faults": [{"name": f"{name}_fault", "command": "true"}]}

    plan = folder / "faults.yaml"
    groups = [group("first", ""), group("second", held(folder))]
    plan.write_text(yaml.safe_dump(load(before_s=1, after_s=1, groups=groups)))
    command: list[object] = ["faults", plan, "--out", out]
    is_held = FileGate(folder / "gate").reached.is_file
    return Begun(command, is_held, "faults/first_fault/requests.csv", [*command, "--report"])


def begin_soak(folder: Path, out: Path) -> Begun:
    plan, target = folder / "soak.yaml", known_target("known", free_port(), f"--workers 2 {held(folder)}")
    keys = {"minutes": 0.1, "every_s": 2, "warmup_s": 1, "faults": [{"name": "command", "command": "true"}]}
    plan.write_text(yaml.safe_dump(load(target=target, **keys)))
    command: list[object] = ["soak", "--plan", plan, "--out", out]
    return Begun(command, FileGate(folder / "gate").reached.is_file, "plan.json", [*command, "--report"])


def begin_tune(folder: Path, out: Path) -> Begun:
    file = write_search(folder)
    first = "round-1/cells/c01-*/cell.json"
    command: list[object] = ["tune", file, "--out", out]
    return Begun(command, lambda: any(out.glob(first)), "round-1/cells/c01-*/requests.csv", [*command, "--json"])


BEGIN = {
    "run": begin_run,
    "capacity": begin_capacity,
    "overload": begin_overload,
    "faults": begin_faults,
    "soak": begin_soak,
    "tune": begin_tune,
}


def rows_of(begun: Begun, out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.glob(begun.measured)}


@pytest.mark.long
@pytest.mark.parametrize("kind", BEGIN)
def test_a_folder_that_0_1_0_began_is_gone_on_with_and_reported(kind: str, version_0_1_0: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun = BEGIN[kind](tmp_path, out)
    with started(begun.command, out, tmp_path, code=version_0_1_0) as kit:
        kit.wait_until(begun.is_begun, "what is measured first")
        kit.interrupt()
        FileGate(tmp_path / "gate").open()  # the signal is there already; Locust would wait for its answers
        interrupted = kit.wait()
        assert_nothing_left(kit.mark)
    assert interrupted.exit_code == 130, interrupted.output
    before = rows_of(begun, out)
    assert before
    ended = run_command(begun.command, out, tmp_path)
    assert_told(ended)
    assert rows_of(begun, out) == before
    again = ask(*begun.report)
    assert_told(again)
    assert again.exit_code == ended.exit_code


def assert_told(ended: Ended) -> None:
    """Fail unless a command could use the folder: what a target of these tests was worth does not matter."""
    assert ended.exit_code in {0, 1}, ended.output
    assert ended.stdout, ended.output
    assert "error:" not in ended.stderr


def test_a_copy_without_history_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="git fetch --unshallow"):
        unpack_version_0_1_0(tmp_path / "code", repository=tmp_path)
