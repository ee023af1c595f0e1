"""Keeps HAProxy there: Serve looks after it only every few seconds, and nothing answers meanwhile. For the launcher.

It holds a copy of HAProxy's listening socket, so that connections wait instead of being refused, and has a stand-in
accept them as soon as HAProxy has ended. Serve's HAProxyManager, which could not update a process that is not its own,
is ended with it; Serve starts another, whose HAProxy takes over. An HAProxy whose manager has died is retired likewise.
Linux, where HAProxy is; requests that HAProxy had under way when it died are lost.
"""

import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

_SYS_PIDFD_GETFD = 438  # pidfd_getfd(2), on every architecture
_MANAGER = "ray::HAProxyManager"
_ASK_TIMEOUT_S = 1.0
_LEAST_S = 0.05  # between two looks, should a stand-in end as soon as it starts


class IngressWatch:
    """Watches the HAProxy on one port, among the descendants of this process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._leader: psutil.Process | None = None
        self._leader_fd: int | None = None
        self._command: list[str] = []
        self._config = Path()
        self._text = ""
        self._admin_socket = ""
        self._listener: socket.socket | None = None
        self._stand_in: subprocess.Popen[bytes] | None = None

    def wait(self, timeout_s: float) -> None:
        """Return after a look that comes after `timeout_s`, or at once when HAProxy ends."""
        if self._leader_fd is None:
            time.sleep(timeout_s)
        else:
            poll = select.poll()
            poll.register(self._leader_fd, select.POLLIN)
            poll.poll(1000 * timeout_s)
        self.look()
        time.sleep(_LEAST_S)

    def look(self) -> None:
        """See who takes connections, take leave of who should not, and put a stand-in where nobody does."""
        if not self._admin_socket and not self._find():
            return
        answering = self._ask_for_leader()
        if answering is None and (self._leader is None or not _is_alive(self._leader)):
            self._stand_in_for_it()
        elif answering is not None and (self._leader is None or answering != self._leader.pid):
            self._follow(answering)

    def close(self) -> None:
        """Let go of the socket and the stand-in."""
        self._drop_listener()
        if self._leader_fd is not None:
            os.close(self._leader_fd)
            self._leader_fd = None
        if self._stand_in is not None and self._stand_in.poll() is None:
            self._stand_in.kill()
            self._stand_in.wait()

    def _find(self) -> bool:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError, ValueError, IndexError):
                command = process.cmdline()
                if process.name() != "haproxy":
                    continue
                config = Path(command[command.index("-f") + 1])
                found = re.search(r"stats socket (\S+)", config.read_text(encoding="utf-8"))
                if found:
                    self._command, self._config, self._admin_socket = command[:1], config, found[1]
                    return True
        return False

    def _ask_for_leader(self) -> int | None:
        """Return the process that answers on HAProxy's admin socket; None when none does."""
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(_ASK_TIMEOUT_S)
                asking.connect(self._admin_socket)
                asking.sendall(b"show info\n")
                answer = b"".join(iter(lambda: asking.recv(65536), b""))
        except OSError:
            return None
        found = re.search(rb"^Pid: (\d+)", answer, re.MULTILINE)
        return int(found[1]) if found else None

    def _follow(self, pid: int) -> None:
        before = self._leader
        try:
            self._leader = psutil.Process(pid)
            pidfd = os.pidfd_open(pid)
        except (psutil.Error, OSError):
            return
        if self._leader_fd is not None:
            os.close(self._leader_fd)
        self._leader_fd = pidfd
        if before is not None and _is_alive(before) and not _has_manager(before):
            self._drop_listener()
            with suppress(psutil.Error):
                before.send_signal(signal.SIGUSR1)  # HAProxy's soft stop: it answers what it has and takes no more
        self._text = self._config.read_text(encoding="utf-8")
        self._hold_listener(self._leader)

    def _hold_listener(self, process: psutil.Process) -> None:
        """Take a copy of the process' listening socket in place of the one held, unless it is the same socket."""
        with suppress(psutil.Error, OSError):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self._port:
                    copy = _copy_of(self._leader_fd, connection.fd)
                    if copy is None:
                        return
                    self._drop_listener()
                    self._listener = copy
                    return

    def _drop_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _stand_in_for_it(self) -> None:
        if self._stand_in is not None and self._stand_in.poll() is None:
            return  # it is starting
        text = self._text
        inherited = []
        if self._listener is not None:
            inherited = [self._listener.fileno()]
            text = re.sub(rf"(?m)^(\s*bind )\S+:{self._port}\b", rf"\g<1>fd@{inherited[0]}", text)
        path = self._config.with_name("stand_in.cfg")
        path.write_text(text, encoding="utf-8")
        self._stand_in = subprocess.Popen([*self._command, "-db", "-f", str(path)], pass_fds=inherited)
        self._leader = psutil.Process(self._stand_in.pid)
        if self._leader_fd is not None:
            os.close(self._leader_fd)
        self._leader_fd = os.pidfd_open(self._stand_in.pid)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if _is_manager(process):
                    process.kill()


def _copy_of(pidfd: int | None, descriptor: int) -> socket.socket | None:
    """Return another process' socket as one of ours; None where that is not allowed."""
    if pidfd is None:
        return None
    copy = ctypes.CDLL(None, use_errno=True).syscall(_SYS_PIDFD_GETFD, pidfd, descriptor, 0)
    return socket.socket(fileno=copy) if copy >= 0 else None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _has_manager(process: psutil.Process) -> bool:
    try:
        parent = process.parent()
        return parent is not None and _is_manager(parent)
    except psutil.Error:
        return False


def _is_manager(process: psutil.Process) -> bool:
    return " ".join(process.cmdline()).startswith(_MANAGER)
