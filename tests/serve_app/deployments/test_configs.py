"""The shipped configs, and the faults of a config that Serve itself passes over in silence."""

import http.server
import re
import subprocess
import threading
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._raylet import IMPLICIT_RESOURCE_PREFIX  # type: ignore[attr-defined]
from ray.serve.schema import ServeDeploySchema

from serve_app.classifier.settings import MOST_THREADS
from serve_app.deployments.applications import BUILDER_ARGS, api_port, classifiers, models
from serve_app.deployments.config_file import check_config, config_faults, find_unknown_keys, load_config
from serve_app.deployments.cores import usable_cores
from serve_app.deployments.per_node import count_nodes, most_on_node
from serve_app.deployments.rest import ServeRest
from serve_app.deployments.thread_budget import Classifier, Replicas, thread_budget_fault, threads_of
from serve_app.entrance.environment import data_plane_environment, read_env_file
from serve_app.entrance.haproxy import BINARY_VARIABLE
from serve_app.errors import SetupError
from serve_app.places import find_config
from tests.service import CONFIGS, read_config, whole_config

REFERENCE_CORES = 2
TOO_LONG = 300 * "x"
"""A name that no file can have."""
POLICY = "serve_app.deployments.per_node:ReplicasPerNode"
SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yaml"))
OTHERS = {"cluster.yaml", "fastest.yaml", "gpu.yaml", "two_models.yaml"}
"""Which serve something else than one float32 network on TensorFlow, or on several machines."""
CLUSTER = "cluster.yaml"
ONE_MACHINE = [name for name in SHIPPED if name != CLUSTER]


def test_one_and_two_replicas_and_one_that_leaves_a_core_free_are_shipped() -> None:
    assert [name for name in SHIPPED if name not in OTHERS] == [
        "one_replica.yaml", "one_thread.yaml", "two_replicas.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_serve_knows_every_key_of_every_config(name: str) -> None:
    assert list(find_unknown_keys(read_config(name))) == []
    assert load_config(CONFIGS / name)["applications"]


@pytest.mark.parametrize(("name", "replicas"), [("one_replica.yaml", 1), ("two_replicas.yaml", 2)])
def test_replicas_are_as_the_name_says_and_use_the_reference_machine_once(name: str, replicas: int) -> None:
    [found] = classifiers(read_config(name))
    assert found.replicas == (replicas, replicas)
    assert found.threads * replicas == REFERENCE_CORES


def test_the_configs_differ_in_replicas_and_threads_only() -> None:
    one, *others = (read_config(name) for name in SHIPPED if name not in OTHERS)
    for other in others:
        model = other["applications"][1]
        model["deployments"][0]["num_replicas"], model["args"]["threads"] = 1, 2
        assert one == other


@pytest.mark.parametrize("name", ONE_MACHINE)
def test_a_shipped_config_shows_what_a_user_changes_and_no_more(name: str) -> None:
    """What is left out is on the page of docs/configuration.md, whose tests look for every key."""
    assert len((CONFIGS / name).read_text().splitlines()) <= 45
    assert read_config(name)["applications"][1]["deployments"][0].keys() == {"name", "num_replicas"}


@pytest.mark.parametrize("name", ONE_MACHINE)
def test_a_config_with_every_default_written_out_is_the_same_service(name: str) -> None:
    short, whole = read_config(name), whole_config(name)
    check_config(whole, Path(name))
    for mine, theirs in zip(short["applications"], whole["applications"], strict=True):
        settings = BUILDER_ARGS[mine["import_path"]]
        assert settings.model_validate(mine["args"]) == settings.model_validate(theirs["args"])
    assert ServeDeploySchema.model_validate(short).http_options == ServeDeploySchema.model_validate(whole).http_options
    assert list(find_unknown_keys(whole)) == []


@pytest.mark.parametrize("name", ONE_MACHINE)
def test_the_service_is_bound_to_this_machine(name: str) -> None:
    assert read_config(name)["http_options"]["host"] == "127.0.0.1"


def test_a_cluster_is_open_with_keys_and_strict_about_weights() -> None:
    config = read_config(CLUSTER)
    assert config["http_options"]["host"] == "0.0.0.0"
    users, model = (application["args"] for application in config["applications"])
    assert users["auth"] == model["auth"] == {"keys_file": "~/.serve-app-cluster/api_keys"}
    assert (model["weights"], model["labels"], model["threads"]) == ("imagenet", "imagenet", "auto")


def test_a_cluster_differs_from_one_replica_in_nothing_else() -> None:
    one, cluster = read_config("one_replica.yaml"), read_config(CLUSTER)
    del cluster["proxy_location"]
    cluster["http_options"]["host"] = one["http_options"]["host"]
    for mine, theirs in zip(cluster["applications"], one["applications"], strict=True):
        assert mine["deployments"][0].pop("autoscaling_config")["policy"]["policy_function"] == POLICY
        mine["deployments"] = theirs["deployments"]
        del mine["args"]["auth"]
    for key in ("weights", "labels", "threads"):
        cluster["applications"][1]["args"][key] = one["applications"][1]["args"][key]
    assert cluster == one


@pytest.mark.parametrize(
    ("given", "num_cpus", "replicas", "cores", "threads"),
    [
        (3, 1, 1, 8, 3),  # a number is a number
        ("auto", 4, 1, 16, 4),
        ("auto", 1.5, 1, 16, 1),
        ("auto", 0.1, 2, 8, 4),
        ("auto", 0, 3, 8, 2),
        ("auto", 0.1, 8, 2, 1),
        ("auto", 0.1, 0, 8, 8),  # num_replicas: 0
        ("auto", 0.1, 1, 384, MOST_THREADS),
        ("auto", 300, 1, 384, MOST_THREADS),
    ],
)
def test_auto_is_the_cpus_of_a_replica_or_its_part_of_the_cores(
    given: Any, num_cpus: float, replicas: int, cores: int, threads: int
) -> None:
    assert threads_of(given, num_cpus=num_cpus, replicas=replicas, cores=cores) == threads


@pytest.mark.parametrize(("options", "threads"), [({"num_cpus": 3}, 3), ({}, 1), (None, usable_cores())])
def test_the_start_counts_the_threads_of_auto(options: dict[str, Any] | None, threads: int) -> None:
    config = read_config("one_replica.yaml")
    model = config["applications"][1]
    model["args"]["threads"] = "auto"
    if options is not None:
        model["deployments"][0]["ray_actor_options"] = options
    [found] = classifiers(config)
    assert found.threads == threads


def test_models_are_prepared_with_the_threads_that_they_are_served_with() -> None:
    config = read_config("one_replica.yaml")
    config["applications"][1]["args"]["threads"] = "auto"
    [(settings, engines)] = models(config)
    assert settings.threads == engines.threads == usable_cores()


def test_no_replicas_have_no_threads_to_fit() -> None:
    assert thread_budget_fault([Classifier("model", 2, Replicas(0, 0))], cores=8) is None


def test_one_replica_on_each_of_many_nodes_has_all_cores_of_its_node() -> None:
    config = read_config(CLUSTER)
    deployment = config["applications"][1]["deployments"][0]
    deployment["ray_actor_options"]["num_cpus"] = 0.1
    [found] = classifiers(config)
    assert (found.threads, found.replicas) == (usable_cores(), Replicas(1, 1))
    del deployment["max_replicas_per_node"]
    [found] = classifiers(config)
    assert (found.threads, found.replicas) == (max(1, usable_cores() // 100), Replicas(1, 100))


@pytest.mark.parametrize(("most", "within"), [(None, (2, 5)), (1, (1, 1)), (3, (2, 3)), (9, (2, 5))])
def test_a_replica_knows_how_many_its_node_may_have(most: int | None, within: tuple[int, int]) -> None:
    """The name is the one that Serve's scheduler gives to the resource."""
    resource = {} if most is None else {f"{IMPLICIT_RESOURCE_PREFIX}model:Classifier": 1 / most}
    assert most_on_node({"CPU": 0.1, **resource}) == most
    assert Replicas(2, 5).at_most(most) == within


def test_a_config_without_a_classifier_has_no_threads_to_fit() -> None:
    assert thread_budget_fault([], 2) is None


@pytest.mark.parametrize("given", [0, 257, "all", True])
def test_threads_are_a_number_or_auto(given: object) -> None:
    config = read_config("one_replica.yaml")
    config["applications"][1]["args"]["threads"] = given
    assert [fault.key for fault in config_faults(config)] == ["applications[model].args.threads"]


def test_replicas_follow_the_nodes_that_live_and_can_hold_one() -> None:
    alive = {"Alive": True, "Resources": {"CPU": 2.0}}
    smaller, head_without = {"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": True, "Resources": {}}
    nodes = [alive, alive, smaller, head_without, alive | {"Alive": False}]
    assert count_nodes(nodes, {"CPU": 0.1}) == 3
    assert count_nodes(nodes, {"CPU": 2, f"{IMPLICIT_RESOURCE_PREFIX}Users": 1}) == 2
    assert count_nodes(nodes, {"CPU": 1, "GPU": 1}) == 0


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
        ("applications", 1, "args", "cache", "ttl_s"),
        ("applications", 1, "args", "jobs", "max_waiters"),
        ("applications", 0, "args", "pool_size"),
        ("applications", 1, "deployments", 0, "num_replicas"),
        ("applications", 1, "deployments", 0, "ray_actor_options", "num_cpus"),
        ("applications", 1, "deployments", 0, "backpressure_config", "retry_after_s"),
        ("logging_config", "log_level"),
    ],
)
def test_a_misspelled_key_is_named(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(misspelled(whole_config("one_replica.yaml"), *path)))
    with pytest.raises(SetupError, match=rf"{path[-1]}x: no such key; did you mean {path[-1]}\? \w+"):
        load_config(config)


@pytest.mark.parametrize(
    ("where", "key", "value", "right"),
    [
        (("applications", 1, "deployments", 0), "autoscaling_config", {"min_replica": 3}, "min_replicas"),
        (("applications", 1, "deployments", 0), "request_router_config", {"max_backoff": 1}, "max_backoff_s"),
        (("applications", 1, "deployments", 0, "ray_actor_options"), "runtime_env", {"env_var": {}}, "env_vars"),
        (("applications", 1), "runtime_env", {"env_var": {}}, "env_vars"),
        ((), "grpc_options", {"prt": 1}, "port"),
    ],
)
def test_a_misspelled_key_is_named_at_any_depth(
    tmp_path: Path, where: tuple[str | int, ...], key: str, value: dict[str, Any], right: str
) -> None:
    config = inner = whole_config("one_replica.yaml")
    for step in where:
        inner = inner[step]  # type: ignore[index]
    inner[key] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SetupError, match=rf"{key}.{next(iter(value))}: no such key; did you mean {right}\?"):
        load_config(path)


def test_a_misspelled_key_of_the_api_keys_is_named(tmp_path: Path) -> None:
    """Pydantic names the member of the union in the place of the fault."""
    config = read_config("one_replica.yaml")
    config["applications"][0]["args"]["auth"] = {"key_env": "API_KEYS"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SetupError, match=r"key_env: no such key; did you mean keys_env\?"):
        load_config(path)


def test_a_key_like_no_other_is_named_with_all_that_there_are(tmp_path: Path) -> None:
    config = read_config("one_replica.yaml")
    config["applications"][0]["args"]["colour"] = "blue"
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(
        SetupError, match=r"args\.colour: no such key; the application knows auth, demo_users, pool_size"
    ):
        load_config(path)


MODEL = ("applications", 1, "args")
APPLICATION = ("applications", 1)
CLASSIFIER = (*APPLICATION, "deployments", 0)


@pytest.mark.parametrize(
    ("where", "values", "told"),
    [
        (MODEL, {"threads": 0}, "args.threads: must be greater than or equal to 1 (given: 0); correct it, or remove"),
        (MODEL, {"threads": "two"}, "the key to use the default, 1"),
        (MODEL, {"engine": "tensorflo"}, "'openvino', 'onnxruntime', 'jax' or 'auto'; did you mean tensorflow?"),
        (MODEL, {"cache": {"store": "Rediss"}}, "args.cache.store: must be 'auto', 'redis', 'memory' or 'off'; did"),
        (MODEL, {"cache": "off"}, "args.cache: must have keys of its own; docs/configuration.md describes it"),
        (MODEL, {"resize": 2}, "args.resize: must be greater than or equal to 8 (given: 2); correct it, or remove the"),
        (MODEL, {"model": "resnet5"}, "args.model: 'resnet5' is neither a file (.keras, .h5, .onnx) nor a known"),
        (MODEL, {"max_held_bytes": 5}, "args.max_held_bytes: must be at least 10016384, max_upload_bytes and 16384;"),
        (MODEL, {"jobs": {"max_waiting_bytes": 3}}, "args.jobs.max_waiting_bytes: must be at least"),
        (MODEL, {"weights": "https://h/w.h5"}, "args.weights_sha256: weights is a URL; give weights_sha256 too"),
        (MODEL, {"labels": "/a\0b"}, "args.labels: the name of a file has no zero byte; remove it"),
        (MODEL, {"model": "/a\0b.onnx"}, "args.model: the name of a file has no zero byte; remove it"),
        (MODEL, {"weights": "/a\0b.h5"}, "args.weights: the name of a file has no zero byte; remove it"),
        (MODEL, {"calibration": "/a\0b"}, "args.calibration: the name of a file has no zero byte; remove it"),
        (MODEL, {"agreement_pictures": "\0"}, "args.agreement_pictures: the name of a file has no zero byte; remove"),
        (MODEL, {"auth": {"keys_file": "/\0"}}, "args.auth.keys_file: the name of a file has no zero byte; remove it"),
        ((), {"tls": {"cert": "/a\0b", "key": "/c"}}, "tls.cert: the name of a file has no zero byte; remove it"),
        (MODEL, {"Max_Batch": 3}, "args.Max_Batch: no such key; did you mean max_batch?"),
        (CLASSIFIER, {"num_replicas": "many"}, "; write a whole number, or auto"),
        (CLASSIFIER, {"max_ongoing_requests": 0}, "ongoing_requests: must be greater than 0 (given: 0); correct it"),
        (CLASSIFIER, {"autoscaling_config": {"min_replicas": 5, "max_replicas": 2}}, "; raise max_replicas, or lower"),
        (CLASSIFIER, {"num_replicas": "auto", "autoscaling_config": {"min_replicas": 0}}, "min_replicas: must be 1"),
        ((), {"controller_options": {"runtime_env": {"env_vars": {"A": "1"}}}}, "controller_options: its variables"),
        ((), {"target_capacity": 50}, "target_capacity: must be 100 (given: 50); remove the key: a start waits for"),
        (CLASSIFIER, {"name": "Engine"}, "each replica has an engine of its own; write `name: Classifier`, or args"),
        (("applications", 0), {"name": "model"}, "; give each application another name"),
        (("applications", 0), {"route_prefix": "/model"}, "; give each application another route_prefix"),
        (("applications", 0), {"import_path": None}, "applications[users].import_path: must be a valid string (given:"),
        ((), {"proxy_location": "EveryNodes"}, "proxy_location: must be 'Disabled', 'HeadOnly' or 'EveryNode'; did"),
        (APPLICATION, {"deployments": ["Classifier"]}, "[model].deployments[0]: must have keys of its own; write its"),
        (APPLICATION, {"deployments": [{"name": "Classifier"}, ["a"]]}, "applications[model].deployments[1]: must"),
        (APPLICATION, {"runtime_env": {"py_modules": None}}, "applications: Serve cannot read it (TypeError); docs/"),
        ((), {"http_options": []}, "http_options: must have keys of its own; docs/configuration.md describes it"),
    ],
)  # fmt: skip
def test_a_value_that_is_refused_has_its_key_and_a_remedy(
    where: tuple[str | int, ...], values: dict[str, Any], told: str
) -> None:
    config = inner = read_config("one_replica.yaml")
    for step in where:
        inner = inner[step]  # type: ignore[index]
    inner.update(values)
    faults = list(config_faults(config))
    assert told in "\n".join(map(str, faults))
    for fault in faults:
        assert fault.key
        assert "; " in str(fault)


@pytest.mark.parametrize("given", ["one_thread", "one_thread.yaml", "configs/one_thread.yaml", "configs/one_thread"])
def test_a_shipped_config_is_found_by_its_name_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(given).read_text() == (CONFIGS / "one_thread.yaml").read_text()
    assert data_plane_environment(find_config(given), {})["RAY_SERVE_HAPROXY_NBTHREAD"] == "1"


def test_a_file_goes_before_a_shipped_config_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one_thread").touch()
    assert find_config("one_thread") == Path("one_thread")
    with pytest.raises(
        SetupError,
        match=r"two cannot be read: .*\(cluster, fastest, gpu, one_replica, one_thread, two_models, two_replicas\)",
    ):
        find_config("two")
    with pytest.raises(SetupError, match="cannot be read: File name too long"):
        find_config(TOO_LONG)


def test_a_key_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((CONFIGS / "one_replica.yaml").read_text() + "\nlogging_config: {}\n")
    with pytest.raises(SetupError, match="'logging_config' stands twice"):
        load_config(path)


@pytest.mark.parametrize("key", ["name", "route_prefix"])
def test_an_application_needs_a_name_and_a_path(tmp_path: Path, key: str) -> None:
    config = read_config("one_replica.yaml")
    del config["applications"][1][key]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(SetupError, match=rf"applications\[1\].{key}"):
        load_config(path)


def test_a_config_elsewhere_gets_the_shipped_serve_env(tmp_path: Path) -> None:
    assert data_plane_environment(tmp_path / "config.yaml", {})["RAY_SERVE_HAPROXY_NBTHREAD"] == "1"


def test_a_serve_env_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "serve.env").write_text("export A=1\n")
    with pytest.raises(SetupError, match="NAME=VALUE"):
        data_plane_environment(tmp_path / "config.yaml", {})


def test_rays_token_goes_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends are this machine; a proxy of the environment would be shown the token."""
    seen: list[str] = []

    class Recorder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.connection.getsockname()[1]} {self.headers['Authorization']}")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"applications": {}}')

        def log_message(self, *_: object) -> None:
            pass

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as proxy,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as dashboard,
    ):
        for server in (proxy, dashboard):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
        assert ServeRest(f"http://127.0.0.1:{dashboard.server_port}").applications() == {}
        assert seen == [f"{dashboard.server_port} Bearer secret"]
        proxy.shutdown()
        dashboard.shutdown()


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


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999", "true", "8000.5", "abc", "'0'"])
def test_a_number_that_is_no_port_is_told_by_its_key(tmp_path: Path, port: str) -> None:
    path = tmp_path / "config.yaml"
    text = (CONFIGS / "one_replica.yaml").read_text()
    assert "  port: 8000\n" in text
    path.write_text(text.replace("  port: 8000\n", f"  port: {port}\n"))
    with pytest.raises(SetupError, match=r"http_options\.port: must be a whole number from 1 to 65535; choose"):
        load_config(path)


@pytest.mark.parametrize(("given", "read"), [("'8123'", 8123), ("65535", 65_535), ("1", 1)])
def test_the_port_is_read_as_serve_reads_it(tmp_path: Path, given: str, read: int) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((CONFIGS / "one_replica.yaml").read_text().replace("  port: 8000\n", f"  port: {given}\n"))
    assert api_port(load_config(path)) == read
    assert api_port({}) == 8000


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
    environment = data_plane_environment(CONFIGS / "one_replica.yaml", {})
    assert not {"RAY_SERVE_ENABLE_HA_PROXY", BINARY_VARIABLE} & set(environment)


def test_ray_starts_haproxy_through_the_program_that_hardens_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    program = tmp_path / "serve-app-haproxy"
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(SetupError, match="install the project again"):
        data_plane_environment(CONFIGS / "one_replica.yaml", {})
    program.touch()
    assert data_plane_environment(CONFIGS / "one_replica.yaml", {})[BINARY_VARIABLE] == str(program)
    own = {BINARY_VARIABLE: "/opt/haproxy"}
    assert BINARY_VARIABLE not in data_plane_environment(CONFIGS / "one_replica.yaml", own)


@pytest.mark.parametrize(("threads", "replicas", "cores"), [(2, 1, 2), (1, 2, 2), (4, 2, 8), (3, 2, 7)])
def test_threads_that_fit_the_cores_are_not_mentioned(threads: int, replicas: int, cores: int) -> None:
    for least in {0, 1, replicas}:
        assert thread_budget_fault([Classifier("model", threads, Replicas(least, replicas))], cores) is None


@pytest.mark.parametrize(
    ("threads", "replicas", "cores", "words"),
    [
        (2, (2, 2), 2, "2 replica(s) × 2 engine thread(s) = 4 on 2 core(s) (by CPU affinity and quota): they will"),
        (2, (2, 2), 2, "each other down. Set `num_replicas: 2` and `threads: 1`"),
        (2, (1, 3), 2, "down. Set `autoscaling_config: {max_replicas: 2}` and `threads: 1`"),
        (1, (1, 1), 2, "cores will stay idle. Set `num_replicas: 1` and `threads: 2`"),
        (2, (1, 1), 1, "slow each other down. Set `num_replicas: 1` and `threads: 1`"),
        (1, (4, 4), 2, "slow each other down. Set `num_replicas: 2` and `threads: 1`"),
        (2, (3, 3), 2, "slow each other down. Set `num_replicas: 2` and `threads: 1`"),
        (2, (1, 3), 2, "1 to 3 replica(s) × 2 engine thread(s) = 6 on 2 core(s) (by CPU affinity and quota): they"),
        (1, (3, 4), 2, "down. Set `autoscaling_config: {min_replicas: 2, max_replicas: 2}` and `threads: 1`"),
        (1, (0, 2), 8, "cores will stay idle. Set `autoscaling_config: {max_replicas: 2}` and `threads: 4`"),
    ],
)  # fmt: skip
def test_threads_that_do_not_are_a_loud_line(threads: int, replicas: tuple[int, int], cores: int, words: str) -> None:
    fault = thread_budget_fault([Classifier("model", threads, Replicas(*replicas))], cores)
    assert fault is not None
    assert fault.startswith("THREADS")
    assert words in fault


def test_what_the_loud_line_recommends_is_not_warned_of_again() -> None:
    for threads, most, cores in product(range(1, 6), range(1, 6), range(1, 8)):
        for least in {1, most}:
            fault = thread_budget_fault([Classifier("model", threads, Replicas(least, most))], cores)
            if fault is not None:
                [replicas] = re.findall(r"(?:num|max)_replicas: (\d+)", fault)
                [better] = re.findall(r"`threads: (\d+)`", fault)
                count = Replicas(min(least, int(replicas)), int(replicas))
                assert thread_budget_fault([Classifier("model", int(better), count)], cores) is None


def test_the_share_that_two_applications_are_told_is_not_warned_of_again() -> None:
    for threads, first, second, cores in product(range(1, 6), range(1, 4), range(1, 4), range(6, 12)):
        replicas = [Replicas(1, first), Replicas(1, second)]
        if fault := thread_budget_fault([Classifier("model", threads, each) for each in replicas], cores):
            [better] = re.findall(r"`threads: (\d+)`", fault)
            assert thread_budget_fault([Classifier("model", int(better), each) for each in replicas], cores) is None


@pytest.mark.parametrize(
    ("deployment", "replicas"),
    [
        ({}, (1, 1)),
        ({"num_replicas": 3}, (3, 3)),
        ({"autoscaling_config": {"min_replicas": 2, "max_replicas": 5}}, (2, 5)),
        ({"autoscaling_config": {"max_replicas": 4}}, (1, 4)),
        ({"num_replicas": "auto"}, (1, 100)),
        ({"num_replicas": "auto", "autoscaling_config": {"max_replicas": 2}}, (1, 2)),
    ],
)
def test_replicas_are_counted_as_serve_does_fixed_or_autoscaled(
    deployment: dict[str, Any], replicas: tuple[int, int]
) -> None:
    config = read_config("one_replica.yaml")
    config["applications"][1]["deployments"] = [{"name": "Classifier", **deployment}]
    [found] = classifiers(config)
    assert found.replicas == replicas
