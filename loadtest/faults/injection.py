"""Injects a fault, step by step beside the load, and undoes it in any case."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from loadtest.errors import CellFailedError
from loadtest.faults.fault_plan import Fault
from loadtest.faults.folder import Event
from loadtest.faults.process_watch import ProcessWatch
from loadtest.machine.processes import family, kill, last_lines, split_command, start_process

UNDO_S = 60.0
_MOST_NAMED = 3


class Injection:
    """One fault: call `step` until it returns True, and `close` in any case; `event` records what was done."""

    def __init__(self, fault: Fault, watch: ProcessWatch, log: Path, environment: Mapping[str, str]) -> None:
        self.fault = fault
        self.event = Event(fault=fault.name)
        self._watch = watch
        self._log = log
        self._environment = {**os.environ, **environment}
        self._frozen: list[psutil.Process] = []
        self._running: subprocess.Popen[bytes] | None = None
        self._undo_due = False
        self._since_s = 0.0

    def step(self) -> bool:
        """Begin at the first call, then continue; return whether it is over.

        Raises CellFailedError when no process of the role runs, or a command fails.
        """
        if not self.event.began_unix_s:
            self._begin()
            return False
        if self._running is not None and not self._has_ended(self._running):
            return False
        if self.fault.freeze is not None and self._passed_s() < self.fault.freeze.for_s:
            return False
        self._thaw()
        if self._undo_due and self.fault.undo is not None:
            if self._running is not None:
                self._running, self._since_s = None, time.monotonic()
            if self._passed_s() >= self.fault.hold_s:
                self._undo_due = False
                self._since_s, self._running = time.monotonic(), self._start(self.fault.undo)
            return False
        self.event.ended_unix_s = round(time.time(), 3)
        return True

    def close(self) -> None:
        """Continue frozen processes, end the running command, and undo the fault if that has not been done."""
        self._thaw()
        if self._running is not None and self._running.poll() is None:
            kill(family(self._running.pid))
            self._running.wait()
        if self._undo_due and self.fault.undo is not None:
            self._undo_due = False
            with suppress(CellFailedError, subprocess.TimeoutExpired):
                self._start(self.fault.undo).wait(UNDO_S)

    def _begin(self) -> None:
        self._note_begin()
        self._undo_due = self.fault.undo is not None
        if self.fault.command is not None:
            self._running = self._start(self.fault.command)
            return
        if self.fault.kill is not None:
            self._signal(self._victims(self.fault.kill.processes), signal.Signals[f"SIG{self.fault.kill.signal}"])
        elif self.fault.freeze is not None:
            self._frozen = self._victims(self.fault.freeze.processes)
            self._signal(self._frozen, signal.SIGSTOP)

    def _note_begin(self) -> None:
        self.event.began_unix_s, self._since_s = round(time.time(), 6), time.monotonic()

    def _passed_s(self) -> float:
        return time.monotonic() - self._since_s

    def _victims(self, which: str) -> list[psutil.Process]:
        role = self.fault.role or ""
        found = self._watch.of_role(role)
        if not found:
            raise CellFailedError(f"{self.fault.name}: no process of the role {role} runs; see roles in the plan")
        return found[:1] if which == "one" else found

    def _signal(self, processes: list[psutil.Process], number: signal.Signals) -> None:
        self._note_begin()  # what a signal cuts off must not have ended before the fault
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
                self.event.pids.append(process.pid)
        if not self.event.pids:
            raise CellFailedError(f"{self.fault.name}: each process of the role {self.fault.role} had ended already")
        who = (
            f"{len(self.event.pids)} processes"
            if len(self.event.pids) > _MOST_NAMED
            else ", ".join(map(str, self.event.pids))
        )
        self.event.struck.append(f"{number.name} to {self.fault.role}: {who}")

    def _thaw(self) -> None:
        for process in self._frozen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self._frozen = []

    def _start(self, command: str) -> "subprocess.Popen[bytes]":
        self.event.struck.append(f"`{command}`")
        return start_process(split_command(command), self._log, self._environment)

    def _has_ended(self, process: "subprocess.Popen[bytes]") -> bool:
        code = process.poll()
        if code is None and self._passed_s() > self.fault.longest_s:
            raise CellFailedError(f"{self.fault.name}: its command did not end within {self.fault.longest_s:g} s")
        if code:
            raise CellFailedError(f"{self.fault.name}: its command ended with code {code}: {last_lines(self._log)}")
        return code is not None
