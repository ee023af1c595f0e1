"""Signals to real processes: from when a fault counts, and what is no fault."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from loadtest.errors import CellFailedError
from loadtest.faults.fault_plan import Fault, Freeze, Kill
from loadtest.faults.injection import Injection
from loadtest.faults.process_watch import ProcessWatch
from loadtest.plan.targets import Role
from tests.kit import STOP_S

KILL = Fault(name="kill", kill=Kill(role="victim", processes="all"))
FREEZE = Fault(name="freeze", freeze=Freeze(role="victim", for_s=1, processes="all"))


@contextmanager
def watched_victims(folder: Path, count: int) -> Iterator[tuple[ProcessWatch, list["subprocess.Popen[bytes]"]]]:
    """Start processes of the role, and look at them once."""
    mark = uuid4().hex
    command = [sys.executable, "-c", "import signal; signal.pause()", mark]
    victims = [subprocess.Popen(command) for _ in range(count)]
    try:
        with closing(ProcessWatch([Role(name="victim", command=mark)], folder / "processes.csv")) as watch:
            watch.look()
            yield watch, victims
    finally:
        for victim in victims:
            victim.kill()
            victim.wait(STOP_S)


@pytest.mark.parametrize("fault", [KILL, FREEZE], ids=["kill", "freeze"])
def test_a_fault_begins_before_its_first_signal(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that the signal cuts off ends after the fault began, so it counts for the fault."""
    sent_unix_s: list[float] = []
    send_signal = psutil.Process.send_signal

    def noted(process: psutil.Process, number: int) -> None:
        sent_unix_s.append(time.time())
        send_signal(process, number)
        time.sleep(0.01)

    monkeypatch.setattr(psutil.Process, "send_signal", noted)
    with watched_victims(tmp_path, 2) as (watch, victims):
        injection = Injection(fault, watch, tmp_path / "log", {})
        injection.step()
        injection.close()
    assert {victim.pid for victim in victims} == set(injection.event.pids)
    assert 0 < injection.event.began_unix_s <= sent_unix_s[0]


@pytest.mark.parametrize("fault", [KILL, FREEZE], ids=["kill", "freeze"])
def test_a_signal_that_reaches_no_process_is_no_fault(fault: Fault, tmp_path: Path) -> None:
    with watched_victims(tmp_path, 1) as (watch, (victim,)):
        victim.kill()
        victim.wait(STOP_S)
        injection = Injection(fault, watch, tmp_path / "log", {})
        with pytest.raises(CellFailedError, match="each process of the role victim had ended already"):
            injection.step()
        injection.close()
    assert injection.event.struck == []
