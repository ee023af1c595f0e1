"""Which role a process counts for, by real processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from loadtest.machine.resources import ResourceSampler
from loadtest.plan.targets import Role

PATTERN = "pattern of a role"


@contextmanager
def processes(count: int) -> Iterator[list[int]]:
    """Yield the pids of so many processes that have the pattern in their command line."""
    command = [sys.executable, "-c", f"import sys; sys.stdin.read()  # {PATTERN}"]
    with ExitStack() as stack:
        yield [stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE)).pid for _ in range(count)]


def test_a_role_anywhere_does_not_count_the_load_generators() -> None:
    with processes(3) as pids:
        sampler = ResourceSampler([Role(name="service", command=PATTERN, anywhere=True)], *pids[:2])
        counts = {row.role: row.processes for row in sampler.sample()}
    assert (counts["load_generator"], counts["service"]) == (2, 1)
