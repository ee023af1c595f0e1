"""`python -m loadtest faults` and `soak` against a target with known answers: what is struck, counted and said."""

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.faults.fault_plan import load_fault_plan
from loadtest.faults.figures import read_faults
from loadtest.faults.folder import FaultFolder, StretchRecord
from loadtest.faults.session import run_faults
from loadtest.machine.environment import read_environment
from loadtest.rows.run_folder import write_json
from tests.failures import keep_on_failure
from tests.kit import RUN_S, STOP_S, Ended, adoption_ended, ask, known_target, run_command, workload
from tests.ports import free_port

pytestmark = pytest.mark.timeout(3 * RUN_S)

FREEZE_S = 3.0
ELSEWHERE = {"os": "Another 1.0", "packages": {"another": "1.0"}, "usable_cores": None}
"""Of another machine; a folder of an older kit does not know the cores."""


def target(port: int) -> dict[str, Any]:
    return known_target("known", port, "--workers 2", replicas={"role": "worker", "count": 2, "wait_s": 1})


def load(**keys: Any) -> dict[str, Any]:
    return {
        "title": "Known faults",
        "users": 5,
        "spawn_rate_per_s": 100,
        "settle_s": 0.2,
        "drain_s": 2 * STOP_S,
        "workload": workload("fixed", wait_s=[0.05, 0.15]),
        "roles": [
            {"name": "worker", "command": "--replica"},
            {"name": "server", "command": "tests.known_target"},
        ],
        "steady_roles": ["worker"],
        **keys,
    }


def group_without_its_service(*faults: str) -> dict[str, Any]:
    """Return a group of which neither the target nor a load is ever started."""
    return {
        "name": "elsewhere",
        "target": target(free_port()),
        "faults": [{"name": name, "command": "true"} for name in faults],
        "services": [{"name": "the impossible", "start": "false", "stop": "true"}],
    }


def write_faults(path: Path, *faults: str) -> FaultFolder:
    """Write a plan of a group without its service; return the folder of a run of it that has no record yet."""
    path.write_text(yaml.safe_dump(load(groups=[group_without_its_service(*faults)])))
    folder = FaultFolder(path.parent / "run")
    write_json(folder.plan, load_fault_plan(path))
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """A freeze, a fault that cannot be carried out, and a kill with a command afterwards, each under its own load.

    The killed replica does not come back, so the fault after it finds one too few. The run was begun elsewhere.
    """
    folder = tmp_path_factory.mktemp("faults")
    plan = folder / "faults.yaml"
    faults = [
        {"name": "freeze", "freeze": {"role": "server", "for_s": FREEZE_S}},
        {"name": "broken", "command": "false", "before_s": 0, "after_s": 0},
        {
            "name": "kill",
            "kill": {"role": "worker"},
            "undo": f"touch {shlex.quote(str(folder))}/undone",
            "hold_s": 0.3,
            "after_s": 2,
            "recover_within_s": 2,
        },
        {"name": "after_the_kill", "command": "true"},
    ]
    setting = {"name": "known", "target": target(free_port()), "faults": faults}
    groups = [setting, group_without_its_service("nothing")]
    plan.write_text(yaml.safe_dump(load(before_s=2, after_s=1, groups=groups)))
    with adoption_ended():
        run_faults(load_fault_plan(plan), FaultFolder(folder / "run"), [], again=False)
    environment = folder / "run" / "environment.json"
    environment.write_text(json.dumps({**json.loads(environment.read_text()), **ELSEWHERE}))
    ended = run_command(["faults", plan, "--out", folder / "run"], folder / "run", folder)
    with keep_on_failure("faults", lambda: [ended.folder.path]):
        yield ended


def fault(ran: Ended, name: str) -> dict[str, Any]:
    figures = json.loads((ran.folder.path / "faults.json").read_text())
    (found,) = [fault for fault in figures["faults"] if fault["name"] == name]
    assert isinstance(found, dict)
    return found


def test_a_fault_run_says_how_long_it_takes_at_most_and_what_is_left(ran: Ended) -> None:
    first, *steps = [line for line in ran.stderr.splitlines() if "at most" in line]
    assert ran.stderr.startswith(first)
    assert first.startswith("5 fault(s) under 5 users: at most ")
    assert [line.startswith("[") and line.endswith(" left)") for line in steps] == [True] * len(steps)
    assert [line.split()[1] for line in steps] == ["known", "freeze", "broken", "kill", "elsewhere"]


def test_a_freeze_lasts_and_is_in_the_longest_latency(ran: Ended) -> None:
    found = fault(ran, "freeze")
    (fixed,) = found["endpoints"]
    assert (fixed["failed"], found["missed"]) == (0, [])
    assert found["lasted_s"] >= FREEZE_S - 0.1
    # Five users send every 0.1 s on average, so one of them asks in the first two thirds of it.
    assert fixed["longest_ms"] >= 1000 * FREEZE_S / 3
    assert found["seen"] == ["the signalled processes survived"]


def test_a_fault_that_could_not_be_carried_out_says_why(ran: Ended) -> None:
    found = fault(ran, "broken")
    assert found["status"] == "failed"
    assert "ended with code 1" in found["reason"]


def test_a_killed_process_that_does_not_come_back_is_not_recovered(ran: Ended) -> None:
    found = fault(ran, "kill")
    assert found["recovered_after_s"] is None
    assert found["missed"] == ["not recovered within 2 s"]
    assert "worker: 2 before, 1 at the end" in found["seen"]
    assert "(signalled)" in found["seen"][0]


def test_no_fault_strikes_a_target_that_still_lacks_a_replica(ran: Ended) -> None:
    found = fault(ran, "after_the_kill")
    assert found["status"] == "failed"
    assert "1 processes of the role worker run, the plan asks for 2" in found["reason"]


def test_what_was_broken_is_undone(ran: Ended) -> None:
    assert "touch" in fault(ran, "kill")["struck"][1]
    assert (ran.folder.path.parent / "undone").is_file()


def test_what_was_missed_is_told_and_ends_with_1(ran: Ended) -> None:
    assert ran.exit_code == 1
    assert "MISSED kill: not recovered within 2 s" in ran.stdout


def test_a_group_whose_service_cannot_be_had_is_skipped_with_the_reason(ran: Ended) -> None:
    assert fault(ran, "nothing")["status"] == "skipped"
    assert "the impossible cannot be started here" in fault(ran, "nothing")["reason"]


def test_the_tables_are_made_again_from_the_raw_folder(ran: Ended) -> None:
    before = (ran.folder.path / "faults.md").read_text()
    (ran.folder.path / "faults.md").unlink()
    plan = ran.folder.path.parent / "faults.yaml"
    again = ask("faults", plan, "--out", ran.folder.path, "--report")
    assert (ran.folder.path / "faults.md").read_text() == before
    assert again.stdout == ran.stdout


def test_a_run_that_is_resumed_elsewhere_keeps_its_first_environment_and_says_what_differs(ran: Ended) -> None:
    assert fault(ran, "kill")["status"] == "finished", ran.output
    figures = json.loads((ran.folder.path / "faults.json").read_text())
    assert figures["environment"] == json.loads((ran.folder.path / "environment.json").read_text())
    assert ELSEWHERE.items() <= figures["environment"].items()
    of_the_code = {"git_changed", "git_commit"}  # while somebody works on it
    assert {*figures["differing"]} - of_the_code == {"os", "packages"}
    page = (ran.folder.path / "faults.md").read_text()
    changed = ", ".join(figures["differing"])
    assert f"**The run was resumed where this had changed:** {changed}. The line above shows the first start." in page
    assert "Another 1.0" in page


def test_a_run_that_is_resumed_where_it_began_differs_in_nothing(tmp_path: Path) -> None:
    folder, environment = FaultFolder(tmp_path), read_environment()
    assert [folder.keep_environment(environment) for _ in range(2)] == [[], []]


def test_one_fault_that_was_injected_elsewhere_is_enough_to_say_so(tmp_path: Path) -> None:
    folder = write_faults(tmp_path / "faults.yaml", "before", "elsewhere", "after")
    folder.write_environment(read_environment())
    for name, differing in {"before": [], "elsewhere": ["os"], "after": []}.items():
        folder.write_record(name, StretchRecord(status="skipped", differing=differing))
    assert read_faults(folder).differing == ["os"]


def test_a_finished_fault_is_injected_again_only_where_it_is_named(tmp_path: Path) -> None:
    """Its group's service cannot be had: a fault that is to be injected gets a record that says so."""
    plan = tmp_path / "faults.yaml"
    folder = write_faults(plan, "finished", "failed", "new")

    def statuses() -> list[str | None]:
        records = [folder.read_record(name) for name in ("finished", "failed", "new")]
        return [record.status if record else None for record in records]

    folder.write_record("finished", StretchRecord(status="finished"))
    folder.write_record("failed", StretchRecord(status="failed"))
    with adoption_ended():
        run_faults(load_fault_plan(plan), folder, ["finished", "failed", "new"], again=False)
    assert statuses() == ["finished", "skipped", "skipped"]
    folder.write_record("failed", StretchRecord(status="failed"))
    ended = ask("faults", plan, "--out", folder.path, "--only", "finished")
    assert ended.stderr.startswith("1 fault(s) under 5 users: "), ended.output
    assert statuses() == ["skipped", "failed", "skipped"]


def test_a_folder_of_another_plan_is_not_written_into(ran: Ended, tmp_path: Path) -> None:
    plan = tmp_path / "faults.yaml"
    text = (ran.folder.path.parent / "faults.yaml").read_text().replace("Known faults", "Other faults")
    plan.write_text(text)
    refused = ask("faults", plan, "--out", ran.folder.path)
    assert refused.exit_code == 2
    assert "holds the results of another `loadtest faults` (differing: title)" in refused.stderr


def test_a_fault_run_is_not_resumed_with_a_changed_locustfile(ran: Ended, tmp_path: Path) -> None:
    shutil.copytree(ran.folder.path, tmp_path / "run")
    hashes = tmp_path / "run" / "files.json"
    known = json.loads(hashes.read_text())["sha256"]
    hashes.write_text(json.dumps({"sha256": dict.fromkeys(known, "before")}))
    refused = ask("faults", ran.folder.path.parent / "faults.yaml", "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "workload.locustfile: " in refused.stderr
    assert f"has changed since {tmp_path / 'run'} began" in refused.stderr


@pytest.mark.long
def test_a_service_that_was_frozen_recovers(tmp_path: Path) -> None:
    """Recovered is after five calm windows of three seconds; what is calm goes by the latencies before the freeze."""
    plan, freeze_s = tmp_path / "faults.yaml", 3.0
    faults = [{"name": "freeze", "freeze": {"role": "server", "for_s": freeze_s}}]
    group = {"name": "known", "target": target(free_port()), "faults": faults}
    plan.write_text(yaml.safe_dump(load(before_s=3, after_s=20, groups=[group])))
    ended = run_command(["faults", plan, "--out", tmp_path / "run"], tmp_path / "run", tmp_path)
    assert fault(ended, "freeze")["recovered_after_s"] >= freeze_s / 2
    assert fault(ended, "freeze")["missed"] == []
    assert ended.exit_code == 0, ended.output


@pytest.mark.long
def test_a_soak_strikes_in_turn_and_prints_memory_and_drift(tmp_path: Path) -> None:
    plan = tmp_path / "soak.yaml"
    faults = [{"name": "freeze", "freeze": {"role": "server", "for_s": 0.2}}, {"name": "command", "command": "true"}]
    keys = {"minutes": 0.3, "every_s": 5, "warmup_s": 1, "target": target(free_port()), "faults": faults}
    plan.write_text(yaml.safe_dump(load(**keys)))
    ended = run_command(["soak", "--plan", plan, "--out", tmp_path / "run"], tmp_path / "run", tmp_path)
    assert ended.exit_code == 0, ended.output
    figures = json.loads((ended.folder.path / "soak.json").read_text())
    assert [fault["name"] for fault in figures["faults"]] == ["freeze", "command"]
    assert figures["endpoints"][0]["failed"] == 0
    assert {row["role"] for row in figures["memory"]} == {"server", "worker"}
    assert "MB/hour" in (ended.folder.path / "soak.md").read_text()
