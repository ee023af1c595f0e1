"""The load generator: Locust in a process of its own, with the plan's numbers; or several under one Locust master."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel

from loadtest.errors import CellFailedError, GeneratorLostError, RowsLostError
from loadtest.machine.processes import family, kill, last_lines, psutil_of, start_process, undisturbed, wait_for_end
from loadtest.plan.generators import check_can_listen, split_address
from loadtest.plan.longest import longest_sending_s
from loadtest.plan.plan import Plan
from loadtest.plan.shipped import find_file
from loadtest.plan.targets import Target
from loadtest.plan.workload import Workload
from loadtest.rows.columns import GeneratorRow, read_rows
from loadtest.rows.run_folder import Moments

CANNOT_WRITE = 3
"""Exit code of a process that could not write rows; the reason is the last line of its output."""

GENERATOR_LOST = 4
"""Exit code of the master when it hears nothing more of a generator; which one is the last line of its output."""

MASTER_LOST = 5
"""Exit code of a generator that hears nothing of its master."""

ROWS_LOST = 6
"""Exit code of the master when not all rows of a generator came; which one is the last line of its output."""

LONGEST_SILENCE_S = 10.0
"""After so long without a sign in mid-load, a generator or its master counts as lost: they hear of each other every
second."""

GENERATORS_COME_S = 45.0
"""The longest wait for generators of other machines; within the time that a load has to start."""

GENERATORS_READY_S = 60.0
"""The longest time for the preparations of several generators: all that a load has to start. No sign of life is needed
meanwhile, for drawing pictures keeps a process busy."""

_LOST: dict[int | None, type[CellFailedError]] = {GENERATOR_LOST: GeneratorLostError, ROWS_LOST: RowsLostError}
"""By exit code of the master."""

_STOP_S = 5.0
_FOREVER_S = 1e6
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Load:
    """One load: its number of users, its duration in seconds, and the files that describe it."""

    users: int
    spawn_rate_per_s: float
    duration_s: int
    seed: int
    folder: Path
    name: str
    """`requests` for the measured load, `warmup` for the one before it."""
    divided: bool = False
    """Whether all generators of the plan make it together; otherwise one on this machine does."""

    @property
    def requests(self) -> Path:
        """Return where the RequestRows go."""
        return self.folder / f"{self.name}.csv"

    @property
    def generator(self) -> Path:
        """Return where the GeneratorRows go."""
        return self.folder / ("generator.csv" if self.name == "requests" else f"{self.name}_generator.csv")

    @property
    def resources(self) -> Path | None:
        """Return where the ResourceRows go; a warm-up has none."""
        return self.folder / "resources.csv" if self.name == "requests" else None

    @property
    def moments(self) -> Path:
        """Return where the Moments go until the cell's record takes them up."""
        return self.folder / f"{self.name}_moments.json"

    @property
    def log(self) -> Path:
        """Return where Locust's output goes; of several generators, that of their master."""
        return self.folder / ("locust.log" if self.name == "requests" else f"{self.name}.log")

    def log_of(self, number: int) -> Path:
        """Return where the output of one of several generators goes."""
        return self.log.with_stem(f"{self.log.stem}_{number}")


Processes = list["subprocess.Popen[bytes]"]
"""Of Locust, that the kit has started."""


class RecorderSettings(BaseModel):
    """What the process that makes the load is given, as JSON."""

    load: Load
    workload: Workload
    drain_s: float
    """After the load, the longest wait for the arrivals of an open loop that are still to be sent."""
    urls: list[str]
    """Of the target: each user keeps to one of them."""
    generators: int = 1
    """How many processes make the load together."""
    number: int | None = None
    """Which of them this one is, from 1 on, where a master directs them."""
    address: str = ""
    """Of the master, where the generators are on other machines."""


@dataclass(frozen=True)
class Generator:
    """A running Locust, or several: `process` is then their master."""

    load: Load
    process: subprocess.Popen[bytes]
    workers: Sequence[subprocess.Popen[bytes]] = ()
    """Of several generators, those on this machine."""

    @property
    def processes(self) -> Processes:
        """Return all that the kit has started for this load."""
        return [self.process, *self.workers]

    def last_second(self) -> GeneratorRow | None:
        """Return how far all have come together; None before the first second."""
        if not self.load.generator.is_file():
            return None
        last = {row.generator: row for row in read_rows(self.load.generator, GeneratorRow)}
        return add_up_seconds(list(last.values())) if last else None

    def is_running(self) -> bool:
        """Return whether it still makes load or waits for answers. Raises CellFailedError when it has failed."""
        for number, worker in enumerate(self.workers, 1):
            if code := worker.poll():
                self._tell_end(number, code)
        code = self.process.poll()
        if code in _LOST:
            raise _LOST[code](last_lines(self.load.log).splitlines()[-1])
        if code:
            raise CellFailedError(f"the load generator ended with code {code}: {last_lines(self.load.log)}")
        return code is None

    def _tell_end(self, number: int, code: int) -> NoReturn:
        """Raise GeneratorLostError for a generator that is lost in mid-load, else CellFailedError."""
        has_begun = self.last_second() is not None
        when = "the load was over" if has_begun else "the load began"
        told = f"load generator {number} of {len(self.workers)} ended with code {code} before {when}"
        kind = GeneratorLostError if has_begun and code != MASTER_LOST else CellFailedError
        raise kind(f"{told}: {last_lines(self.load.log_of(number))}".removesuffix(": "))

    def read_moments(self) -> Moments:
        """Return when the load began and ended. Raises CellFailedError when it never did."""
        try:
            moments = Moments.model_validate_json(self.load.moments.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise CellFailedError(f"the load generator made no load: {last_lines(self.load.log)}") from exc
        self.load.moments.unlink()
        return moments


def add_up_seconds(rows: Sequence[GeneratorRow]) -> GeneratorRow:
    """Return what several generators did up to now, each by its last row; at least one."""
    if len(rows) == 1:
        return rows[0]
    latest = max(rows, key=lambda row: row.unix_s)
    return GeneratorRow(
        unix_s=latest.unix_s,
        monotonic_s=latest.monotonic_s,
        users=sum(row.users for row in rows),
        requests=sum(row.requests for row in rows),
        failures=sum(row.failures for row in rows),
        lag_ms=max(row.lag_ms for row in rows),
    )


@contextmanager
def running_generator(plan: Plan, target: Target, load: Load) -> Iterator[Generator]:
    """Start Locust; it ends by itself, and at the latest when the context does. Raises CellFailedError."""
    processes: Processes = []
    try:
        if load.divided and plan.has_several_generators:
            with _reserved_port() as free_port:
                _start_several(plan, target, load, processes, free_port)
                yield Generator(load, processes[0], processes[1:])
        else:
            settings = RecorderSettings(
                load=load, workload=plan.workload, drain_s=longest_sending_s(plan), urls=target.urls
            )
            processes.append(_start(_command("recorder", settings, _options(plan, target, load)), load.log))
            yield Generator(load, processes[0])
    finally:
        with undisturbed():
            take_down(processes)


def _start_several(plan: Plan, target: Target, load: Load, processes: Processes, free_port: int) -> None:
    """Start the master, and the generators unless they come from other machines; append each to `processes`."""
    settings = RecorderSettings(
        load=load,
        workload=plan.workload,
        drain_s=longest_sending_s(plan),
        urls=target.urls,
        generators=plan.generators,
        address=plan.generators_at or "",
    )
    host, port = split_address(plan.generators_at) if plan.generators_at else (_LOOPBACK, free_port)
    options = ["--master", "--master-bind-host", host, "--master-bind-port", str(port)]
    options += ["--expect-workers", str(plan.generators), *_options(plan, target, load)]
    if plan.generators_at:
        check_can_listen(host, port)
    processes.append(_start(_command("master", settings, options), load.log))
    for number in range(1, 1 if plan.generators_at else plan.generators + 1):
        options = ["-f", str(find_file(plan.workload.locustfile)), *_own_options(plan)]
        processes.append(_start(worker_command(number, host, port, *options), load.log_of(number)))


def _command(module: str, settings: RecorderSettings, options: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"loadtest.load.{module}", settings.model_dump_json(), *options]


def clean_environment() -> dict[str, str]:
    """Return the environment without LOCUST_* variables, from which Locust would take options."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}


def worker_command(number: int, host: str, port: int, *options: str) -> list[str]:
    """Return what starts a generator of the master at an address; with the number 0, the master chooses its number."""
    command = [sys.executable, "-m", "loadtest.load.worker", str(number), "--worker"]
    command += ["--master-host", host, "--master-port", str(port), "--exit-code-on-error", "0"]
    return [*command, "--loglevel", "WARNING", *options]


def _start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    # By default Locust's master says after 1 s that all users have come, even if they have not.
    environment = {**clean_environment(), "LOCUST_WAIT_FOR_WORKERS_REPORT_AFTER_RAMP_UP": str(_FOREVER_S)}
    return start_process(command, log, environment)


def take_down(processes: Processes) -> None:
    """Ask generators to end, and kill what is left of them after a few seconds."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    wait_for_end([one for process in running for one in psutil_of(process.pid)], _STOP_S)
    kill([one for process in running for one in family(process.pid)])
    for process in processes:
        process.wait()


@contextmanager
def _reserved_port() -> Iterator[int]:
    """Yield a port of loopback that Linux gives to nobody else, and on which the master can listen all the same.

    Both sockets have SO_REUSEADDR, and this one does not listen (socket(7)).
    """
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind((_LOOPBACK, 0))
        port = reservation.getsockname()[1]
        if sys.platform != "linux":
            reservation.close()
        yield port


def _options(plan: Plan, target: Target, load: Load) -> list[str]:
    options = ["-f", str(find_file(plan.workload.locustfile)), "--headless", "--host", target.urls[0]]
    options += ["--users", str(load.users), "--spawn-rate", f"{load.spawn_rate_per_s:g}"]
    options += ["--stop-timeout", f"{plan.drain_s:g}", "--exit-code-on-error", "0"]
    options += ["--only-summary", "--loglevel", "WARNING"]
    return options + _own_options(plan)


def _own_options(plan: Plan) -> list[str]:
    """Return the options of the locustfile itself."""
    return [word for key, value in plan.workload.options.items() for word in (f"--{key}", str(value))]
