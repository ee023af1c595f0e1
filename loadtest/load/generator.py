"""The load generator: Locust in a process of its own, with the plan's numbers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import CellFailedError
from loadtest.machine.processes import family, kill, last_lines, psutil_of, start_process, undisturbed, wait_for_end
from loadtest.plan.plan import Plan, Target
from loadtest.plan.shipped import find_file
from loadtest.rows.columns import GeneratorRow, read_rows
from loadtest.rows.run_folder import Moments

_STOP_S = 5.0


@dataclass(frozen=True)
class Load:
    """One load to make: so many users for so long, and the files that tell of it."""

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
    command = [sys.executable, "-m", "loadtest.load.recorder", _settings(plan, load), *_options(plan, target, load)]
    # Locust would take options from LOCUST_* variables of whoever runs the kit.
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


def _settings(plan: Plan, load: Load) -> str:
    endpoints = plan.workload.endpoints
    return json.dumps(
        {
            "requests": str(load.requests),
            "generator": str(load.generator),
            "moments": str(load.moments),
            "endpoints": {endpoint.request: name for name, endpoint in endpoints.items()},
            "weights": {name: endpoint.weight for name, endpoint in endpoints.items()},
            "wait_s": plan.workload.wait_s,
            "rate_per_user_rps": plan.workload.rate_per_user_rps,
            "rate_rps": plan.workload.rate_rps,
            "arrivals": plan.workload.arrivals,
            # Half of the time, so that there is some left for the last answers.
            "drain_s": plan.drain_s / 2,
            "duration_s": load.duration_s,
            "seed": load.seed,
        }
    )


def _options(plan: Plan, target: Target, load: Load) -> list[str]:
    options = ["-f", str(find_file(plan.workload.locustfile)), "--headless", "--host", target.url]
    options += ["--users", str(load.users), "--spawn-rate", f"{load.spawn_rate_per_s:g}"]
    options += [
        "--stop-timeout",
        f"{plan.drain_s:g}",
        "--only-summary",
        "--loglevel",
        "WARNING",
        "--exit-code-on-error",
        "0",
    ]
    for key, value in plan.workload.options.items():
        options += [f"--{key}", str(value)]
    return options
