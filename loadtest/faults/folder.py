"""The folder of a fault run or a soak: raw data, from which the tables can be computed again at any time.

plan.json            the fault plan or soak plan as it was run
environment.json     the machine and the software, at the first start
GROUP.log            what a group's target and services printed
faults/NAME/         one folder for each fault; a soak has one, `soak`
    stretch.json     how it went; written last
    requests.csv, generator.csv, resources.csv, locust.log    as in a run folder
    processes.csv    one ProcessRow whenever a process of a role comes or goes
    fault.log        what the fault's commands printed
faults.json, faults.md (soak.json, soak.md)    made from all that
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field

from loadtest.plan.keys import Strict
from loadtest.rows.columns import ProcessRow, RequestRow, ResourceRow, read_rows
from loadtest.rows.run_folder import ArrivalCounts, ClockRecord, Environment, read_written, write_json

_Model = TypeVar("_Model", bound=BaseModel)
SOAK = "soak"


class Event(Strict, frozen=False):
    """A fault that was injected, or was due."""

    fault: str
    began_unix_s: float = 0
    ended_unix_s: float | None = None
    struck: list[str] = []
    """What was done, in the order in which it was done."""
    pids: list[int] = []
    reason: str | None = None
    """Why it was not injected, or not to its end."""


class StretchRecord(Strict, frozen=False):
    """How one load with its faults went."""

    status: Literal["finished", "failed", "skipped"]
    reason: str | None = None
    complete_unix_s: float | None = None
    """When the load was complete and had settled: what is quiet begins here."""
    stopping_unix_s: float | None = None
    """When the load ended."""
    drained_s: float | None = None
    """How long the last answers took after it; None in the folders of earlier versions."""
    arrivals: ArrivalCounts | None = None
    """None in a closed loop."""
    clocks: list[ClockRecord] = Field(default=[], exclude_if=lambda clocks: not clocks)
    """Of the load generators, where there are several."""
    events: list[Event] = []
    notes: list[str] = []
    differing: list[str] = Field(default=[], exclude_if=lambda keys: not keys)
    """In what the environment was not that of the folder's first start."""


@dataclass(frozen=True)
class FaultFolder:
    """The layout of the folder."""

    path: Path

    @property
    def plan(self) -> Path:
        """Return where the plan is."""
        return self.path / "plan.json"

    def stretch_path(self, name: str) -> Path:
        """Return the folder of one load."""
        return self.path / "faults" / name

    def write_environment(self, environment: Environment) -> None:
        """Write the machine. Raises OSError."""
        write_json(self.path / "environment.json", environment)

    def keep_environment(self, environment: Environment) -> list[str]:
        """Write the machine if none is known, and return in what it differs from the known one.

        Raises OSError, and BadInputError for a known one that cannot be read.
        """
        if not (self.path / "environment.json").is_file():
            self.write_environment(environment)
        known = self.read_environment()
        pairs = {name: (getattr(known, name), getattr(environment, name)) for name in Environment.model_fields}
        return sorted(name for name, pair in pairs.items() if None not in pair and pair[0] != pair[1])

    def read_plan(self, kind: type[_Model]) -> _Model:
        """Return the plan. Raises BadInputError."""
        return read_written(self.plan, kind, "faults")

    def read_environment(self) -> Environment:
        """Return the machine. Raises BadInputError."""
        return read_written(self.path / "environment.json", Environment, "faults")

    def write_record(self, name: str, record: StretchRecord) -> None:
        """Write how a load went. Raises OSError."""
        write_json(self.stretch_path(name) / "stretch.json", record)

    def read_record(self, name: str) -> StretchRecord | None:
        """Return how a load went; None when it never ended. Raises BadInputError."""
        path = self.stretch_path(name) / "stretch.json"
        return read_written(path, StretchRecord, "faults") if path.is_file() else None

    def read_requests(self, name: str) -> list[RequestRow]:
        """Return the requests of a load in the order of their sending. Raises OSError and ValueError."""
        rows = read_rows(self.stretch_path(name) / "requests.csv", RequestRow)
        return sorted(rows, key=lambda row: row.start_unix_s)

    def read_processes(self, name: str) -> list[ProcessRow]:
        """Return the comings and goings of a load. Raises OSError and ValueError."""
        return list(read_rows(self.stretch_path(name) / "processes.csv", ProcessRow))

    def read_resources(self, name: str) -> list[ResourceRow]:
        """Return what the roles used second by second. Raises OSError and ValueError."""
        return list(read_rows(self.stretch_path(name) / "resources.csv", ResourceRow))
