"""What the threads of a process did, as Linux' scheduler tells it: read from real processes."""

import hashlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from loadtest.measuring.resources import ResourceSampler
from loadtest.measuring.threads import ThreadReader, ThreadUse, add_up, knows_threads
from loadtest.plan import Role

pytestmark = pytest.mark.skipif(not knows_threads(), reason="only Linux tells how long a thread waited for a core")
CORES = os.cpu_count() or 1
THREADS = 2 * CORES
READ_AFTER_S = 0.5


@contextmanager
def computing_threads(count: int) -> Iterator[None]:
    """Run threads that compute outside of Python's interpreter lock, and as many that sleep."""
    stop, block = threading.Event(), bytes(1_000_000)

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


def test_threads_that_want_a_core_are_busy_whether_they_get_one_or_wait() -> None:
    reader, process = ThreadReader(), psutil.Process()
    with computing_threads(THREADS):
        reader.begin(process)
        began_s = time.monotonic()
        time.sleep(READ_AFTER_S)
        use = reader.read(process, time.monotonic() - began_s)
    assert use.busy_threads == THREADS
    assert 0 < use.busiest_thread_percent < 110
    # Twice as many threads as cores: half of them wait at any time, more if others want the cores too.
    assert use.runqueue_wait_percent > 50 * CORES


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
    code = "import hashlib\nwhile True: hashlib.sha256(bytes(10**6)).digest()"
    roles = [Role(name="busy", command="while True"), Role(name="idle", command="signal.pause")]
    with (
        psutil.Popen([sys.executable, "-c", code]) as busy,
        psutil.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as idle,
    ):
        try:
            time.sleep(READ_AFTER_S)
            sampler = ResourceSampler(roles, 0)
            time.sleep(READ_AFTER_S)
            rows = {row.role: row for row in sampler.sample()}
        finally:
            busy.kill()
            idle.kill()
    assert rows["busy"].busy_threads == 1
    assert (rows["idle"].busy_threads, rows["idle"].runqueue_wait_percent) == (0, 0)
    assert (rows["machine"].busy_threads, rows["stolen"].busiest_thread_percent) == (None, None)
