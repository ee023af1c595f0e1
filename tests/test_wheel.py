"""The built wheel, installed in a virtual environment and used from an empty folder, without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from uv import find_uv_bin

from tests.service import CONFIGS, ROOT

RUN_S = 170
PROGRAMS = ("serve-app", "serve-app-client", "serve-app-haproxy", "loadtest")
SERVICE_FILES = {path.relative_to(CONFIGS) for path in [*CONFIGS.glob("*.yaml"), CONFIGS / "serve.env"]}
STRESS_FILES = {
    path.relative_to(CONFIGS) for path in (CONFIGS / "stress").rglob("*.*") if path.suffix in (".yaml", ".py")
}

FIND_CONFIGS = "import sys; from serve_app.places import find_config; print(*map(find_config, sys.argv[1:]), sep='\\n')"

# Prints each module that the shipped plans of Redis start with `python -m`, with where it is installed.
FIND_MODULES = """
import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from loadtest.faults.fault_plan import load_fault_plan
from loadtest.plan.plan import load_plan
from loadtest.plan.shipped import find_plan
groups = load_fault_plan(find_plan(Path("faults"))).groups
targets = [*load_plan(find_plan(Path("cache"))).targets, *(group.target for group in groups if group.name == "redis")]
words = [shlex.split(target.start) for target in targets]
names = {after for line in words for word, after in zip(line, line[1:]) if word == "-m"}
print(json.dumps({name: getattr(find_spec(name), "origin", None) for name in names}))
"""
ANSWERS = """
import os, socket
from urllib.parse import urlsplit
address = urlsplit(os.environ["REDIS_URL"])
connection = socket.create_connection((address.hostname, address.port))
connection.sendall(b"PING\\r\\n")
print(connection.recv(64))
"""

# Prints each file that a shipped plan names, as the kit finds it from here.
FIND_FILES = """
import json
from pathlib import Path
from loadtest.faults.fault_plan import load_fault_plan, load_soak_plan
from loadtest.plan.plan import load_plan
from loadtest.plan.shipped import find_file, find_plan
from loadtest.tune.tune_file import load_tuning
found = {}
for name in ("cache", "oip", "overload", "published", "quick", "smoke", "two_models"):
    path = find_plan(Path(name))
    plan = load_plan(path)
    found[name] = [plan.workload.locustfile, *(file for target in plan.targets for file in target.files)]
    found[name] += [path.parent / plan.baseline] if plan.baseline else []
for name, load in (("faults", load_fault_plan), ("soak", load_soak_plan)):
    found[name] = [load(find_plan(Path(name))).workload.locustfile]
assert find_plan(Path("configs/stress/quick.yaml")) == find_plan(Path("quick"))
found["tune"] = [load_tuning(find_plan(Path("tune"))).file.base]
print(json.dumps({name: [str(find_file(file)) for file in files] for name, files in found.items()}))
"""


@dataclass
class Installed:
    """A virtual environment that has the wheel, and an empty folder."""

    wheel: Path
    environment: Path
    folder: Path

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a program of the environment in the empty folder."""
        program = self.environment / "bin" / command[0]
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env=clean,
            timeout=RUN_S,
            check=False,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build and install without network: the build backend and all dependencies are those of this environment."""
    top = tmp_path_factory.mktemp("wheel")
    source, built, environment, empty = (top / name for name in ("source", "built", "environment", "empty"))
    source.mkdir()
    empty.mkdir()
    for name in ("serve_app", "loadtest", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    uv = [find_uv_bin(), "--quiet", "--no-config"]
    offline = ["--offline", "--no-cache"]
    build = ["build", "--wheel", *offline, "--no-build-isolation", "--python", sys.executable]
    _do([*uv, *build, "--out-dir", str(built), str(source)])
    [wheel] = built.glob("*.whl")
    _do([*uv, "venv", *offline, "--python", sys.executable, str(environment)])
    program = str(environment / "bin" / "python")
    _do([*uv, "pip", "install", *offline, "--no-deps", "--python", program, str(wheel)])
    [packages] = environment.glob("lib/python*/site-packages")
    # After the installation, which must not take the checkout's for it. Its .pth files are not read from there.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(wheel, environment, empty)


def _do(command: list[str]) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    done = subprocess.run(command, env=clean, timeout=RUN_S, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_carries_every_file_of_both_packages_and_their_configs(installed: Installed) -> None:
    carried = {Path(name) for name in zipfile.ZipFile(installed.wheel).namelist()}
    for package, configs in (("serve_app", SERVICE_FILES), ("loadtest", SERVICE_FILES | STRESS_FILES)):
        code = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()}
        code = {path for path in code if "__pycache__" not in path.parts and "configs" not in path.parts}
        assert {path for path in carried if path.parts[0] == package} == code | {
            Path(package) / "configs" / path for path in configs
        }
        assert Path(package) / "py.typed" in carried


def test_nothing_else_is_in_the_wheel(installed: Installed) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(installed.wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"serve_app", "loadtest"}


@pytest.mark.parametrize("command", ["serve-app", "serve-app-client", "loadtest", "loadtest run"])
def test_each_program_says_how_it_is_used(installed: Installed, command: str) -> None:
    done = installed.run(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command} [")


def test_the_program_that_ray_starts_as_haproxy_is_installed(installed: Installed) -> None:
    for program in PROGRAMS:
        assert os.access(installed.environment / "bin" / program, os.X_OK)


def test_a_packaged_config_is_found_and_can_be_used(installed: Installed) -> None:
    done = installed.run("serve-app", "--check")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.splitlines()[-1].removesuffix(" can be used"))
    assert path.is_relative_to(installed.environment)
    assert path.read_bytes() == (CONFIGS / "one_replica.yaml").read_bytes()
    assert (path.parent / "serve.env").read_bytes() == (CONFIGS / "serve.env").read_bytes()


def test_each_packaged_config_is_found_by_its_name(installed: Installed) -> None:
    shipped = sorted(CONFIGS.glob("*.yaml"))
    assert shipped
    done = installed.run("python", "-c", FIND_CONFIGS, *(path.stem for path in shipped))
    assert done.returncode == 0, done.stderr
    for path, found in zip(shipped, map(Path, done.stdout.splitlines()), strict=True):
        assert found.is_relative_to(installed.environment)
        assert found.read_bytes() == path.read_bytes()


def test_a_misspelled_key_is_told_with_the_nearest_right_one(installed: Installed, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (CONFIGS / "one_replica.yaml").read_text()
    path.write_text(text.replace(" threads:", " thread:").replace("http_options:", "http_option:"))
    done = installed.run("serve-app", "--check", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ["error"] * 3
    for words in ("http_option: no such key", "args.thread: no such key; did you mean threads?", "args.auth: missing"):
        assert words in done.stderr
    assert installed.run("serve-app", "--check", "one_replcia").stderr.endswith(
        "none of the shipped configs (cluster, fastest, gpu, one_replica, one_thread, two_models, two_replicas)\n"
    )


def test_a_packaged_plan_is_found_with_every_file_that_it_names(installed: Installed) -> None:
    done = installed.run("python", "-c", FIND_FILES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {*found} == {path.stem for path in STRESS_FILES if path.match("stress/*.yaml")}
    for name, files in found.items():
        assert files, name
        assert all(Path(file).is_relative_to(installed.environment) and Path(file).is_file() for file in files), files


def test_a_packaged_plan_is_what_the_kit_reads(installed: Installed) -> None:
    done = installed.run("loadtest", "run", "--targets", "none")
    assert done.returncode == 2
    assert done.stderr.endswith("has no none; it has one_replica, two_replicas\n"), done.stderr
    assert list(installed.folder.iterdir()) == []


def test_the_packaged_plans_of_redis_start_only_what_is_in_the_wheel(installed: Installed) -> None:
    done = installed.run("python", "-c", FIND_MODULES)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {*found} == {"loadtest.machine.with_redis", "serve_app"}
    assert all(place and Path(place).is_relative_to(installed.environment) for place in found.values()), found


def test_a_command_runs_beside_a_redis_of_the_machine(installed: Installed) -> None:
    done = installed.run("python", "-m", "loadtest.machine.with_redis", "python", "-c", ANSWERS)
    assert (done.returncode, done.stdout) == (0, "b'+PONG\\r\\n'\n"), done.stderr
