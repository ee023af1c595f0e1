"""ray_cluster.yaml by Ray's own checks, and its commands in real shells on a node that only takes notes."""

import ipaddress
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config, with_envs
from ray.autoscaler.tags import TAG_RAY_NODE_KIND
from requests.utils import get_environ_proxies

ROOT = Path(__file__).parents[3]
SHELLS = ["sh", "bash"]
HEAD_IP = "192.0.2.10"
SECRETS = "DATABASE_URL=postgresql://user:password@192.0.2.20/users\nRAY_REDIS_PASSWORD='a b'\n"
SHELL_DEADLINE_S = 120

# Each binary writes its arguments to ~/calls and its environment to ~/env.<name>.<first argument>. The first
# `serve status` calls fail, one for each line of ~/refusals, as they do while the dashboard starts.
NOTE_TAKER = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" >> "$HOME/calls"
env -0 > "$HOME/env.$name.$1"
if [ "$name $1" = "serve status" ] && [ -s "$HOME/refusals" ]; then sed -i 1d "$HOME/refusals"; exit 1; fi
if [ "$name $2" = "python3 venv" ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/pip"; fi
"""

# Takes a note of the deployment; anything else is run.
PYTHON = """#!/bin/sh
if [ "$2" = "serve_app.redeploy" ]; then echo "python $*" >> "$HOME/calls"; exit 0; fi
exec {python} "$@"
"""


class Node:
    """A home directory as the launcher leaves it after copying, plus note-taking binaries."""

    def __init__(self, home: Path, cluster: dict[str, Any]) -> None:
        self.home = home
        self.project = home / "serve-app"
        (home / "here" / ".ray").mkdir(parents=True)
        (home / "here" / ".ray" / "auth_token").write_text("the token")
        (home / "here" / ".serve-app-cluster").mkdir()
        (home / "here" / ".serve-app-cluster" / "api_keys").write_text("a-key-of-these-tests\n")
        (home / "here" / ".serve-app-cluster" / "secrets.env").write_text(SECRETS)
        for remote, local in cluster["file_mounts"].items():
            source = ROOT / local.replace("~", str(home / "here"), 1)
            target = home / remote.removeprefix("~/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*cluster["rsync_exclude"]))
            else:
                shutil.copy(source, target)

    def install(self, *binaries: str) -> None:
        """Put note takers at these paths below the home directory."""
        for binary in binaries:
            path = self.home / binary
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(NOTE_TAKER)
            path.chmod(0o755)

    def run(self, shell: str, commands: Sequence[str]) -> list[int]:
        """Run each command in a non-login shell of its own, as Ray can over SSH; return exit codes."""
        environment = {"HOME": str(self.home), "PATH": f"{self.home / 'bin'}:/usr/bin:/bin"}
        return [
            subprocess.run(
                [shell, "-c", command], cwd=self.home, env=environment, timeout=SHELL_DEADLINE_S, check=False
            ).returncode
            for command in commands
        ]

    def calls(self) -> list[str]:
        """Return the command lines noted so far."""
        return (self.home / "calls").read_text().splitlines()

    def environment(self, binary: str, argument: str) -> dict[str, str]:
        """Return the environment in which `binary argument` ran last."""
        lines = (self.home / f"env.{binary}.{argument}").read_text().split("\0")
        return dict(line.split("=", 1) for line in lines if line)


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def node(tmp_path: Path, cluster: dict[str, Any]) -> Node:
    node = Node(tmp_path, cluster)
    node.install("serve-app/.venv/bin/ray", "serve-app/.venv/bin/serve", "bin/sleep")
    program = node.project / ".venv/bin/python"
    program.write_text(PYTHON.format(python=shlex.quote(sys.executable)))
    program.chmod(0o755)
    return node


def head_start(cluster: dict[str, Any]) -> list[str]:
    return list(with_envs(cluster["head_start_ray_commands"], {"RAY_enable_autoscaler_v2": "1"}))


def worker_start(cluster: dict[str, Any]) -> list[str]:
    return list(with_envs(cluster["worker_start_ray_commands"], {"RAY_HEAD_IP": HEAD_IP}))


def serve_env() -> dict[str, str]:
    return env_of("serve.env")


def env_of(name: str) -> dict[str, str]:
    lines = (ROOT / "configs" / name).read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line.strip() and not line.startswith("#"))
    return {name: shlex.split(value)[0] for name, value in settings.items()}


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["max_workers"] == len(cluster["provider"]["worker_ips"])


def test_ray_accepts_the_file_for_aws_whose_nodes_do_the_same(cluster: dict[str, Any]) -> None:
    rented = yaml.safe_load((ROOT / "ray_cluster_aws.yaml").read_text())
    validate_config(prepare_config(rented))
    local = {"head_setup_commands"}  # of machines that Ray does not rent
    same = {"file_mounts", "rsync_exclude", *(key for key in cluster if key.endswith("_commands"))} - local
    assert {key: rented[key] for key in same} == {key: cluster[key] for key in same}
    assert rented["head_node_type"] in rented["available_node_types"]
    assert {node["node_config"]["ImageId"] for node in rented["available_node_types"].values()} == {f"ami-{0:017}"}


def test_rented_nodes_let_users_reach_the_service(cluster: dict[str, Any]) -> None:
    """Ray adds these rules to its own, which open SSH and the nodes to each other."""
    rented = yaml.safe_load((ROOT / "ray_cluster_aws.yaml").read_text())
    config = yaml.safe_load((ROOT / "configs" / "cluster.yaml").read_text())
    [rule] = rented["provider"]["security_group"]["IpPermissions"]
    port = config["http_options"]["port"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", port, port)
    ranges = [ipaddress.ip_network(each["CidrIp"]) for each in rule["IpRanges"]]
    assert ranges
    assert "security_group" not in cluster["provider"]


def test_the_running_monitor_learns_of_a_new_address_and_keeps_what_it_knows(
    node: Node, cluster: dict[str, Any]
) -> None:
    """With --no-restart, only the setup commands of the head run."""
    kept, new, gone = "192.0.2.11", "192.0.2.12", "192.0.2.13"
    state = node.home / "t" / "ray" / "cluster-serve-app.state"
    state.parent.mkdir(parents=True)
    kinds = {HEAD_IP: "head", kept: "worker", gone: "worker"}
    known = {each: {"tags": {TAG_RAY_NODE_KIND: kind}, "state": "running"} for each, kind in kinds.items()}
    state.write_text(json.dumps(known))
    with (node.home / ".serve-app-cluster" / "secrets.env").open("a") as file:
        file.write(f"RAY_TMPDIR={node.home}/t\n")
    prepared = prepare_config(cluster | {"provider": cluster["provider"] | {"worker_ips": [kept, new]}})
    (node.home / "ray_bootstrap_config.yaml").write_text(json.dumps(prepared))
    assert node.run("sh", cluster["head_setup_commands"]) == [0]
    found = {address: each["state"] for address, each in json.loads(state.read_text()).items()}
    assert found == {HEAD_IP: "running", kept: "running", new: "terminated"}


def test_the_provider_has_only_keys_that_ray_reads(cluster: dict[str, Any]) -> None:
    """Ray's schema lets any key of `provider` pass."""
    assert cluster["provider"].keys() == {"type", "head_ip", "worker_ips"}


def test_every_address_is_an_example(cluster: dict[str, Any]) -> None:
    provider = cluster["provider"]
    examples = ipaddress.ip_network("192.0.2.0/24")
    assert all(ipaddress.ip_address(ip) in examples for ip in [provider["head_ip"], *provider["worker_ips"]])


@pytest.mark.parametrize("shell", SHELLS)
def test_ray_starts_with_every_setting_of_serve_env_on_head_and_worker(
    node: Node, cluster: dict[str, Any], shell: str
) -> None:
    program = str(Path(sys.executable).with_name("serve-app-haproxy"))  # beside the Python that the node runs
    expected = serve_env() | env_of("cluster.env") | {"RAY_SERVE_HAPROXY_BINARY_PATH": program}
    expected["DATABASE_URL"] = "postgresql://user:password@192.0.2.20/users"
    for commands in (head_start(cluster), worker_start(cluster)):
        assert set(node.run(shell, commands)) == {0}
        started = node.environment("ray", "start")
        assert expected.items() <= started.items()
    assert [*node.project.rglob("__pycache__")] == []  # Ray's monitor would take it for a change, and restart workers


def test_the_head_keeps_its_dashboard_to_itself_and_sets_up_the_workers(node: Node, cluster: dict[str, Any]) -> None:
    node.run("sh", head_start(cluster))
    stop, start, *_ = node.calls()
    assert stop == "ray stop"
    assert start.startswith("ray start --head --port=6379 --dashboard-host=127.0.0.1 ")
    assert start.endswith("--autoscaling-config=~/ray_bootstrap_config.yaml --redis-password=a b")


def test_without_a_redis_for_its_state_the_head_starts_too(node: Node, cluster: dict[str, Any]) -> None:
    (node.home / ".serve-app-cluster" / "secrets.env").write_text("DATABASE_URL=postgresql://192.0.2.20/users\n")
    assert set(node.run("sh", head_start(cluster))) == {0}
    assert not any("--redis-password" in call for call in node.calls())


def test_a_worker_that_does_not_start_in_time_is_started_five_times(node: Node, cluster: dict[str, Any]) -> None:
    refusing = node.project / ".venv/bin/ray"
    refusing.write_text(f'{refusing.read_text()}[ "$1" = stop ]\n')
    assert node.run("sh", worker_start(cluster)) == [1]
    assert node.calls().count(f"ray start --address={HEAD_IP}:6379") == 5


def test_a_worker_joins_the_head(node: Node, cluster: dict[str, Any]) -> None:
    node.run("sh", worker_start(cluster))
    assert node.calls() == ["ray stop", f"ray start --address={HEAD_IP}:6379"]


def test_a_node_without_its_settings_does_not_start(node: Node, cluster: dict[str, Any]) -> None:
    (node.home / ".serve-app-cluster" / "secrets.env").unlink()
    assert 0 not in node.run("sh", [*head_start(cluster), *worker_start(cluster)])
    assert not (node.home / "calls").exists()


def test_a_node_whose_database_the_shell_has_lost_does_not_start(
    node: Node, cluster: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Without the quotes, & ends the assignment and runs it elsewhere; each node would have users of its own."""
    secrets = node.home / ".serve-app-cluster" / "secrets.env"
    url = "postgresql://192.0.2.20/users?sslmode=require&channel_binding=prefer"
    secrets.write_text(f"DATABASE_URL={url}\n")
    for command in (head_start(cluster)[0], *worker_start(cluster)):
        assert node.run("sh", [command]) != [0]
        assert "DATABASE_URL: set it in secrets.env, in single quotes" in capfd.readouterr().err
    assert not (node.home / "calls").exists()
    secrets.write_text(f"DATABASE_URL='{url}'\n")
    assert node.run("sh", worker_start(cluster)) == [0]
    assert node.environment("ray", "start")["DATABASE_URL"] == url


def test_the_config_is_deployed_with_the_token_once_the_dashboard_answers(node: Node, cluster: dict[str, Any]) -> None:
    (node.home / "refusals").write_text("no\n" * 3)
    node.run("sh", head_start(cluster))
    questions = [call for call in node.calls() if call == "serve status"]
    assert len(questions) == 4
    deployment = "python -m serve_app.redeploy configs/cluster.yaml --dashboard http://127.0.0.1:8265"
    assert node.calls()[-1] == deployment
    asking = node.environment("serve", "status")
    assert asking["RAY_AUTH_MODE"] == "token"
    with pytest.MonkeyPatch.context() as there:  # a proxy would get the token
        for name, value in {"http_proxy": "http://192.0.2.1:3128", "no_proxy": asking.get("no_proxy", "")}.items():
            there.setenv(name, value)
        assert get_environ_proxies("http://localhost:8265/api/serve/applications/") == {}


def test_a_dashboard_that_never_answers_fails_the_launch(node: Node, cluster: dict[str, Any]) -> None:
    (node.home / "refusals").write_text("no\n" * 100)
    assert node.run("sh", head_start(cluster)) == [0, 1]
    assert not any("redeploy" in call for call in node.calls())


def test_the_token_is_shipped_to_where_ray_looks_for_it(node: Node) -> None:
    assert (node.home / ".ray" / "auth_token").read_text() == "the token"


@pytest.mark.parametrize("shell", SHELLS)
def test_setup_installs_what_serving_needs_in_the_locked_versions_and_makes_the_venv_once(
    tmp_path: Path, cluster: dict[str, Any], shell: str
) -> None:
    node = Node(tmp_path, cluster)
    node.install("bin/python3")
    assert set(node.run(shell, cluster["setup_commands"] * 2)) == {0}
    venv, build, project, *second_time = node.calls()
    assert venv == "python3 -m venv .venv"
    assert build.endswith(" -c requirements.lock setuptools")
    assert project.endswith(" -c requirements.lock --no-build-isolation -e .[postgres,onnxruntime,openvino]")
    assert second_time == [build, project]


def test_no_extra_that_nodes_install_has_packages_of_gpus_or_tests(cluster: dict[str, Any]) -> None:
    """The lock has all extras: whoever installs the whole of it downloads gigabytes."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"-e '\.\[(.*)]'", "\n".join(cluster["setup_commands"]))
    assert set(named.split(",")) <= extras.keys() - {"dev", "stress", "gpu", "int8", "jax"}
    assert not any(re.search(r"(-r|--requirement)\b", line) for line in cluster["setup_commands"])


def test_every_file_that_a_command_names_is_shipped(node: Node, cluster: dict[str, Any]) -> None:
    """~/ray_bootstrap_config.yaml is Ray's: the launcher writes it to the head."""
    commands = [line for key, lines in cluster.items() if key.endswith("_commands") for line in lines]
    words = {word.strip(";") for command in commands for word in command.split()}
    files = {word for word in words if word.endswith((".yaml", ".env", ".lock", ".toml")) and "~" not in word}
    assert files >= {"configs/cluster.env", "configs/cluster.yaml", "requirements.lock"}
    assert {file for file in files if not (node.project / file).is_file()} == set()


def test_the_shipped_files_are_enough_to_install_the_project(node: Node) -> None:
    build = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_editable('.'))"
    command = [sys.executable, "-c", build]
    built = subprocess.run(command, cwd=node.project, capture_output=True, text=True, check=False, timeout=60)
    assert built.returncode == 0, built.stderr
    assert "serve_app-" in built.stdout


def test_no_mount_makes_ray_read_the_venv_or_git(cluster: dict[str, Any]) -> None:
    """Ray hashes every file below a mount, and does not ask rsync_exclude."""
    mounted = [ROOT / local for local in cluster["file_mounts"].values() if not local.startswith("~")]
    folders = [Path(folder) for mount in mounted for folder, _, _ in os.walk(mount)]
    assert not [folder for folder in folders if folder.name in {".venv", ".git"}]
