"""How generators are started: what is refused before anything runs, and what several have done together."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import BadInputError, CellFailedError
from loadtest.load import remote
from loadtest.load.generator import MASTER_LOST, ROWS_LOST, Generator, Load, add_up_seconds, running_generator
from loadtest.machine.processes import start_process
from loadtest.measure.experiment import Interrupted
from loadtest.rows.columns import GeneratorRow, RowWriter
from tests.kit import ROOT, workload
from tests.made_run import made_plan
from tests.ports import free_port

QUIET = """
from locust import User, tag, task

class Quiet(User):
    @tag("fixed")
    @task
    def ask(self):
        pass
"""


def test_a_port_that_is_taken_is_told_before_the_master_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        plan = made_plan(generators=2, generators_at=at)
        load = Load(10, 10, 60, 1, tmp_path, "requests", divided=True)
        with (
            pytest.raises(
                BadInputError, match=f"^generators_at: {at} cannot be listened on .*: give an address of this"
            ),
            running_generator(plan, plan.targets[0], load),
        ):
            pass
    assert not load.log.exists()


def test_an_address_of_another_machine_is_told(tmp_path: Path) -> None:
    plan = made_plan(generators=2, generators_at="192.0.2.7:5557")
    load = Load(10, 10, 60, 1, tmp_path, "requests", divided=True)
    with (
        pytest.raises(BadInputError, match=r"^generators_at: 192\.0\.2\.7:5557 cannot be listened on"),
        running_generator(plan, plan.targets[0], load),
    ):
        pass


def ended_with(code: int) -> "subprocess.Popen[bytes]":
    """Return a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    process.wait()
    return process


@contextmanager
def two_generators(folder: Path, code: int, said: str) -> Iterator[Generator]:
    """Yield a load whose second generator has ended with a code and its last words, while the master still runs."""
    load = Load(10, 10, 60, 1, folder, "requests", divided=True)
    load.log_of(2).write_text(f"{said}\n")
    load.log_of(1).write_text("words of another\n")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as master:
        yield Generator(load, master, [master, ended_with(code)])
        master.kill()


def begin(load: Load) -> None:
    """Write the first second of a load."""
    with closing(RowWriter(load.generator, GeneratorRow, of_several=True)) as writer:
        writer.write(GeneratorRow(100.0, 50.0, 3, 40, 1, 2.0, 12.0, generator=1))


def test_a_generator_that_ends_before_the_load_begins_is_not_lost(tmp_path: Path) -> None:
    told = "load generator 2 of 2 ended with code 1 before the load began: SyntaxError"
    with two_generators(tmp_path, 1, "SyntaxError") as generator, pytest.raises(CellFailedError) as failed:
        generator.is_running()
    assert (str(failed.value), failed.value.code) == (told, "failed")


@pytest.mark.parametrize(("code", "failure"), [(1, "generator_lost"), (MASTER_LOST, "failed")])
def test_a_generator_that_ends_in_mid_load_is_lost_unless_its_master_is(
    tmp_path: Path, code: int, failure: str
) -> None:
    told = f"load generator 2 of 2 ended with code {code} before the load was over: last words"
    with two_generators(tmp_path, code, "last words") as generator:
        begin(generator.load)
        with pytest.raises(CellFailedError) as failed:
            generator.is_running()
    assert (str(failed.value), failed.value.code) == (told, failure)


def test_lost_rows_are_told_with_the_master_s_last_words(tmp_path: Path) -> None:
    load = Load(10, 10, 60, 1, tmp_path, "requests", divided=True)
    load.log.write_text("something else\nload generator 1 of 2 sent 3 rows, but 2 of them were written\n")
    with pytest.raises(CellFailedError, match=r"^load generator 1 of 2 sent 3 rows") as failed:
        Generator(load, ended_with(ROWS_LOST)).is_running()
    assert failed.value.code == "rows_lost"


@pytest.mark.parametrize("generators", [1, pytest.param(2, marks=pytest.mark.long)])
def test_options_in_files_that_locust_reads_by_itself_change_no_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generators: int
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.locust.conf").write_text("key-of-another-locustfile = 1\n")
    (tmp_path / "locust.conf").write_text("processes = 2\n")
    (tmp_path / "pyproject.toml").write_text("[tool.locust]\nrun-time = true\n")
    (tmp_path / "quiet.py").write_text(QUIET)
    work = workload("fixed", locustfile="quiet.py", wait_s=[0.1, 0.1])
    plan = made_plan(generators=generators, workload=work, limits=[])
    load = Load(2, 2, 1, 1, tmp_path, "requests", divided=True)
    with running_generator(plan, plan.targets[0], load) as generator:
        deadline_s = time.monotonic() + 120
        while generator.is_running():
            assert time.monotonic() < deadline_s, load.log.read_text()
            time.sleep(0.05)
        assert generator.read_moments().spawned_unix_s


def test_processes_of_a_run_elsewhere_end_when_a_signal_comes_while_they_are_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start_two(*arguments: Any) -> "subprocess.Popen[bytes]":
        if len(started) == 2:
            raise Interrupted(signal.SIGTERM)
        started.append(start_process(*arguments))
        return started[-1]

    monkeypatch.setattr(remote, "start_process", start_two)
    with pytest.raises(Interrupted):
        remote.serve_master("127.0.0.1", free_port(), 3)
    assert [process.returncode is None for process in started] == [False, False]


def test_how_far_several_generators_have_come_is_what_they_did_together() -> None:
    first = GeneratorRow(100.0, 50.0, 3, 40, 1, 2.0, 12.0, generator=1)
    second = GeneratorRow(100.5, 70.0, 2, 30, 0, 9.0, 10.0, generator=2)
    together = add_up_seconds([first, second])
    assert (together.unix_s, together.users, together.requests, together.failures, together.lag_ms) == (
        100.5, 5, 70, 1, 9.0,
    )  # fmt: skip
    assert add_up_seconds([first]) == first
