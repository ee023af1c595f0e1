"""What libraries for jobs do when a worker is killed, beside our own: takeover, tasks done twice, poison, speed.

The libraries are no dependency of this project; give a Python that has them:

    .venv/bin/uv venv --python .venv/bin/python /tmp/queues
    .venv/bin/uv pip install --python /tmp/queues/bin/python 'celery[redis]==5.7.0' taskiq==0.13.0 \\
        taskiq-redis==1.2.4 'dramatiq[redis]==2.2.1'

Two workers of four tasks each. `takeover`: 8 tasks of 1 s, one worker is killed with SIGKILL; until the last
task begins at the other. `done twice`: a task of 20 s, nobody is killed; how often it begins. `poison`: a task that
ends its worker, which is started again; how often it begins within a minute. `speed`: 1,000 tasks that do nothing.
"""

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.queue_workers.task import POISON_S
from tests.benchmarks.report import ROOT, begin, command_line, finish, progress, run
from tests.redis_server import RedisServer

FOLDER = Path(__file__).parent / "queue_workers"
SHIPPED, QUICK = "as shipped", "5 s"
LEASES_S = {SHIPPED: "", QUICK: "5"}
READY_S, TAKEOVER_S, TWICE_S, POISONED_S, SPEED_S = 8, 75, 40, 60, 120
TASKS, TASK_S, LONG_TASK_S, MANY, THREADS = 8, 1, 20, 1000, 4
POLL_S = 0.05


@dataclass(frozen=True)
class Candidate:
    """How a library's worker is started, and how its tasks are sent."""

    name: str
    work: Sequence[str]
    send: Sequence[str]


@dataclass(frozen=True)
class Event:
    """One line that a task noted."""

    what: str
    number: int
    worker: int
    at_s: float


class Bench:
    """One candidate at an empty Redis of its own."""

    def __init__(self, candidate: Candidate, lease: str, folder: Path, redis: RedisServer) -> None:
        self._candidate = candidate
        self._log = folder / "log"
        lease_s = LEASES_S[lease]
        self._environment = os.environ | {
            "QUEUE_URL": redis.url,
            "QUEUE_LEASE_S": lease_s,
            "QUEUE_LOG": str(self._log),
        }
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        """Start a worker, in a process group of its own."""
        started = subprocess.Popen(
            self._candidate.work,
            cwd=ROOT if "-m" in self._candidate.work else FOLDER,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.workers.append(started)
        return started

    def send(self, count: int, seconds: float) -> None:
        """Send tasks."""
        command = [*self._candidate.send, "send", str(count), str(seconds)]
        subprocess.run(command, cwd=ROOT if "-m" in command else FOLDER, env=self._environment, check=True)

    def events(self) -> list[Event]:
        """Return what was noted so far."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        parts = (line.split() for line in lines)
        return [Event(what, int(number), int(worker), float(at_s)) for what, number, worker, at_s in parts]

    def wait(self, is_there: Callable[[list[Event]], bool], limit_s: float, *, restarts: bool = False) -> bool:
        """Return whether it came true in time; with `restarts`, workers that ended are started again."""
        deadline = time.monotonic() + limit_s
        while not is_there(self.events()):
            if time.monotonic() > deadline:
                return False
            for worker in self.workers if restarts else ():
                if worker.poll() is not None:
                    self.workers.remove(worker)
                    self.start()
            time.sleep(POLL_S)
        return True

    def close(self) -> None:
        """Kill the workers."""
        for worker in self.workers:
            kill(worker)


def kill(worker: subprocess.Popen[bytes]) -> None:
    """End a worker and its processes as a machine's failure does."""
    with suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


@contextmanager
def bench(candidate: Candidate, lease: str) -> Iterator[Bench]:
    """Open one with two workers that are ready."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="queues-")))
        redis = RedisServer(folder)
        stack.callback(redis.close)
        opened = Bench(candidate, lease, folder, redis)
        stack.callback(opened.close)
        for _ in range(2):
            opened.start()
        time.sleep(READY_S)
        yield opened


def measure_takeover(opened: Bench) -> float:
    """Return seconds from a worker's death until the last unfinished task begins elsewhere; NaN when one does not."""
    opened.send(TASKS, TASK_S)
    assert opened.wait(lambda events: len(events) >= THREADS, READY_S), "tasks were not taken"
    time.sleep(TASK_S / 2)
    held = Counter(event.worker for event in opened.events())
    victim = next(worker for worker in opened.workers if worker.pid == held.most_common(1)[0][0])
    kill(victim)
    killed_s = time.time()
    opened.wait(lambda events: len(ended(events)) == TASKS, TAKEOVER_S)
    events = opened.events()
    if len(ended(events)) < TASKS:
        return math.nan
    return max(event.at_s for event in events if begins(event)) - killed_s


def measure_twice(opened: Bench) -> float:
    """Return how often one long task begins."""
    opened.send(1, LONG_TASK_S)
    time.sleep(TWICE_S)
    return len([event for event in opened.events() if begins(event)])


def measure_poison(opened: Bench) -> float:
    """Return how often a task that kills its worker begins."""
    opened.send(1, POISON_S)
    opened.wait(lambda _: False, POISONED_S, restarts=True)
    return len([event for event in opened.events() if begins(event)])


def measure_speed(opened: Bench) -> float:
    """Return tasks per second from the first begin until the last end, sent while they are worked off."""
    opened.send(MANY, 0)
    assert opened.wait(lambda events: len(events) >= 2 * MANY, SPEED_S), "tasks were not worked off"
    at_s = [event.at_s for event in opened.events()]
    return MANY / (max(at_s) - min(at_s))


def ended(events: list[Event]) -> set[int]:
    """Return the tasks that have an end."""
    return {event.number for event in events if event.what == "end"}


def begins(event: Event) -> bool:
    """Tell whether it is a begin."""
    return event.what == "begin"


PROBES: tuple[tuple[str, str, str, Callable[[Bench], float]], ...] = (
    ("takeover", SHIPPED, "s", measure_takeover),
    ("takeover", QUICK, "s", measure_takeover),
    ("done twice", QUICK, "begins", measure_twice),
    ("poison", QUICK, "begins", measure_poison),
    ("speed", QUICK, "tasks/s", measure_speed),
)


def main() -> int:
    parser = command_line("job_queues", __doc__)
    parser.add_argument("--python", type=Path, required=True, help="one that has the libraries")
    parser.add_argument(
        "--only", nargs="+", metavar="PROBE", help=f"of {', '.join(dict.fromkeys(n for n, *_ in PROBES))}"
    )
    arguments = parser.parse_args()
    report = begin("job_queues", arguments)
    for probe, lease, unit, measure in PROBES:
        if arguments.only and probe not in arguments.only:
            continue
        for candidate in candidates(str(arguments.python.absolute())):
            with bench(candidate, lease) as opened:
                value = measure(opened)
            progress(f"{probe}, {lease}, {candidate.name}: {value:g} {unit}")
            report.append("Two workers", candidate.name, f"{probe} ({lease})", unit, value)
    report.notes.append(f"nan: not within {TAKEOVER_S} s")
    return finish(report, arguments.json)


def candidates(python: str) -> list[Candidate]:
    """Return ours and the others. Raises RuntimeError if the folder of `python` lacks one of their commands."""
    ours = [sys.executable, "-m", "tests.benchmarks.queue_workers.ours"]
    found = [Candidate("ours", [*ours, "work"], ours)]
    commands = {
        "with_celery": ("celery", "--app", "with_celery", "worker", "--without-gossip", "--without-mingle"),
        "with_taskiq": ("taskiq", "worker", "--workers", "1", "--max-async-tasks", "4", "with_taskiq:broker"),
        "with_dramatiq": ("dramatiq", "--processes", "1", "--threads", "4", "with_dramatiq"),
    }
    for module, (command, *options) in commands.items():
        start = [str(Path(python).parent / command), *options]
        if not Path(start[0]).is_file():
            raise RuntimeError(f"--python: {start[0]} is not there; install celery, taskiq and dramatiq beside it")
        found.append(Candidate(module.removeprefix("with_"), start, [python, f"{module}.py"]))
    return found


if __name__ == "__main__":
    run(main)
