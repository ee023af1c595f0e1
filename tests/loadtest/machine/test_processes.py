"""Processes that the kit starts, and signals that come meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import ROOT, STOP_S

INTERRUPTED_WHILE_FORKING = """
import os, signal, sys, threading, time
from pathlib import Path
import psutil
from loadtest.machine.processes import start_process
from loadtest.measure.experiment import Interrupted, raising_on_signals

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(float(sys.argv[2]))

signal.signal(signal.SIGINT, signal.default_int_handler)
for _ in range(int(sys.argv[3])):
    threading.Thread(target=signal.pause, daemon=True).start()
os.register_at_fork(before=interrupt)
try:
    with raising_on_signals():
        start_process([sys.executable, "-c", "import signal; signal.pause()"], Path(sys.argv[1]), os.environ)
except Interrupted as exc:
    print("interrupted by", exc.number, "which leaves", psutil.Process().children())
"""


@pytest.mark.parametrize(("wait_s", "threads"), [("0", "0"), ("0.3", "1")])
def test_ctrl_c_while_a_process_is_started_is_not_lost_and_leaves_no_process(
    wait_s: str, threads: str, tmp_path: Path
) -> None:
    """Python prints and forgets what a signal handler raises within the hooks that it calls around a fork.

    A thread that does not hold signals back, such as those of numpy, gets what this one holds back.
    """
    command = [sys.executable, "-c", INTERRUPTED_WHILE_FORKING, f"{tmp_path}/log", wait_s, threads]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=STOP_S, check=False)
    assert (ended.stdout, ended.returncode) == ("interrupted by 2 which leaves []\n", 0), ended.stderr


INTERRUPTED_IN_A_FINALIZER = """
import os, signal, sys
from loadtest.measure.experiment import Interrupted, raising_on_signals

class Closed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with raising_on_signals():
        Closed()
        signal.pause()
except Interrupted as exc:
    print("interrupted by", exc.number)
"""


def test_ctrl_c_in_a_finalizer_is_not_lost() -> None:
    """Python prints and forgets what a signal handler raises within `__del__`, such as that of an open ZIP file."""
    command = [sys.executable, "-c", INTERRUPTED_IN_A_FINALIZER]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=STOP_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "interrupted by 2\n", "")
