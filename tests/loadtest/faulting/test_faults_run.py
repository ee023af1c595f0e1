"""`python -m loadtest faults` and `soak` against a target with known answers: what is struck, counted and said."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit import Ended, Kit, assert_nothing_left, known_target, workload
from tests.ports import free_port

pytestmark = pytest.mark.long

FREEZE_S = 1.5


def target(port: int) -> dict[str, Any]:
    return known_target("known", port, "--workers 2")


def load(**keys: Any) -> dict[str, Any]:
    return {
        "title": "Known faults",
        "users": 5,
        "spawn_rate_per_s": 100,
        "settle_s": 0.5,
        "drain_s": 5,
        "workload": workload("fixed", wait_s=[0.05, 0.15]),
        "roles": [
            {"name": "worker", "command": "--replica"},
            {"name": "server", "command": "tests.known_target"},
        ],
        "steady_roles": ["worker"],
        **keys,
    }


def run(command: list[str], folder: Path, printed: Path) -> Ended:
    kit = Kit(command, folder, printed)
    ended = kit.wait()
    assert_nothing_left(kit.mark)
    return ended


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A freeze, a command that fails and a kill with a command afterwards, each under its own load."""
    folder = tmp_path_factory.mktemp("faults")
    plan = folder / "faults.yaml"
    faults = [
        {"name": "freeze", "freeze": {"role": "server", "for_s": FREEZE_S}},
        {"name": "broken", "command": "false", "before_s": 0, "after_s": 0.5},
        {
            "name": "kill",
            "kill": {"role": "worker"},
            "undo": f"touch {folder}/undone",
            "hold_s": 0.3,
            "before_s": 0.5,
            "after_s": 2,
            "recover_within_s": 2,
        },
    ]
    setting = {"name": "known", "target": target(free_port()), "faults": faults}
    elsewhere = {**setting, "name": "elsewhere", "faults": [{"name": "nothing", "command": "true"}]}
    elsewhere["services"] = [{"name": "the impossible", "start": "false", "stop": "true"}]
    plan.write_text(yaml.safe_dump(load(before_s=1.5, after_s=8, groups=[setting, elsewhere])))
    return run(["faults", str(plan), "--out", str(folder / "run")], folder / "run", folder)


def fault(ran: Ended, name: str) -> dict[str, Any]:
    figures = json.loads((ran.folder.path / "faults.json").read_text())
    (found,) = [fault for fault in figures["faults"] if fault["name"] == name]
    assert isinstance(found, dict)
    return found


def test_a_freeze_is_as_long_as_the_longest_latency_and_the_recovery(ran: Ended) -> None:
    found = fault(ran, "freeze")
    (fixed,) = found["endpoints"]
    assert fixed["failed"] == 0
    assert 1000 * (FREEZE_S - 0.3) < fixed["longest_ms"] < 1000 * (FREEZE_S + 1)
    assert FREEZE_S - 0.1 < found["lasted_s"] < FREEZE_S + 0.7
    assert FREEZE_S - 0.3 < found["recovered_after_s"] < FREEZE_S + 1.5
    assert found["seen"] == ["what was struck lived on"]
    assert found["missed"] == []


def test_a_killed_process_that_does_not_come_back_is_not_recovered(ran: Ended) -> None:
    found = fault(ran, "kill")
    assert found["recovered_after_s"] is None
    assert found["missed"] == ["not recovered within 2 s"]
    assert "worker: 2 before, 1 at the end" in found["seen"]
    assert "(struck)" in found["seen"][0]


def test_what_was_broken_is_undone(ran: Ended) -> None:
    assert "touch" in fault(ran, "kill")["struck"][1]
    assert (ran.folder.path.parent / "undone").is_file()


def test_a_fault_that_could_not_be_carried_out_says_why(ran: Ended) -> None:
    assert fault(ran, "broken")["status"] == "failed"
    assert "ended with code 1" in fault(ran, "broken")["reason"]
    assert ran.exit_code == 1
    assert "MISSED kill: not recovered within 2 s" in ran.stdout


def test_a_group_whose_service_cannot_be_had_is_skipped_with_the_reason(ran: Ended) -> None:
    assert fault(ran, "nothing")["status"] == "skipped"
    assert "the impossible cannot be started here" in fault(ran, "nothing")["reason"]


def test_the_tables_are_made_again_from_the_raw_folder(ran: Ended) -> None:
    before = (ran.folder.path / "faults.md").read_text()
    (ran.folder.path / "faults.md").unlink()
    plan = str(ran.folder.path.parent / "faults.yaml")
    again = run(["faults", plan, "--out", str(ran.folder.path), "--report"], ran.folder.path, ran.folder.path.parent)
    assert (ran.folder.path / "faults.md").read_text() == before
    assert again.stdout == ran.stdout


def test_a_soak_strikes_in_turn_and_prints_memory_and_drift(tmp_path: Path) -> None:
    plan = tmp_path / "soak.yaml"
    faults = [{"name": "freeze", "freeze": {"role": "server", "for_s": 0.2}}, {"name": "command", "command": "true"}]
    keys = {"minutes": 0.13, "every_s": 2, "warmup_s": 1, "target": target(free_port()), "faults": faults}
    plan.write_text(yaml.safe_dump(load(**keys)))
    ended = run(["soak", "--plan", str(plan), "--out", str(tmp_path / "run")], tmp_path / "run", tmp_path)
    assert ended.exit_code == 0, ended.output
    figures = json.loads((ended.folder.path / "soak.json").read_text())
    assert [fault["name"] for fault in figures["faults"]] == ["freeze", "command"]
    assert figures["endpoints"][0]["failed"] == 0
    assert {row["role"] for row in figures["memory"]} == {"server", "worker"}
    assert "MB/hour" in (ended.folder.path / "soak.md").read_text()


def test_a_folder_of_another_plan_is_not_written_into(ran: Ended, tmp_path: Path) -> None:
    plan = tmp_path / "faults.yaml"
    text = (ran.folder.path.parent / "faults.yaml").read_text().replace("Known faults", "Other faults")
    plan.write_text(text)
    refused = run(["faults", str(plan), "--out", str(ran.folder.path)], ran.folder.path, tmp_path)
    assert refused.exit_code == 2
    assert "holds a run of another plan" in refused.stderr
