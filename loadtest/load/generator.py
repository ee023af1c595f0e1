"""The load generator: Locust in a separate process, with the plan's numbers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from loadtest.errors import CellFailedError
from loadtest.machine.processes import family, kill, last_lines, psutil_of, start_process, undisturbed, wait_for_end
from loadtest.plan.plan import Plan
from loadtest.plan.shipped import find_file
from loadtest.plan.targets import Target
from loadtest.plan.workload import Workload
from loadtest.rows.columns import GeneratorRow, read_rows
from loadtest.rows.run_folder import Moments

_STOP_S = 5.0


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
        """Return where Locust's output goes."""
        return self.folder / ("locust.log" if self.name == "requests" else f"{self.name}.log")


class RecorderSettings(BaseModel):
    """What the process that makes the load is given, as JSON."""

    load: Load
    workload: Workload
    drain_s: float
    """After the load, the longest wait for the arrivals of an open loop that are still to be sent."""


@dataclass(frozen=True)
class Generator:
    """A running Locust."""

    load: Load
    process: subprocess.Popen[bytes]

    def last_second(self) -> GeneratorRow | None:
        """Return how far it has come; None before the first second."""
        if not self.load.generator.is_file():
            return None
        return next(iter([*read_rows(self.load.generator, GeneratorRow)][-1:]), None)

    def is_running(self) -> bool:
        """Return whether it still makes load or waits for answers. Raises CellFailedError when it has failed."""
        code = self.process.poll()
        if code:
            raise CellFailedError(f"the load generator ended with code {code}: {last_lines(self.load.log)}")
        return code is None

    def read_moments(self) -> Moments:
        """Return when the load began and ended. Raises CellFailedError when it never did."""
        try:
            moments = Moments.model_validate_json(self.load.moments.read_text(encoding="utf-8"))
        except (OSError, ValueError) as exc:
            raise CellFailedError(f"the load generator made no load: {last_lines(self.load.log)}") from exc
        self.load.moments.unlink()
        return moments


@contextmanager
def running_generator(plan: Plan, target: Target, load: Load) -> Iterator[Generator]:
    """Start Locust; it ends by itself, and at the latest when the context does. Raises CellFailedError."""
    # Half of the time, so that there is some left for the last answers.
    settings = RecorderSettings(load=load, workload=plan.workload, drain_s=plan.drain_s / 2).model_dump_json()
    command = [sys.executable, "-m", "loadtest.load.recorder", settings, *_options(plan, target, load)]
    # Locust would take options from LOCUST_* variables.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    process = start_process(command, load.log, environment)
    try:
        yield Generator(load, process)
    finally:
        with undisturbed():
            if process.poll() is None:
                process.terminate()
                wait_for_end(psutil_of(process.pid), _STOP_S)
                kill(family(process.pid))
            process.wait()


def _options(plan: Plan, target: Target, load: Load) -> list[str]:
    options = ["-f", str(find_file(plan.workload.locustfile)), "--headless", "--host", target.url]
    options += ["--users", str(load.users), "--spawn-rate", f"{load.spawn_rate_per_s:g}"]
    options += ["--stop-timeout", f"{plan.drain_s:g}", "--exit-code-on-error", "0"]
    options += ["--only-summary", "--loglevel", "WARNING"]
    for key, value in plan.workload.options.items():
        options += [f"--{key}", str(value)]
    return options
