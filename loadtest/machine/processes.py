"""The processes that the kit starts, targets and Locust: none outlives it, nor do their children.

On Linux the kit adopts whatever its children leave behind; elsewhere a process that detaches itself and loses its
parent is not found.
"""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

from loadtest.errors import CellFailedError

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.05
_TAIL_LINES, _TAIL_BYTES = 12, 20_000
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

INTERRUPTS = frozenset(
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if signal.getsignal(number) is not signal.SIG_IGN  # as after nohup
)
"""Signals that end a run: Ctrl-C, SIGTERM, and the closing of the terminal."""


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (Linux)."""
    if _libc is not None:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def split_command(command: str) -> list[str]:
    """Return the arguments of a plan's command; `{python}` is the kit's own interpreter. Raises CellFailedError."""
    try:
        arguments = shlex.split(command)
    except ValueError as exc:
        raise CellFailedError(f"the command `{command}` cannot be read: {exc}") from exc
    return [argument.replace("{python}", sys.executable) for argument in arguments]


def start_process(arguments: list[str], log: Path | None, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own, so that Ctrl-C reaches only the kit; its output goes into `log`.

    Without a log, its output is the kit's own.

    On Linux it gets SIGTERM when the kit dies, however that happens. Raises CellFailedError, and Interrupted when it
    was started while a signal came; then it has been killed.
    """
    process = None
    try:
        # An exception of a signal handler that Python runs while it forks would be printed and lost.
        with log.open("ab") if log else nullcontext() as output, undisturbed():
            process = subprocess.Popen(
                arguments,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if log else None,
                start_new_session=True,
                preexec_fn=begin_child,  # noqa: PLW1509 it takes no lock that a thread could hold
            )
    except (OSError, subprocess.SubprocessError) as exc:
        raise CellFailedError(f"`{shlex.join(arguments)}` cannot be started: {exc}") from exc
    except BaseException:
        if process is not None:
            kill(family(process.pid))
            process.wait()
        raise
    return process


def begin_child() -> None:
    """Let a new process get SIGTERM when this one ends (Linux), and take signals. For `preexec_fn`."""
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    let_signals_through()


def family(pid: int) -> list[psutil.Process]:
    """Return a process and everything below it; nothing when it has ended."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return []


def psutil_of(pid: int) -> list[psutil.Process]:
    """Return the process, or nothing when it has ended."""
    return family(pid)[:1]


def descendants(without: Collection[int] = ()) -> list[psutil.Process]:
    """Return all living processes below the kit, except the families of the pids in `without`."""
    others = {process.pid for pid in without for process in family(pid)}
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.pid not in others and is_alive(process)
    ]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while something is taken down; they take effect afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_signals_through() -> None:
    """Undo `undisturbed` in a child process: it would inherit it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_end(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Return those that still live after at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while (left := [process for process in left if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return left


def kill(processes: Iterable[psutil.Process], timeout_s: float = 5) -> list[str]:
    """Kill processes and wait for their end. Returns what they were."""
    killed, processes = [], list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            killed.append(describe(process))
            process.kill()
    wait_for_end(processes, timeout_s)
    return killed


def reap_orphans(known: Collection[int]) -> None:
    """Reap adopted processes that have ended, except those in `known`, which their Popen reaps."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.pid not in known and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def describe(process: psutil.Process) -> str:
    """Return the command line, shortened to one line, without the folders of its program."""
    try:
        words = process.cmdline() or [process.name()]
    except psutil.Error:
        return f"process {process.pid}"
    words = " ".join([Path(words[0]).name or words[0], *words[1:]]).split()
    return " ".join(words)[:100]


def command_of(process: psutil.Process) -> str:
    """Return the command line; "" when the process has ended or may not be read."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def last_lines(log: Path) -> str:
    """Return the last lines of a log, for the reason of a failure."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-_TAIL_LINES:])
