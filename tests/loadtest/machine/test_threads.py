"""What the threads of a process did, as Linux' scheduler tells it: read from real processes, and from made files."""

import hashlib
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from loadtest.machine.cores import usable_cores
from loadtest.machine.resources import ResourceSampler
from loadtest.machine.threads import ThreadReader, ThreadUse, add_up, knows_threads
from loadtest.plan.targets import Role
from tests.kit import STOP_S

pytestmark = pytest.mark.skipif(not knows_threads(), reason="only Linux tells how long a thread waited for a core")
CORES = math.ceil(usable_cores())
THREADS = 2 * CORES
READ_AFTER_S = 0.5


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Run threads that compute outside of Python's interpreter lock, and as many that sleep."""
    # So large that they hardly ever wait for the interpreter lock, which is no waiting for a core.
    stop, block = threading.Event(), bytes(20_000_000)

    def compute() -> None:
        while not stop.is_set():
            hashlib.sha256(block).digest()

    threads = [threading.Thread(target=work) for work in (compute, stop.wait) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_until_asleep(process: psutil.Process) -> None:
    deadline_s = time.monotonic() + STOP_S
    while process.status() != psutil.STATUS_SLEEPING:
        assert time.monotonic() < deadline_s, process
        time.sleep(0.01)


def test_threads_that_want_a_core_wait_for_it_while_others_run() -> None:
    reader, process = ThreadReader(), psutil.Process()
    with computing_threads(THREADS):
        reader.begin(process)
        began_s = time.monotonic()
        time.sleep(READ_AFTER_S)
        use = reader.read(process, time.monotonic() - began_s)
    assert use.busiest_thread_percent > 0
    # Twice as many threads as cores: half of them wait at any time, more if others want the cores too.
    assert use.runqueue_wait_percent > 50 * CORES


def test_a_thread_is_busy_whether_it_gets_a_core_or_waits_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made schedstat files: ns on a core and on a run queue, and the number of turns, of five threads in a second."""
    monkeypatch.setattr("loadtest.machine.threads._PROC", tmp_path)
    reader, process = ThreadReader(), psutil.Process()
    runs, waits, hardly_ran, wakes_up, sleeps = (900, 0), (60, 800), (40, 900), (150, 50), (0, 0)
    ids = range(2**30, 2**30 + 5)  # of no thread on this machine
    use_ms = dict(zip(map(str, ids), (runs, waits, hardly_ran, wakes_up, sleeps), strict=True))
    before_ms = 5000
    for moment in ("before", "after"):
        for thread, (ran_ms, waited_ms) in use_ms.items():
            file = tmp_path / str(process.pid) / "task" / thread / "schedstat"
            file.parent.mkdir(parents=True, exist_ok=True)
            times_ms = (before_ms + (moment == "after") * used_ms for used_ms in (ran_ms, waited_ms))
            file.write_text(" ".join(str(time_ms * 1_000_000) for time_ms in times_ms) + " 7\n")
        if moment == "before":
            reader.begin(process)
    use = reader.read(process, elapsed_s=1.0)
    assert use.busy_threads == 2
    assert use.busiest_thread_percent == pytest.approx(90)
    assert use.runqueue_wait_percent == pytest.approx(80 + 90 + 5)


def test_a_process_that_has_ended_did_nothing() -> None:
    reader = ThreadReader()
    with psutil.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    reader.begin(process)
    assert reader.read(process, 1.0) == ThreadUse()


def test_of_several_processes_threads_and_waiting_add_up_and_the_busiest_counts() -> None:
    assert add_up([ThreadUse(2, 50.0, 10.0), ThreadUse(1, 90.0, 5.0)]) == ThreadUse(3, 90.0, 15.0)
    assert add_up([]) == ThreadUse()


def test_a_role_tells_of_its_threads_and_a_process_at_rest_of_none() -> None:
    begins = "print(flush=True)\n"
    code = {"busy": f"import hashlib\n{begins}while True: hashlib.sha256(bytes(10**6)).digest()"}
    code["idle"] = f"import signal\n{begins}signal.pause()"
    roles = [Role(name="busy", command="while True"), Role(name="idle", command="signal.pause")]
    with (
        psutil.Popen([sys.executable, "-c", code["busy"]], stdout=subprocess.PIPE) as busy,
        psutil.Popen([sys.executable, "-c", code["idle"]], stdout=subprocess.PIPE) as idle,
    ):
        try:
            for process in (busy, idle):
                assert process.stdout.readline()
            wait_until_asleep(idle)
            sampler = ResourceSampler(roles, 0)
            time.sleep(READ_AFTER_S)
            rows = {row.role: row for row in sampler.sample()}
        finally:
            busy.kill()
            idle.kill()
    used = rows["busy"]
    assert used.busiest_thread_percent is not None
    assert used.runqueue_wait_percent is not None
    assert used.busiest_thread_percent > 0
    assert used.busiest_thread_percent + used.runqueue_wait_percent > 50  # it runs or waits for a core, all the time
    assert (rows["idle"].busy_threads, rows["idle"].runqueue_wait_percent) == (0, 0)
    assert (rows["machine"].busy_threads, rows["stolen"].busiest_thread_percent) == (None, None)
