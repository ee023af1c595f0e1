"""Plans: what is shipped fits the service, and what is wrong in one is told at once, with where and what would do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from loadtest.errors import BadInputError
from loadtest.measure.runner import cell_order
from loadtest.plan.limits import METRICS, read_limit
from loadtest.plan.plan import Plan, load_plan
from loadtest.rows.run_folder import RunFolder
from tests.service import CONFIGS, ROOT, read_config

PLANS = sorted(path for path in (CONFIGS / "stress").glob("*.yaml") if path.stem not in {"tune", "faults", "soak"})
SMALLEST: dict[str, Any] = {
    "title": "t",
    "targets": [{"name": "a", "url": "http://127.0.0.1:1"}],
    "users": [1],
    "spawn_rate_per_s": 1,
    "duration_s": 10,
    "workload": {"locustfile": "l.py", "wait_s": [0, 1], "endpoints": {"e": {"request": "GET /"}}},
}


def write_plan(folder: Path, **changes: Any) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, **changes}))
    return path


def faults_of(path: Path, overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(BadInputError) as caught:
        load_plan(path, overrides)
    return str(caught.value).splitlines()


@pytest.fixture(params=PLANS, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest) -> Plan:
    return load_plan(request.param)


def test_six_plans_are_shipped() -> None:
    assert [path.stem for path in PLANS] == ["cache", "oip", "overload", "published", "quick", "smoke", "two_models"]


def test_a_shipped_plan_asks_for_the_replicas_that_its_config_deploys(shipped: Plan) -> None:
    for target in shipped.targets:
        assert target.start is not None
        assert target.replicas is not None
        [path] = [file for file in target.files if file.suffix == ".yaml"]
        assert path.stem == target.name or shipped.title.startswith("Pictures that repeat")  # one config, two ways
        assert str(path) in target.start
        config = read_config(path.name)
        deployments = config["applications"][1]["deployments"]
        assert target.replicas.count == deployments[0]["num_replicas"]
        assert target.url == f"http://{config['http_options']['host']}:{config['http_options']['port']}"


def test_a_shipped_plan_names_files_that_are_there(shipped: Plan) -> None:
    for file in [shipped.workload.locustfile, *[file for target in shipped.targets for file in target.files]]:
        assert (ROOT / file).is_file()
    # The overload compares nothing by users; nobody published figures of a cache, or of two models.
    if shipped.users not in ([10], [10, 25]) and not any(target.cached for target in shipped.targets):
        assert shipped.baseline is not None
        assert (CONFIGS / "stress" / shipped.baseline).is_file()


def test_the_published_plan_is_the_published_experiment() -> None:
    plan = load_plan(CONFIGS / "stress" / "published.yaml")
    assert [target.replicas.count for target in plan.targets if target.replicas] == [1, 2]
    assert (plan.users, plan.spawn_rate_per_s, plan.duration_s) == ([10, 25, 50, 100], 5, 150)
    assert plan.workload.wait_s == (1, 5)
    assert {name: endpoint.weight for name, endpoint in plan.workload.endpoints.items()} == {"lookup": 2, "predict": 1}


def test_the_cache_plan_repeats_its_pictures_without_and_with_redis() -> None:
    plan = load_plan(CONFIGS / "stress" / "cache.yaml")
    assert plan.workload.options["pictures"] == "repeated"
    without, with_cache = plan.targets
    assert without.environment == {"REDIS_URL": ""}
    assert (without.cached, with_cache.cached) == (False, True)
    assert with_cache.start
    assert "loadtest.machine.with_redis" in with_cache.start
    assert plan.metrics
    assert plan.metrics.hits
    assert plan.metrics.hits.name in {counter.name for counter in plan.metrics.counters}


def test_the_quick_plan_differs_from_the_published_one_in_its_times_only() -> None:
    quick, published = (load_plan(CONFIGS / "stress" / f"{name}.yaml").model_dump() for name in ("quick", "published"))
    differing = {key for key in published if quick[key] != published[key]}
    assert differing == {"title", "spawn_rate_per_s", "duration_s", "settle_s", "warmup", "metrics"}
    assert len(quick["targets"]) * len(quick["users"]) * quick["duration_s"] < 180


def test_all_faults_are_told_at_once_with_file_key_and_what_is_allowed(tmp_path: Path) -> None:
    path = write_plan(
        tmp_path,
        users=[0, "ten"],
        spawn_rate=5,
        duration_s=2.5,
        limits=["lookup.p42_ms <= 3"],
        roles=[{"name": "kit", "command": "x"}, {"name": "web", "command": "("}],
        targets=[{"name": "a", "url": "localhost", "replica": 1}, {"url": "http://x"}],
        workload={**SMALLEST["workload"], "wait_s": [5, 1]},
    )
    faults = faults_of(path)
    assert all(fault.startswith(f"{path}: ") for fault in faults)
    told = {fault.removeprefix(f"{path}: ").split(":")[0]: fault for fault in faults}
    assert set(told) == {
        "users.0", "users.1", "spawn_rate", "duration_s", "limits.0", "roles.0.name", "roles.1.command",
        "targets.0.url", "targets.0.replica", "targets.1.name", "workload.wait_s",
    }  # fmt: skip
    assert "spawn_rate_per_s" in told["spawn_rate"]
    assert "replicas" in told["targets.0.replica"]
    assert ", ".join(METRICS) in told["limits.0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": [*SMALLEST["targets"], *SMALLEST["targets"]]}, "'a' appears twice"),
        ({"limits": ["lookup.p95_ms <= 50"]}, "'lookup' is not one of e"),
        ({"targets": [{**SMALLEST["targets"][0], "replicas": {"role": "web", "count": 1}}]}, "'web' is not one of"),
        ({"users": [10]}, "leave no steady window for 10 users"),
        ({"workload": {**SMALLEST["workload"], "rate_per_user_rps": 3}}, "either wait_s"),
        ({"workload": {**SMALLEST["workload"], "wait_s": [1, float("inf")]}}, "wait_s.1: .*finite"),
        ({"users": [3, 3]}, r"twice: \[3, 3\]"),
        ({"users": 10}, "users: .*list"),
        ({"users": None}, "users: .*list"),
        ({"roles": [{"name": "web", "command": 5}]}, "roles.0.command: .*string"),
        ({"targets": [{**SMALLEST["targets"][0], "replicas": {"role": "web", "count": 1}}]}, "give start"),
        ({"spawn_rate_per_s": float("inf")}, "spawn_rate_per_s: .*finite"),
        ({"drain_s": 0.5}, "drain_s: .*greater than or equal to 1, not 0.5"),
        ({"drain_s": float("inf")}, "drain_s: .*finite"),
        ({"settle_s": float("inf")}, "settle_s: .*finite"),
        ({"metrics": {"settle_s": float("inf")}}, "metrics.settle_s: .*finite"),
        ({"targets": [{**SMALLEST["targets"][0], "ready_timeout_s": float("inf")}]}, "ready_timeout_s: .*finite"),
        ({"targets": [{**SMALLEST["targets"][0], "stop_timeout_s": float("inf")}]}, "stop_timeout_s: .*finite"),
        (
            {"targets": [{**SMALLEST["targets"][0], "replicas": {"role": "a", "count": 1, "wait_s": float("inf")}}]},
            "replicas.wait_s: .*finite",
        ),
        (
            {"workload": {**SMALLEST["workload"], "endpoints": {"a": {"request": "/"}, "b": {"request": "/"}}}},
            "two of them count `/`",
        ),
    ],
)
def test_what_does_not_fit_together_is_told(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert any(re.search(words, fault) for fault in faults_of(write_plan(tmp_path, **changes)))


def test_two_files_of_one_name_are_refused_for_the_run_folder_keeps_one(tmp_path: Path) -> None:
    files = ["model/config.yaml", "users/config.yaml", "users/other.yaml"]
    target = {**SMALLEST["targets"][0], "files": files}
    path = write_plan(tmp_path, targets=[target, {**target, "name": "b", "files": files[1:]}])
    [fault] = faults_of(path)
    assert fault.startswith(f"{path}: targets.a.files: two of them are called config.yaml")
    load_plan(path, {"targets": ["b"]})


@pytest.mark.parametrize("content", [b"users: [", b"- 1", b"", b"\xff\xfe\x00"])
def test_a_file_that_is_no_plan_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    assert all(fault.startswith(f"{path}: ") for fault in faults_of(path)[:1])


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "nix.yaml") == [f"{tmp_path / 'nix.yaml'}: cannot be read: No such file or directory"]


def test_options_override_the_plan() -> None:
    path = CONFIGS / "stress" / "published.yaml"
    plan = load_plan(path, {"users": [7], "duration_s": 33, "targets": ["two_replicas"], "repetitions": 2})
    assert (plan.users, plan.duration_s, plan.repetitions) == ([7], 33, 2)
    assert [target.name for target in plan.targets] == ["two_replicas"]
    assert faults_of(path, {"targets": ["three"]}) == [
        f"--targets: {path} has no three; it has one_replica, two_replicas"
    ]


def test_neighbouring_groups_of_targets_are_in_opposite_order() -> None:
    plan = load_plan(CONFIGS / "stress" / "published.yaml", {"users": [10, 25], "repetitions": 2})
    order = [(cell.users, cell.repetition, cell.target.split("_")[0]) for cell in cell_order(plan)]
    assert order == [
        (10, 1, "one"), (10, 1, "two"), (25, 1, "two"), (25, 1, "one"),
        (10, 2, "two"), (10, 2, "one"), (25, 2, "one"), (25, 2, "two"),
    ]  # fmt: skip


def test_a_plan_comes_back_from_the_run_folder_as_it_was(tmp_path: Path, shipped: Plan) -> None:
    folder = RunFolder(tmp_path)
    folder.write_plan(shipped)
    assert folder.read_plan() == shipped


@pytest.mark.parametrize("value", ["1000000", "0.00001", "1234.567", "0", "50"])
def test_a_limit_comes_back_from_the_run_folder_as_it_was(tmp_path: Path, value: str) -> None:
    plan = load_plan(write_plan(tmp_path, limits=[f"max_ms <= {value}"]))
    RunFolder(tmp_path).write_plan(plan)
    assert RunFolder(tmp_path).read_plan() == plan
    assert str(plan.limits[0]) == f"max_ms <= {value}"


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [("rps >= 3", 3, True), ("rps > 3", 3, False), ("lookup.p95_ms<=50", 50.1, False), ("a-b.max_ms < 2.5", 2, True)],
)
def test_a_limit_holds_or_not(text: str, value: float, *, holds: bool) -> None:
    assert read_limit(text).holds_for(value) is holds
    assert read_limit(str(read_limit(text))) == read_limit(text)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("url", "http://user:pl4nted@127.0.0.1:1", "targets.0.url: must have no user and password"),
        ("environment", {"REDIS_URL": "redis://:pl4nted@host/0"}, "REDIS_URL holds a user or a password"),
        ("environment", {"DATABASE_URL": "postgresql://u:pl4/nted@host/x"}, "DATABASE_URL holds a user"),
        ("environment", {"WEIGHTS": "https://pl4nted:@host/w.h5"}, "WEIGHTS holds a user"),
        ("environment", {"WEIGHTS": "https://pl4nted@host/w.h5"}, "WEIGHTS holds a user"),
        ("environment", {"REDIS_URL": "unix:///run/redis?password=pl4nted"}, "REDIS_URL holds a user or a password"),
    ],
)
def test_a_plan_has_no_password(tmp_path: Path, key: str, value: object, words: str) -> None:
    """Run folders keep plans, and are shown around."""
    [fault] = faults_of(write_plan(tmp_path, targets=[{"name": "a", "url": "http://127.0.0.1:1", key: value}]))
    assert words in fault
    assert "pl4" not in fault
    assert "nted" not in fault


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://postgres:@/postgres?host=/tmp/data",
        "postgresql+asyncpg://me@host/x",
        "redis://host/0",
        "http://host/a@1",
        "a@b",
    ],
)
def test_a_databases_user_and_an_at_sign_elsewhere_are_no_secrets(tmp_path: Path, value: str) -> None:
    target = {"name": "a", "url": "http://127.0.0.1:1", "environment": {"X": value}}
    assert load_plan(write_plan(tmp_path, targets=[target])).targets[0].environment == {"X": value}


def test_a_misspelled_key_below_a_name_of_ones_own_is_told_with_what_is_allowed(tmp_path: Path) -> None:
    endpoints = {"e": {"request": "GET /", "weigth": 2}}
    [fault] = faults_of(write_plan(tmp_path, workload={**SMALLEST["workload"], "endpoints": endpoints}))
    assert fault.endswith("workload.endpoints.e.weigth: is not a key here; allowed: request, weight")
