"""The shipped configs, and the faults of a config that Serve itself passes over in silence."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.data_plane import data_plane_environment, read_env_file
from serve_app.deployments.config_file import classifier_threads_and_replicas, find_unknown_keys, load_config
from serve_app.deployments.thread_budget import thread_budget_fault
from serve_app.errors import SetupError
from tests.service import CONFIGS, read_config

REFERENCE_CORES = 2
SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def test_one_and_two_replicas_are_shipped() -> None:
    assert SHIPPED == ["one_replica.yaml", "two_replicas.yaml"]


@pytest.mark.parametrize("name", SHIPPED)
def test_serve_knows_every_key_of_every_config(name: str) -> None:
    assert list(find_unknown_keys(read_config(name))) == []
    assert load_config(CONFIGS / name)["applications"]


@pytest.mark.parametrize(("name", "replicas"), [("one_replica.yaml", 1), ("two_replicas.yaml", 2)])
def test_replicas_are_as_the_name_says_and_use_the_reference_machine_once(name: str, replicas: int) -> None:
    [(threads, found)] = classifier_threads_and_replicas(read_config(name))
    assert found == replicas
    assert threads * replicas == REFERENCE_CORES


def test_the_two_configs_differ_in_replicas_and_threads_only() -> None:
    one, two = (read_config(name) for name in SHIPPED)
    model = two["applications"][1]
    model["deployments"][0]["num_replicas"], model["args"]["threads"] = 1, 2
    assert one == two


@pytest.mark.parametrize("name", SHIPPED)
def test_every_key_is_explained_where_it_first_stands(name: str) -> None:
    lines = (CONFIGS / name).read_text().splitlines()
    containers = {"http_options:", "logging_config:", "applications:", "args:", "deployments:", "ray_actor_options:"}
    explained: set[str] = set()
    for before, line in zip(["", *lines], lines, strict=False):
        key = line.strip().removeprefix("- ").split(" ")[0]
        if key.endswith(":") and key not in containers | explained and not line.strip().startswith("#"):
            assert before.strip().startswith("#"), f"{name}: {key} has no comment"
            explained.add(key)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_service_is_bound_to_this_machine(name: str) -> None:
    assert read_config(name)["http_options"]["host"] == "127.0.0.1"


def misspelled(config: dict[str, Any], *path: str | int) -> dict[str, Any]:
    """Return the config with the last key of `path` misspelled by one letter."""
    inner: Any = config
    for step in path[:-1]:
        inner = inner[step]
    inner[f"{path[-1]}x"] = inner.pop(path[-1])
    return config


@pytest.mark.parametrize(
    "path",
    [
        ("proxy_location",),
        ("http_options", "port"),
        ("applications", 1, "route_prefix"),
        ("applications", 1, "args", "threads"),
        ("applications", 0, "args", "pool_size"),
        ("applications", 1, "deployments", 0, "num_replicas"),
        ("applications", 1, "deployments", 0, "ray_actor_options", "num_cpus"),
        ("applications", 1, "deployments", 0, "backpressure_config", "retry_after_s"),
        ("logging_config", "log_level"),
    ],
)
def test_a_misspelled_key_is_named(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(misspelled(read_config("one_replica.yaml"), *path)))
    with pytest.raises(SetupError, match=f"{path[-1]}x"):
        load_config(config)


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    config = read_config("one_replica.yaml")
    config["applications"][1]["args"] |= {"threads": 0, "weights": "https://example.com/w.h5"}
    config["applications"][1]["deployments"][0]["num_replica"] = 4
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SetupError) as caught:
        load_config(path)
    for words in ("num_replica: no such key", "args.threads", "greater than or equal to 1"):
        assert words in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("a: [", "not YAML"), ("- 1", "not a Serve config")])
def test_what_is_no_config_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(SetupError, match=words):
        load_config(path)
    with pytest.raises(SetupError, match="cannot be read"):
        load_config(tmp_path / "nothing.yaml")


def test_a_shell_reads_the_same_from_serve_env_as_we_do() -> None:
    path = CONFIGS / "serve.env"
    command = ["env", "-i", "sh", "-c", 'set -a; . "$0"; exec env', str(path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    shell = dict(line.split("=", 1) for line in printed.splitlines())
    assert read_env_file(path).items() <= shell.items()


def test_what_the_user_set_wins_over_serve_env() -> None:
    given = {"RAY_SERVE_HAPROXY_NBTHREAD": "4"}
    assert "RAY_SERVE_HAPROXY_NBTHREAD" not in data_plane_environment(CONFIGS / "one_replica.yaml", given)


def test_haproxy_is_left_out_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in data_plane_environment(CONFIGS / "one_replica.yaml", {})


@pytest.mark.parametrize(("threads", "replicas", "cores"), [(2, 1, 2), (1, 2, 2), (4, 2, 8)])
def test_threads_that_fit_the_cores_are_not_mentioned(threads: int, replicas: int, cores: int) -> None:
    assert thread_budget_fault(threads, replicas, cores) is None


@pytest.mark.parametrize(
    ("threads", "replicas", "cores", "words"),
    [(2, 2, 2, "slow each other down"), (1, 1, 2, "idle"), (2, 1, 1, "slow each other down")],
)
def test_threads_that_do_not_are_a_loud_line(threads: int, replicas: int, cores: int, words: str) -> None:
    fault = thread_budget_fault(threads, replicas, cores)
    assert fault is not None
    assert fault.startswith("THREADS")
    assert words in fault
