"""Runs the cells of a plan one after the other, whatever happens in any of them. Called by `python -m loadtest run`."""

import json
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from loadtest.errors import BadInputError, CellFailedError
from loadtest.measuring.cell_run import CellRun
from loadtest.measuring.environment import read_environment
from loadtest.measuring.processes import INTERRUPTS, adopt_orphans, undisturbed
from loadtest.measuring.progress import Progress, shown_progress
from loadtest.measuring.target import RunningTarget
from loadtest.plan import Plan
from loadtest.rows import RequestRow, read_rows
from loadtest.run_folder import Cell, CellRecord, RunFolder, RunRecord, Session
from loadtest.shipped import find_file
from loadtest.target_key import key_headers

# What a cell takes besides its loads, until the first cells have shown it.
_FIRST_OVERHEAD_S = 30.0
# A shorter name of a folder or machine, such as `/`, would take other text with it.
_LEAST_PLACE = 4


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came. Not an Exception, so that no cell takes it for a fault of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def cell_order(plan: Plan) -> list[Cell]:
    """Return all cells; neighbouring groups of targets are in opposite order (A B B A).

    So a machine that gets slower or faster in the meantime favours no target.
    """
    cells = []
    for repetition in range(1, plan.repetitions + 1):
        for level, users in enumerate(plan.users):
            names = [target.name for target in plan.targets]
            if (level + repetition) % 2 == 0:
                names.reverse()
            cells += [Cell(target=name, users=users, repetition=repetition) for name in names]
    return cells


def run_plan(
    plan: Plan, plan_path: Path, folder: RunFolder, may_begin: Callable[[Cell], bool] = lambda _: True
) -> None:
    """Measure all cells that the folder does not hold yet, up to the first that `may_begin` refuses.

    Raises BadInputError when the folder cannot be used, and Interrupted after SIGINT or SIGTERM, when everything that
    was started has been taken down.
    """
    with locked(folder), shown_progress() as progress, raising_on_signals():
        order = _open(plan, plan_path, folder)
        todo = [cell for cell in order if not _is_finished(folder, cell)]
        if len(todo) < len(order):
            progress.say(
                f"{len(order) - len(todo)} of {len(order)} cells of {folder.path} are finished; the rest follows"
            )
        adopt_orphans()
        _run_cells(plan, folder, todo, may_begin, progress)


def _run_cells(
    plan: Plan, folder: RunFolder, todo: list[Cell], may_begin: Callable[[Cell], bool], progress: Progress
) -> None:
    took_s: list[float] = []
    for index, cell in enumerate(todo):
        if not may_begin(cell):
            return
        each_s = sum(took_s) / len(took_s) if took_s else _FIRST_OVERHEAD_S + plan.duration_s + plan.warmup.duration_s
        progress.begin_cell(cell, index + 1, len(todo), each_s * (len(todo) - index))
        began_s = time.monotonic()
        record = measure_cell(plan, cell, folder, progress)
        with undisturbed():
            progress.end_cell(record, _summary(folder, record))
        took_s.append(time.monotonic() - began_s)


def measure_cell(
    plan: Plan, cell: Cell, folder: RunFolder, progress: Progress, running: RunningTarget | None = None
) -> CellRecord:
    """Measure one cell, on a target started for it or on one that goes on `running`, and return its record.

    Whatever goes wrong stands in the record, which is in the folder afterwards.
    """
    run = CellRun(plan, cell, folder.cell_path(cell), progress)
    try:
        if running is None:
            run.measure()
        else:
            run.measure_on(running)
    except CellFailedError as exc:
        run.record.reason = str(exc)
    except OSError as exc:
        run.record.reason = f"{exc.filename or 'the run folder'}: {exc.strerror or exc}"
    except Exception as exc:  # noqa: BLE001 a fault of one cell, even of ours, must not end the others
        run.record.reason = f"{type(exc).__name__}: {exc}\n{traceback.format_exc(limit=-3)}"
    run.record.ended_unix_s = round(time.time(), 3)
    record = _without_places(run.record, folder)
    with undisturbed():
        _keep(folder, record, progress)
    return record


def _without_places(record: CellRecord, folder: RunFolder) -> CellRecord:
    """Return the record without names of this machine and its folders, which are nobody else's business."""
    places = {str(Path.cwd()), sys.prefix, str(Path.home()), tempfile.gettempdir(), str(folder.path.resolve())}
    text = record.model_dump_json()
    for place in sorted({*places, platform.node()}, key=len, reverse=True):
        if len(place) >= _LEAST_PLACE:
            text = text.replace(json.dumps(place, ensure_ascii=False)[1:-1], "…")
    return CellRecord.model_validate_json(text)


def _keep(folder: RunFolder, record: CellRecord, progress: Progress) -> None:
    try:
        folder.cell_path(record.cell).mkdir(parents=True, exist_ok=True)
        folder.write_cell(record)
    except (OSError, ValueError) as exc:
        record.status = "failed"
        record.reason = f"{record.reason or 'measured'}, but the record could not be written: {exc}"
        progress.say(f"{record.cell}: {record.reason}")


def _summary(folder: RunFolder, record: CellRecord) -> str:
    if record.status == "failed":
        return record.reason or "no reason known"
    rows = list(read_rows(folder.cell_path(record.cell) / "requests.csv", RequestRow))
    failed = sum(bool(row.error) for row in rows)
    return "; ".join([f"{len(rows)} requests, {failed} failed", *record.notes])


def _open(plan: Plan, plan_path: Path, folder: RunFolder) -> list[Cell]:
    """Make the run folder or take up the one that is there. Returns the order of its cells. Raises BadInputError."""
    session = Session(started_unix_s=round(time.time(), 3), environment=read_environment())
    try:
        if folder.record_path.is_file():
            return _take_up(plan, folder, session)
        _check_unused(folder)
        _check_files(plan, plan_path)
        if plan.baseline is not None:
            shutil.copyfile(plan_path.parent / plan.baseline, folder.baseline_path)
        folder.write_plan(plan)
        order = cell_order(plan)
        folder.write_record(RunRecord(seed=plan.seed, order=order, sessions=[session]))
        return order
    except OSError as exc:
        raise BadInputError(f"{exc.filename or folder.path}: {exc.strerror}; choose another folder with --out") from exc


def _take_up(plan: Plan, folder: RunFolder, session: Session) -> list[Cell]:
    before = folder.read_plan().model_dump(mode="json")
    now = plan.model_dump(mode="json")
    differing = [key for key in now if now[key] != before[key]]
    if differing:
        raise BadInputError(
            f"{folder.path} holds a run of another plan (differing: {', '.join(differing)}): "
            "choose another folder with --out, or give the same plan and options to resume it"
        )
    record = folder.read_record()
    folder.write_record(record.model_copy(update={"sessions": [*record.sessions, session]}))
    return record.order


def _check_files(plan: Plan, plan_path: Path) -> None:
    """Raise BadInputError with every file that the plan names and that is not there."""
    named = [("workload.locustfile", plan.workload.locustfile)]
    named += [(f"targets.{target.name}.files", file) for target in plan.targets for file in target.files]
    named += [("baseline", plan_path.parent / plan.baseline)] if plan.baseline else []
    missing = [f"{plan_path}: {key}: {file} is not a file" for key, file in named if not find_file(file).is_file()]
    if missing:
        raise BadInputError("\n".join(missing))


def _check_unused(folder: RunFolder) -> None:
    others = [path.name for path in folder.path.iterdir() if path.name != _lock_path(folder).name]
    if others:
        raise BadInputError(f"{folder.path} is not empty and not the folder of a run: choose another with --out")


def _is_finished(folder: RunFolder, cell: Cell) -> bool:
    record = folder.read_cell(cell)
    return record is not None and record.status == "finished"


def _lock_path(folder: RunFolder) -> Path:
    return folder.path / "run.lock"


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Keep a second run out of the folder. Raises BadInputError, also for a key that cannot be sent."""
    key_headers()
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with FileLock(_lock_path(folder), timeout=0):
            yield
    except Timeout as exc:
        raise BadInputError(
            f"another run uses {folder.path}: wait for it, or choose another folder with --out"
        ) from exc
    except OSError as exc:
        raise BadInputError(f"{folder.path} cannot be written: {exc.strerror}; choose another with --out") from exc


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Raise Interrupted on the first SIGINT or SIGTERM; further ones change nothing while things are taken down."""

    def stop(number: int, _: object) -> None:
        for each in previous:
            signal.signal(each, lambda *_: None)  # SIG_IGN would be inherited by a stop command
        raise Interrupted(number)

    previous = {number: signal.signal(number, stop) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
