"""Runs a fault plan or a soak: starts services and targets, makes the loads, keeps how each went."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loadtest.errors import CellFailedError
from loadtest.faults.fault_plan import Fault, FaultPlan, Group, Service, Setting, SoakPlan
from loadtest.faults.folder import SOAK, FaultFolder, StretchRecord
from loadtest.faults.stretch import Stretch, run_stretch
from loadtest.machine.environment import read_environment
from loadtest.machine.processes import let_signals_through, split_command, undisturbed
from loadtest.measure.experiment import opened
from loadtest.measure.progress import Progress, shown_progress
from loadtest.measure.target import RunningTarget, running_target
from loadtest.plan.targets import Role

_SERVICE_S = 60.0


def run_faults(plan: FaultPlan, folder: FaultFolder, names: list[str], *, again: bool) -> None:
    """Carry out the faults in `names`; those that the folder has already only if `again`.

    Raises BadInputError when the folder or a file of the plan cannot be used, and Interrupted.
    """
    with _opened(plan, folder, "faults") as progress:
        for group in plan.groups:
            todo = [fault for fault in group.faults if fault.name in names and (again or not _is_done(folder, fault))]
            if todo:
                _run_group(plan, group, todo, folder, progress)


def run_soak(plan: SoakPlan, folder: FaultFolder) -> None:
    """Make the soak's load with all its faults. Raises BadInputError and Interrupted."""
    with _opened(plan, folder, "soak") as progress:
        path = _emptied(folder.stretch_path(SOAK))
        record = StretchRecord(status="failed")
        stretch = Stretch(plan, path, 60 * plan.minutes, plan.schedule())
        try:
            with _running(plan, plan.roles, folder.path / "soak.log", progress, "soak") as running:
                progress.doing("loading")
                record = run_stretch(stretch, running, progress)
        except (CellFailedError, OSError) as exc:
            record.reason = str(exc)
        folder.write_record(SOAK, record)


def _run_group(plan: FaultPlan, group: Group, todo: list[Fault], folder: FaultFolder, progress: Progress) -> None:
    if group.needs_root and os.geteuid() != 0:
        _give_up(folder, todo, "skipped", "needs root", progress)
        return
    left = list(todo)
    try:
        with _running(group, plan.roles, folder.path / f"{group.name}.log", progress, group.name) as running:
            while left:
                running.count_replicas(plan.roles)
                _run_fault(plan, left[0], folder, running, progress)
                left.pop(0)
    except _ServiceFailedError as exc:
        _give_up(folder, left, "skipped", str(exc), progress)
    except (CellFailedError, OSError) as exc:
        _give_up(folder, left, "failed", str(exc), progress)


def _run_fault(plan: FaultPlan, fault: Fault, folder: FaultFolder, running: RunningTarget, progress: Progress) -> None:
    path = _emptied(folder.stretch_path(fault.name))
    progress.begin_step(fault.label, 1)
    progress.doing("loading")
    stretch = Stretch(plan, path, plan.duration_of_s(fault), [(plan.before_of_s(fault), fault)])
    record = run_stretch(stretch, running, progress)
    reasons = [event.reason for event in record.events if event.reason]
    if reasons:
        record.status, record.reason = "failed", "; ".join(reasons)
    folder.write_record(fault.name, record)


def _give_up(folder: FaultFolder, faults: list[Fault], status: str, reason: str, progress: Progress) -> None:
    for fault in faults:
        progress.say(f"{fault.label}: {status}: {reason}")
        record = StretchRecord.model_validate({"status": status, "reason": reason})
        folder.write_record(fault.name, record)


@contextmanager
def _opened(plan: FaultPlan | SoakPlan, folder: FaultFolder, command: str) -> Iterator[Progress]:
    needs = [("workload.locustfile", plan.workload.locustfile)]
    with opened(folder.plan, plan, command=command, needs=needs), shown_progress() as progress:
        folder.write_environment(read_environment())
        yield progress


@contextmanager
def _running(setting: Setting, roles: list[Role], log: Path, progress: Progress, title: str) -> Iterator[RunningTarget]:
    """Start the services and the target, and wait until it is ready. Raises CellFailedError."""
    progress.begin_step(title, 1)
    with ExitStack() as taken_down:
        for service in setting.services:
            progress.doing(f"starting {service.name}")
            taken_down.callback(_stop_service, service, log)
            _start_service(service, log)
        progress.doing(f"starting {setting.target.title}")
        running = taken_down.enter_context(running_target(setting.target, log))
        running.wait_until_ready()
        running.count_replicas(roles)
        yield running


class _ServiceFailedError(CellFailedError):
    """What the target needs cannot be had here."""


def _start_service(service: Service, log: Path) -> None:
    fault = _run_command(service.start, log)
    if fault:
        raise _ServiceFailedError(f"{service.name} cannot be started here: {fault}")


def _stop_service(service: Service, log: Path) -> None:
    with undisturbed():
        _run_command(service.stop, log)


def _run_command(command: str, log: Path) -> str:
    """Return what went wrong with a command that ends by itself; nothing when all went well."""
    try:
        with log.open("ab") as output:
            done = subprocess.run(
                split_command(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_SERVICE_S,
                check=False,
                preexec_fn=let_signals_through,
            )
    except (OSError, subprocess.TimeoutExpired, CellFailedError) as exc:
        return str(exc)
    return f"`{command}` ended with code {done.returncode}, see {log.name}" if done.returncode else ""


def _emptied(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _is_done(folder: FaultFolder, fault: Fault) -> bool:
    record = folder.read_record(fault.name)
    return record is not None and record.status == "finished"
