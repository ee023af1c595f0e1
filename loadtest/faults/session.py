"""Runs a fault plan or a soak: starts services and targets, makes the loads, keeps how each went."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loadtest.errors import CellFailedError
from loadtest.faults.fault_plan import Fault, FaultPlan, Group, Service, Setting, SoakPlan
from loadtest.faults.folder import SOAK, FaultFolder, StretchRecord
from loadtest.faults.injection import UNDO_S
from loadtest.faults.stretch import Stretch, run_stretch
from loadtest.machine.environment import read_environment
from loadtest.machine.processes import let_signals_through, split_command, undisturbed
from loadtest.measure.experiment import files_of, opened
from loadtest.measure.progress import Progress, show_clock, shown_progress
from loadtest.measure.target import RunningTarget, running_target
from loadtest.plan.longest import longest_load_s, longest_start_and_stop_s
from loadtest.plan.targets import Role
from loadtest.rows.run_folder import emptied

_SERVICE_S = 60.0


def run_faults(plan: FaultPlan, folder: FaultFolder, names: list[str], *, again: bool) -> None:
    """Inject the faults in `names`; those that the folder has already only if `again`.

    Raises BadInputError when the folder or a file of the plan cannot be used, and Interrupted.
    """
    with _opened(plan, folder, "faults") as progress:
        left = [(group, [one for one in group.faults if one.name in names]) for group in plan.groups]
        if not again:
            left = [(group, [one for one in faults if not _is_done(folder, one)]) for group, faults in left]
        differing = folder.keep_environment(read_environment())
        run = _FaultRun(plan, folder, progress, differing, [(group, faults) for group, faults in left if faults])
        load_s = sum(plan.duration_of_s(fault) for _, faults in run.left for fault in faults)
        count = sum(len(faults) for _, faults in run.left)
        note = f"; {show_clock(load_s)} of it is load, the rest the limits of starts, drains and stops"
        progress.begin(f"{count} fault(s) under {plan.users} users", run.longest_s(), note)
        while run.left:
            run.run_group()
            run.left.pop(0)


def run_soak(plan: SoakPlan, folder: FaultFolder) -> None:
    """Make the soak's load with all its faults. Raises BadInputError and Interrupted."""
    with _opened(plan, folder, "soak") as progress:
        folder.write_environment(read_environment())
        path = emptied(folder.stretch_path(SOAK))
        record = StretchRecord(status="failed")
        stretch = Stretch(plan, path, 60 * plan.minutes, plan.schedule())
        longest_s = _longest_setting_s(plan) + longest_load_s(plan, stretch.duration_s)
        note = f"; {show_clock(stretch.duration_s)} of it is load, the rest the limits of start, drain and stop"
        progress.begin(f"{len(stretch.schedule)} fault(s) under {plan.users} users", longest_s, note)
        try:
            progress.begin_step(f"soak of {plan.target.title}", 1, remaining_s=longest_s)
            with _running(plan, plan.roles, folder.path / "soak.log", progress) as running:
                progress.doing("loading")
                record = run_stretch(stretch, running, progress)
        except (CellFailedError, OSError) as exc:
            record.reason = str(exc)
        folder.write_record(SOAK, record)


@dataclass
class _FaultRun:
    """A fault run in progress."""

    plan: FaultPlan
    folder: FaultFolder
    progress: Progress
    differing: list[str]
    """In what the environment is not that of the folder's first start."""
    left: list[tuple[Group, list[Fault]]]
    """Each group with those of its faults that are still to be injected."""
    number: int = 0

    def longest_s(self) -> float:
        """Return how long all that is left takes at most, seconds."""
        loads = [longest_load_s(self.plan, self.plan.duration_of_s(one)) for _, each in self.left for one in each]
        return sum(loads) + sum(_longest_setting_s(group) for group, _ in self.left)

    def run_group(self) -> None:
        """Inject the faults of the first group, and keep why those were not that are left."""
        group, faults = self.left[0]
        if group.needs_root and os.geteuid() != 0:
            self._record_all("skipped", "needs root")
            return
        self.progress.begin_step(group.name, self.number + 1, remaining_s=self.longest_s())
        try:
            log = self.folder.path / f"{group.name}.log"
            with _running(group, self.plan.roles, log, self.progress) as running:
                while faults:
                    running.check_replicas(running.count_replicas(self.plan.roles))
                    self._run_fault(faults[0], running)
                    faults.pop(0)
        except _ServiceFailedError as exc:
            self._record_all("skipped", str(exc))
        except (CellFailedError, OSError) as exc:
            self._record_all("failed", str(exc))

    def _run_fault(self, fault: Fault, running: RunningTarget) -> None:
        plan, path = self.plan, emptied(self.folder.stretch_path(fault.name))
        self.number += 1
        self.progress.begin_step(fault.label, self.number, remaining_s=self.longest_s())
        self.progress.doing("loading")
        stretch = Stretch(plan, path, plan.duration_of_s(fault), [(plan.before_of_s(fault), fault)])
        record = run_stretch(stretch, running, self.progress)
        record.differing = self.differing
        reasons = [event.reason for event in record.events if event.reason]
        if reasons:
            record.status, record.reason = "failed", "; ".join(reasons)
        self.folder.write_record(fault.name, record)

    def _record_all(self, status: Literal["failed", "skipped"], reason: str) -> None:
        for fault in self.left[0][1]:
            self.progress.say(f"{fault.label}: {status}: {reason}")
            self.folder.write_record(fault.name, StretchRecord(status=status, reason=reason))


def _longest_setting_s(setting: Setting) -> float:
    """Return how long starting and stopping a target and its services take at most, and undoing its faults, seconds."""
    undos = sum(fault.undo is not None for fault in setting.faults)
    return longest_start_and_stop_s(setting.target) + 2 * _SERVICE_S * len(setting.services) + UNDO_S * undos


@contextmanager
def _opened(plan: FaultPlan | SoakPlan, folder: FaultFolder, command: str) -> Iterator[Progress]:
    targets = [group.target for group in plan.groups] if isinstance(plan, FaultPlan) else [plan.target]
    stays = isinstance(plan, FaultPlan)  # a soak starts anew
    needs = (need._replace(stays=stays) for need in files_of(plan.workload, targets))
    with opened(folder.plan, plan, command=command, needs=needs), shown_progress() as progress:
        yield progress


@contextmanager
def _running(setting: Setting, roles: list[Role], log: Path, progress: Progress) -> Iterator[RunningTarget]:
    """Start the services and the target, and wait until it is ready. Raises CellFailedError."""
    with ExitStack() as taken_down:
        for service in setting.services:
            progress.doing(f"starting {service.name}")
            taken_down.callback(_stop_service, service, log)
            _start_service(service, log)
        progress.doing(f"starting {setting.target.title}")
        running = taken_down.enter_context(running_target(setting.target, log))
        running.wait_until_ready()
        running.check_replicas(running.count_replicas(roles))
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


def _is_done(folder: FaultFolder, fault: Fault) -> bool:
    record = folder.read_record(fault.name)
    return record is not None and record.status == "finished"
