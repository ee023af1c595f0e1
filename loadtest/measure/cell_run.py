"""One cell from start to end: target up, checked, warmed up, loaded, sampled, down. Called by the runner."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.errors import CellFailedError
from loadtest.load.generator import Load
from loadtest.measure.follower import Follower
from loadtest.measure.progress import Progress
from loadtest.measure.target import RunningTarget, running_target
from loadtest.measure.target_metrics import save_metrics
from loadtest.plan.plan import Plan
from loadtest.plan.shipped import find_file
from loadtest.plan.targets import Target
from loadtest.rows.run_folder import Cell, CellRecord, emptied


@dataclass
class CellRun:
    """A cell in the making: what is known of it so far stands in `record`."""

    plan: Plan
    cell: Cell
    folder: Path
    progress: Progress
    record: CellRecord = field(init=False)

    def __post_init__(self) -> None:
        self.record = CellRecord(
            cell=self.cell,
            status="failed",
            seed=_seed(self.plan, self.cell),
            began_unix_s=round(time.time(), 3),
            ended_unix_s=round(time.time(), 3),
            replicas_asked=self.target.replicas.count if self.target.replicas else None,
        )

    @property
    def target(self) -> Target:
        """Return the plan's target of this cell."""
        return next(target for target in self.plan.targets if target.name == self.cell.target)

    def measure(self, running: RunningTarget | None = None) -> None:
        """Measure on a target started for this cell, or on a `running` one; `record.status` is "finished" afterwards.

        Raises CellFailedError, BadInputError and OSError.
        """
        _prepare(self.folder, self.target.files)
        if running is None:
            self.progress.doing(f"starting {self.target.title}")
            with running_target(self.target, self.folder / "target.log") as started:
                self._check_and_load(started)
                self.progress.doing(f"stopping {self.target.title}")
            self.record.stopped_after_s = started.stopped_after_s
        else:
            self._check_and_load(running)
        self.record.status = "finished"

    def _check_and_load(self, running: RunningTarget) -> None:
        running.notes = self.record.notes  # also those of its stop
        running.wait_until_ready()
        self.record.ready_after_s = running.ready_after_s
        self.record.replicas_found = running.count_replicas(self.plan.roles)
        running.check_replicas(self.record.replicas_found)
        self.record.about = running.read_about()
        follower = Follower(running, self.progress)
        follower.warm_up(self.plan, self.record.seed, self.folder)
        self._read_metrics(follower, "metrics_before.prom")
        self._load(follower)
        self._read_metrics(follower, "metrics_after.prom")

    def _load(self, follower: Follower) -> None:
        plan, users = self.plan, self.cell.users
        load = Load(
            users, plan.spawn_rate_per_s, plan.duration_s, self.record.seed, self.folder, "requests", divided=True
        )
        self.progress.doing("loading")
        self.record.moments = follower.make_load(plan, load)

    def _read_metrics(self, follower: Follower, name: str) -> None:
        """Save the target's metrics, once its exporter has counted all that was sent so far."""
        metrics, moments = self.plan.metrics, self.record.moments
        if metrics is None:
            return
        if metrics.settle_s:
            self.progress.doing("waiting for the target's metrics")
            follower.wait(metrics.settle_s)
        if moments is not None:
            self.record.metrics_after_s = round(time.time() - moments.stopping_unix_s, 3)
        if fault := save_metrics(metrics, self.target.urls[0], self.folder / name):
            self.record.notes.append(fault)


def _prepare(folder: Path, files: list[Path]) -> None:
    """Make an empty folder for the cell with copies of the target's files. Raises CellFailedError and OSError."""
    emptied(folder)
    for file in files:
        (folder / "files").mkdir(exist_ok=True)
        try:
            content = find_file(file).read_bytes()
        except OSError as exc:
            raise CellFailedError(f"files: {file} cannot be read: {exc.strerror}") from exc
        (folder / "files" / file.name).write_bytes(content)


def _seed(plan: Plan, cell: Cell) -> int:
    """Return the same seed for all targets at one level and repetition, so that their users behave alike."""
    return plan.seed * 1_000_000 + cell.users * 100 + cell.repetition
