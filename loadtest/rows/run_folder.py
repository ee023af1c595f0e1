"""A run folder: everything one run measured, from which its report can be regenerated at any time.

plan.json            the plan as it was run, overrides included
run.json             order of the cells, seed; for each time the run was started: when, and on what machine
files.json           the SHA-256 of the locustfile and of the targets' files, when the folder began
baseline.yaml        the figures printed beside ours, if the plan names any
cells/CELL/          one folder for each cell, CELL being TARGET-USERSusers-REPETITION
    cell.json        how the cell went: written last, so a cell without it was never finished
    requests.csv     one RequestRow for each request; warmup.csv likewise for the warm-up
    generator.csv    one GeneratorRow a second; of several generators, one of each
    resources.csv    one ResourceRow a second for each role
    metrics_before.prom, metrics_after.prom    what the target exported, Prometheus' text format
    files/           the target's own files (its config)
    target.log, locust.log, warmup.log         what the processes printed; locust_1.log that of the first of several
                                               generators, whose master has locust.log
report.md, report.html, report.json, plots/    made from all that by `loadtest report`
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from loadtest.errors import BadInputError, FailureCode
from loadtest.plan.keys import Strict
from loadtest.plan.plan import Plan
from loadtest.rows.evaluation import Evaluation

_Model = TypeVar("_Model", bound=BaseModel)


class Cell(Strict):
    """One target at one number of users, once."""

    target: str
    users: int
    repetition: int

    @property
    def id(self) -> str:
        """Return the name of the cell's folder."""
        return f"{self.target}-{self.users}users-{self.repetition}"

    def __str__(self) -> str:
        return f"{self.target}, {self.users} users, repetition {self.repetition}"


class ArrivalCounts(Strict):
    """How many arrivals of an open loop were sent, and when."""

    due: int
    """Scheduled before the load ended."""
    queued: int
    """Of these, sent late because all users were busy."""
    unsent: int
    """Of these, never sent, not even after the load: their requests have no row."""


class ClockRecord(Strict):
    """One of several load generators, and its clock, which the times in its rows are corrected by."""

    generator: int
    """From 1 on."""
    ahead_s: float
    """How far its clock was ahead of that of the machine that measures, before the load began."""
    ahead_at_end_s: float
    """The same when its load had ended."""
    uncertainty_s: float
    """By how much `ahead_s` may be wrong at any time of the load, at most, if the clock drifts one way only."""


class Moments(Strict, frozen=False):
    """When the load began, was complete, and ended, by Locust's events. Seconds since the epoch."""

    started_unix_s: float
    spawned_unix_s: float | None = None
    """When the last user had come; None when not all came."""
    stopping_unix_s: float
    """When the users were stopped; requests under way may still end after it."""
    stopped_unix_s: float
    arrivals: ArrivalCounts | None = None
    """None in a closed loop."""
    waited_s: float | None = Field(default=None, exclude_if=lambda waited_s: waited_s is None)
    """How long the last answers of an open loop took after the last arrival was sent; of several generators, the
    longest. None in a closed loop, and in the folders of earlier versions."""
    clocks: list[ClockRecord] = Field(default=[], exclude_if=lambda clocks: not clocks)
    """Of the load generators, in their order, where there are several."""

    @property
    def drained_s(self) -> float:
        """Return how long the last answers took after the load, or in an open loop after the last arrival was sent."""
        return self.stopped_unix_s - self.stopping_unix_s if self.waited_s is None else self.waited_s


class CellRecord(Strict, frozen=False):
    """How one cell went."""

    cell: Cell
    status: Literal["finished", "failed"]
    reason: str | None = None
    """Why it failed."""
    failure: FailureCode = Field(default="failed", exclude_if=lambda code: code == "failed")
    """What failed: the target, one of several load generators, or something else."""
    seed: int
    began_unix_s: float
    ended_unix_s: float
    ready_after_s: float | None = None
    stopped_after_s: float | None = None
    replicas_asked: int | None = None
    replicas_found: int | None = None
    """Before the load."""
    moments: Moments | None = None
    metrics_after_s: float | None = None
    """How long after the load the target's metrics were read."""
    about: dict[str, Any] = {}
    """The target's description of itself, by path."""
    notes: list[str] = []
    """What a reader should know, such as processes that had to be killed."""


class Environment(Strict):
    """The machine and the software on it."""

    cpu_model: str
    cores: int
    usable_cores: float | None = None
    """That the kit and what it starts may use, by affinity and CPU quota; None in folders of an older kit."""
    ram_bytes: int
    os: str
    python: str
    packages: dict[str, str]
    """Version by name, of everything installed beside the kit."""
    git_commit: str | None = None
    git_changed: bool = False
    """Whether files differed from the commit."""


class Session(Strict):
    """One start of the run; a resumed run has several."""

    started_unix_s: float
    environment: Environment


class RunRecord(Strict):
    """What belongs to the run as a whole."""

    seed: int
    order: list[Cell]
    sessions: list[Session]
    evaluations: dict[str, list[Evaluation]] = {}
    """By target: those that the plan names, as they were at the first start."""
    locustfile_sha256: str | None = Field(default=None, exclude=True)
    """In folders of some development versions. Now the folder of every command has files.json."""


@dataclass(frozen=True)
class RunFolder:
    """The layout of a run folder."""

    path: Path

    @property
    def plan_path(self) -> Path:
        """Return where the plan is."""
        return self.path / "plan.json"

    @property
    def record_path(self) -> Path:
        """Return where the run's record is."""
        return self.path / "run.json"

    @property
    def baseline_path(self) -> Path:
        """Return where the figures of the other report are."""
        return self.path / "baseline.yaml"

    def cell_path(self, cell: Cell) -> Path:
        """Return the folder of one cell."""
        return self.path / "cells" / cell.id

    def read_plan(self) -> Plan:
        """Return the plan of this run. Raises BadInputError."""
        return read_written(self.plan_path, Plan, "run")

    def read_record(self) -> RunRecord:
        """Return the record of this run. Raises BadInputError."""
        return read_written(self.record_path, RunRecord, "run")

    def read_cell(self, cell: Cell) -> CellRecord | None:
        """Return how a cell went; None when it was never finished."""
        path = self.cell_path(cell) / "cell.json"
        return read_written(path, CellRecord, "run") if path.is_file() else None

    def write_plan(self, plan: Plan) -> None:
        """Write the plan. Raises OSError."""
        write_json(self.plan_path, plan)

    def write_record(self, record: RunRecord) -> None:
        """Write the run's record. Raises OSError."""
        write_json(self.record_path, record)

    def write_cell(self, record: CellRecord) -> None:
        """Write how a cell went, which makes it a finished one. Raises OSError."""
        write_json(self.cell_path(record.cell) / "cell.json", record)


def read_written(path: Path, kind: type[_Model], command: str) -> _Model:
    """Return what `command` wrote to `path` as JSON of `kind`. Raises BadInputError."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInputError(f"{path}: cannot be read ({exc.strerror}); is this the folder of a run?") from exc
    except (ValidationError, UnicodeDecodeError) as exc:
        raise BadInputError(f"{path}: is not what `python -m loadtest {command}` writes: {exc}") from exc


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a crash leaves the old one or the new one, never half of it. Raises OSError."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def write_files(texts: Mapping[Path, str], option: str = "--out") -> None:
    """Write each file whole. Raises BadInputError, with the option that says where."""
    for path, text in texts.items():
        with folder_faults(path, option):
            write_whole(path, text)


def as_json(record: BaseModel) -> str:
    """Return a record as the kit writes and prints it."""
    return json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, record: BaseModel) -> None:
    """Write a record whole, and the folders that it is in. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, as_json(record))


def emptied(folder: Path) -> Path:
    """Return a folder once it is there and empty: without what an interrupted attempt has left. Raises OSError."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def folder_faults(folder: Path, option: str = "--out") -> Iterator[None]:
    """Raise BadInputError for an OSError of a file in the folder that an option names: which file, and what to do."""
    try:
        yield
    except BrokenPipeError:  # the reader of the output has gone, which `__main__` handles
        raise
    except OSError as exc:
        raise BadInputError(f"{exc.filename or folder}: {exc.strerror}; choose another place with {option}") from exc
