"""Fault plans: what is shipped fits the service, and what is wrong in one is told, with where and what would do."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.errors import BadInputError
from loadtest.faults.fault_plan import choose, load_fault_plan, load_soak_plan
from loadtest.faults.figures import FaultFigures, Seen, figures_of
from loadtest.faults.folder import Event, StretchRecord
from loadtest.rows.columns import RequestRow
from tests.service import CONFIGS, ROOT, read_config

FAULTS, SOAK = CONFIGS / "stress" / "faults.yaml", CONFIGS / "stress" / "soak.yaml"
LOAD: dict[str, Any] = {
    "title": "t",
    "users": 10,
    "spawn_rate_per_s": 10,
    "roles": [{"name": "worker", "command": "w"}],
    "workload": {"locustfile": "l.py", "wait_s": [0, 1], "endpoints": {"e": {"request": "GET /"}}},
}
TARGET = {"name": "a", "url": "http://127.0.0.1:1", "start": "x"}
KILL = {"name": "k", "kill": {"role": "worker"}}


def faults_of(folder: Path, *faults: dict[str, Any], **changes: Any) -> str:
    """Return what is said of a fault plan with these faults."""
    path = folder / "faults.yaml"
    group = {"name": "g", "target": TARGET, "faults": list(faults)}
    path.write_text(yaml.safe_dump({**LOAD, "groups": [group], **changes}))
    with pytest.raises(BadInputError) as caught:
        load_fault_plan(path)
    return str(caught.value)


def test_the_shipped_fault_plan_covers_what_the_service_promises() -> None:
    plan = load_fault_plan(FAULTS)
    names = {fault.name for group in plan.groups for fault in group.faults}
    assert names == {
        "kill_classifier", "kill_users", "kill_haproxy", "kill_controller", "kill_haproxy_manager",
        "kill_fallback_proxy", "freeze_classifier", "freeze_users", "update", "kill_only_classifier", "scale",
        "database_stopped", "database_frozen", "database_locked", "disk_full", "redis_frozen", "redis_killed",
    }  # fmt: skip
    assert plan.users == 100


def test_only_the_loss_of_the_database_excuses_new_requests() -> None:
    plan = load_fault_plan(FAULTS)
    for group in plan.groups:
        for fault in group.faults:
            excused = {endpoint for endpoint, may_fail in fault.may_fail.items() if may_fail.sent_within_s is None}
            assert excused == ({"lookup"} if group.name == "postgres" else set()), fault.name


@pytest.mark.parametrize("name", ["one_replica.yaml", "two_replicas.yaml"])
def test_a_users_replica_may_die_in_each_shipped_config(name: str) -> None:
    (users,) = read_config(name)["applications"][0]["deployments"]
    assert users["num_replicas"] == 2


def test_the_shipped_fault_plan_names_the_configs_with_which_a_run_is_not_resumed_once_they_have_changed() -> None:
    for group in load_fault_plan(FAULTS).groups:
        deployed = [group.target.start or "", *(fault.command or "" for fault in group.faults)]
        configs = {word for command in deployed for word in command.split() if word.startswith("configs/")}
        assert configs
        assert {str(file) for file in group.target.files} == {*configs, "configs/serve.env"}


def test_shipped_plans_name_files_that_are_there() -> None:
    targets = [group.target for group in load_fault_plan(FAULTS).groups] + [load_soak_plan(SOAK).target]
    for target in targets:
        assert target.start is not None
        assert (ROOT / target.start.split()[-1]).is_file()


def test_a_soak_has_a_fault_every_minute_and_ends_with_time_to_recover() -> None:
    schedule = load_soak_plan(SOAK).schedule()
    assert [at_s for at_s, _ in schedule] == [60 * minute for minute in range(1, 9)]
    assert load_soak_plan(SOAK, 30).schedule()[-1][0] == 28 * 60
    assert {fault.name for _, fault in schedule} == {fault.name for fault in load_soak_plan(SOAK).faults}


def test_a_soak_without_time_for_a_fault_is_refused() -> None:
    with pytest.raises(BadInputError, match="leave no time for a fault every 60 s"):
        load_soak_plan(SOAK, 1)
    with pytest.raises(BadInputError, match="minutes: Input should be a finite number"):
        load_soak_plan(SOAK, float("inf"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"name": "f"}, "give one of kill, freeze and command"),
        ({**KILL, "command": "x"}, "give one of kill, freeze and command"),
        ({"name": "f", "kill": {"role": "nobody"}}, "role: 'nobody' is not one of worker"),
        ({"name": "f", "kill": {"role": "worker", "signal": "HUP"}}, "signal: Input should be 'KILL'"),
        ({"name": "f", "freeze": {"role": "worker"}}, "for_s: Field required"),
        ({"name": "f", "freeze": {"role": "worker", "for_s": 1}, "undo": "x"}, "a freeze ends by itself"),
        ({**KILL, "after_s": float("inf")}, "after_s: Input should be a finite number"),
        ({**KILL, "hold_s": 3}, "hold_s: only with undo"),
        ({**KILL, "may_fail": {"lookup": {}}}, "may_fail: 'lookup' is not one of e"),
        ({**KILL, "may_fail": {"e": {"error": "("}}}, "not a regular expression"),
        ({**KILL, "recover": 3}, "recover: is not a key here; allowed: name, title, kill"),
    ],
)
def test_a_wrong_fault_is_named_with_what_would_do(tmp_path: Path, fault: dict[str, Any], words: str) -> None:
    assert words in faults_of(tmp_path, fault)


def test_a_plan_is_wrong_as_a_whole(tmp_path: Path) -> None:
    assert "the fault 'k' is given twice" in faults_of(tmp_path, KILL, KILL)
    assert "steady_roles: 'x' is not a role of the plan" in faults_of(tmp_path, KILL, steady_roles=["x"])
    assert "drain_s: should be greater than or equal to 1, not 0.5" in faults_of(tmp_path, KILL, drain_s=0.5)
    for key in ("before_s", "drain_s", "settle_s", "spawn_rate_per_s"):
        assert f"{key}: Input should be a finite number" in faults_of(tmp_path, KILL, **{key: float("inf")})
    group = {"name": "g", "target": {**TARGET, "start": None}, "faults": [KILL]}
    assert "the kit only breaks what it has started" in faults_of(tmp_path, groups=[group])


def test_a_fault_that_is_not_there_cannot_be_chosen() -> None:
    plan = load_fault_plan(FAULTS)
    assert choose(plan, ["scale"]) == ["scale"]
    with pytest.raises(BadInputError, match="--only: the plan has no kill_all; it has kill_classifier"):
        choose(plan, ["kill_all"])


def test_a_request_that_fails_when_the_next_fault_strikes_is_counted_there_only() -> None:
    plan = load_soak_plan(CONFIGS / "stress" / "soak.yaml")
    freeze, kill = (
        Event(fault=name, began_unix_s=began, ended_unix_s=began + 1, struck=[], pids=[])
        for name, began in (("freeze_users", 1000.0), ("kill_haproxy", 1060.0))
    )
    rows = [
        RequestRow(1030.0, "predict", 200, 100, 0, "", ""),
        RequestRow(1059.9, "predict", 0, 150, 0, "no whole answer", ""),
        RequestRow(1059.9, "predict", 200, 150, 0, "", ""),
    ]
    record = StretchRecord(status="finished", complete_unix_s=990, stopping_unix_s=1120, events=[freeze, kill])
    seen = Seen(plan, record, rows, [])
    faults = {fault.name: fault for fault in plan.faults}
    blank = FaultFigures(name="", title="", group="soak", status="finished")
    before = figures_of(blank, faults["freeze_users"], seen, freeze, until_unix_s=kill.began_unix_s)
    after = figures_of(blank, faults["kill_haproxy"], seen, kill)
    assert [(sum(e.requests for e in f.endpoints), sum(e.failed for e in f.endpoints)) for f in (before, after)] == [
        (2, 0),
        (2, 1),
    ]
    assert before.missed == after.missed == []  # killing HAProxy excuses it
