"""Bridges the seconds in which Serve has no HAProxy: Serve needs about 5 s to replace one that died. For the launcher.

Until Serve's next one listens, a stand-in runs with the last config on the same port (SO_REUSEPORT). It, and an HAProxy
whose manager has died, are children of this process, which adopts orphans; they are ended softly once they are not
needed. Linux, where HAProxy is. What was under way in an HAProxy that died is lost.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from serve_app.entrance.haproxy import harden_file
from serve_app.entrance.listening import listened_ports
from serve_app.errors import SetupError

_SCAN_EVERY_S = 5.0
_SCAN_AGAIN_S = 1.0
"""While something changes: reading all processes of a machine takes a hundredth of a core at this pace."""
_ADMIN_SOCKET = re.compile(r"^ *stats socket .*\n", re.MULTILINE)


class IngressWatch:
    """Watches the HAProxy on one port, among the descendants of this process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._known: set[psutil.Process] = set()  # Serve's own
        self._scan_s = 0.0
        self._binary = ""
        self._config = Path()
        # Never read: a Popen that nobody holds warns (ResourceWarning) as long as its process runs.
        self._started: subprocess.Popen[bytes] | None = None

    def look(self) -> None:
        """Start a stand-in if HAProxy has died and nobody listens; end what Serve's own has replaced."""
        some_died = any(not _is_alive(process) for process in self._known)
        if not some_died and time.monotonic() < self._scan_s:
            return
        if self._binary and (some_died or not self._known) and self._port not in listened_ports():
            self._stand_in()
        is_settled = self._scan()
        self._scan_s = time.monotonic() + (_SCAN_EVERY_S if is_settled else _SCAN_AGAIN_S)

    def _scan(self) -> bool:
        """Return whether Serve's own HAProxy is the only one."""
        found = {process for process in psutil.Process().children(recursive=True) if _is_haproxy(process)}
        own = {process for process in found if _parent_id(process) == os.getpid()}
        psutil.wait_procs(own, timeout=0)
        self._known = {process for process in found - own if _is_alive(process)}
        if not self._binary:
            self._learn(self._known)
        if own and any(_listens(process, self._port) for process in self._known):
            for process in own:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGUSR1)  # it answers what it has, and takes no more
        return bool(self._known) and not own

    def _learn(self, processes: Iterable[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.Error, ValueError, IndexError):
                command = process.cmdline()
                self._config, self._binary = Path(command[command.index("-f") + 1]), command[0]

    def _stand_in(self) -> None:
        with suppress(OSError, SetupError):
            path = write_config(self._config, os.environ)
            self._started = subprocess.Popen([self._binary, "-db", "-f", str(path)])


def write_config(source: Path, environment: Mapping[str, str]) -> Path:
    """Write the stand-in's config beside Serve's, and return its path. Raises OSError and SetupError.

    Serve's may be one that it has just written for an HAProxy that is not started yet, and so is not hardened.
    """
    path = source.with_name("stand_in.cfg")
    path.write_bytes(source.read_bytes())
    harden_file(path, environment)
    # Without the admin socket, by which Serve would take the stand-in for its own and never replace it.
    path.write_text(_ADMIN_SOCKET.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        sockets = process.net_connections("tcp")
    except psutil.Error:
        return False
    return any(found.status == psutil.CONN_LISTEN and found.laddr.port == port for found in sockets)


def _is_haproxy(process: psutil.Process) -> bool:
    try:
        return bool(process.name() == "haproxy")
    except psutil.Error:
        return False


def _parent_id(process: psutil.Process) -> int | None:
    try:
        return int(process.ppid())
    except psutil.Error:
        return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
