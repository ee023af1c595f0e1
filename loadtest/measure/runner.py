"""Runs the cells of a plan one after the other; a failed cell does not end the run. Called by `loadtest run`."""

import platform
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loadtest.errors import BadInputError, CellFailedError
from loadtest.machine.environment import begin_session
from loadtest.machine.processes import undisturbed
from loadtest.measure.cell_run import CellRun
from loadtest.measure.experiment import Need, files_of, opened
from loadtest.measure.progress import Progress, shown_progress
from loadtest.measure.target import RunningTarget, check_port_is_free
from loadtest.plan.plan import Plan
from loadtest.rows.columns import RequestRow, read_rows
from loadtest.rows.evaluation import read_evaluations
from loadtest.rows.run_folder import Cell, CellRecord, RunFolder, RunRecord

# What a cell takes besides its loads, until the first cells have shown it.
_FIRST_OVERHEAD_S = 30.0
# A shorter name of a folder or machine, such as `/`, would take other text with it.
_LEAST_PLACE = 4


def cell_order(plan: Plan) -> list[Cell]:
    """Return all cells; neighbouring groups of targets are in opposite order (A B B A).

    A machine that becomes slower or faster meanwhile then favours no target.
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

    Raises BadInputError when the folder or the port of a target cannot be used, or the locustfile or a file of a target
    has changed since the folder began, and Interrupted after SIGINT or SIGTERM, when everything that was started has
    been taken down.
    """
    needs = _named_files(plan, plan_path)
    with opened(folder.plan_path, plan, command="run", needs=needs), shown_progress() as progress:
        begun = folder.record_path.is_file()
        record = folder.read_record() if begun else _new_record(plan)
        todo = [cell for cell in record.order if not _is_finished(folder, cell)]
        for target in plan.targets:
            if target.start is not None and any(cell.target == target.name for cell in todo):
                check_port_is_free(target)
        if plan.baseline is not None and not begun:
            shutil.copyfile(plan_path.parent / plan.baseline, folder.baseline_path)
        record.sessions.append(begin_session())
        folder.write_record(record)
        if len(todo) < len(record.order):
            finished = f"{len(record.order) - len(todo)} of {len(record.order)} cells of {folder.path}"
            progress.say(f"{finished} are finished; the rest follows")
        _run_cells(plan, folder, todo, may_begin, progress)


def _new_record(plan: Plan) -> RunRecord:
    evaluations = read_evaluations(plan.targets)
    return RunRecord(
        seed=plan.seed,
        order=cell_order(plan),
        sessions=[],
        evaluations=evaluations,
    )


def _named_files(plan: Plan, plan_path: Path) -> Iterator[Need]:
    """Yield each file that a plan names, with where it does."""
    yield from files_of(plan.workload, plan.targets, f"{plan_path}: ")
    for target in plan.targets:
        key = f"{plan_path}: targets.{target.name}.evaluations"
        yield from (Need(key, file, stays=False) for file in target.evaluations)
    if plan.baseline:
        yield Need(f"{plan_path}: baseline", plan_path.parent / plan.baseline, stays=False)


def _run_cells(
    plan: Plan, folder: RunFolder, todo: list[Cell], may_begin: Callable[[Cell], bool], progress: Progress
) -> None:
    took_s: list[float] = []
    for index, cell in enumerate(todo):
        if not may_begin(cell):
            return
        each_s = sum(took_s) / len(took_s) if took_s else _FIRST_OVERHEAD_S + plan.duration_s + plan.warmup.duration_s
        progress.begin_step(str(cell), index + 1, len(todo), each_s * (len(todo) - index))
        began_s = time.monotonic()
        record = measure_cell(plan, cell, folder, progress)
        with undisturbed():
            progress.say(f"[{index + 1}/{len(todo)}] {cell}: {_outcome(folder, record)}")
        took_s.append(time.monotonic() - began_s)


def measure_cell(
    plan: Plan, cell: Cell, folder: RunFolder, progress: Progress, running: RunningTarget | None = None
) -> CellRecord:
    """Measure one cell, on a target started for it or on a `running` one, and return its record.

    Whatever fails is in the record, which is in the folder afterwards. Raises BadInputError when no cell can succeed.
    """
    run = CellRun(plan, cell, folder.cell_path(cell), progress)
    try:
        run.measure(running)
    except BadInputError:
        raise  # it would fail every other cell too
    except CellFailedError as exc:
        run.record.reason = str(exc)
        run.record.failure = exc.code
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
    """Return the record without names of this machine and its folders, which are private."""
    places = {str(Path.cwd()), sys.prefix, str(Path.home()), tempfile.gettempdir(), str(folder.path.resolve())}
    private = sorted({*places, platform.node()}, key=len, reverse=True)
    words = re.compile("|".join(rf"(?<!\w){re.escape(each)}(?!\w)" for each in private if len(each) >= _LEAST_PLACE))
    told = record.model_dump(mode="json", include={"reason", "about", "notes"})
    return record.model_copy(update=_without(words, told))


def _without(words: "re.Pattern[str]", value: Any) -> Any:
    """Return a value of JSON with … for each of `words` in its texts; keys stay as they are."""
    if isinstance(value, str):
        return words.sub("…", value)
    if isinstance(value, dict):
        return {key: _without(words, each) for key, each in value.items()}
    return [_without(words, each) for each in value] if isinstance(value, list) else value


def _keep(folder: RunFolder, record: CellRecord, progress: Progress) -> None:
    try:
        folder.write_cell(record)
    except (OSError, ValueError) as exc:
        record.status = "failed"
        record.reason = f"{record.reason or 'measured'}, but the record could not be written: {exc}"
        progress.say(f"{record.cell}: {record.reason}")


def _outcome(folder: RunFolder, record: CellRecord) -> str:
    if record.status == "failed":
        return f"FAILED: {record.reason or 'no reason known'}"
    rows = list(read_rows(folder.cell_path(record.cell) / "requests.csv", RequestRow))
    failed = sum(bool(row.error) for row in rows)
    return "; ".join([f"done: {len(rows)} requests, {failed} failed", *record.notes])


def _is_finished(folder: RunFolder, cell: Cell) -> bool:
    record = folder.read_cell(cell)
    return record is not None and record.status == "finished"
