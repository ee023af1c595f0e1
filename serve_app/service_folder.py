"""What a service leaves in the file system while it runs: a folder for each user and port, /tmp/serve-app-UID/PORT.

service.json   where its dashboard is; `serve_app.redeploy` reads it
metrics.json   where its metrics are, Prometheus' file_sd; the stress kit reads it
stopping       there once the service takes no more requests; `entrance.under_way` reads it
requests/PID   how many requests a process works on; written by `entrance.under_way`
h/             HAProxy's config and admin socket
ray/           Ray's session: sockets and logs

The launcher makes it, for its user only, and removes it when the service has stopped as asked. After a fault it stays,
with the logs, until the next start on that port.
"""

import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from serve_app.errors import Fault, SetupError
from serve_app.places import why_not_writable

VARIABLE = "SERVE_APP_RUN_DIR"
"""The folder to use instead of /tmp/serve-app-UID."""

MAX_BYTES = 34
"""Of a service folder's path: the names of HAProxy's admin socket and of Ray's add 73 and 68, and 107 are allowed."""

RAY_VARIABLE = "RAY_TMPDIR"
RAY_MAX_BYTES = 43
"""Of a folder for Ray's sessions that RAY_TMPDIR names: the names of Ray's sockets add 64."""

TEMPORARY_VARIABLE = "TMPDIR"
TEMPORARY_MAX_BYTES = 75
"""Of a folder that TMPDIR names: the name of a socket between the processes of Ray's dashboard adds 32."""

_FACTS = "service.json"
_METRICS = "metrics.json"
_HAPROXY = "h"
_ADMIN_SOCKET = "a"
_TRIES = 3


def folder_of(port: int) -> Path:
    """Return where the service on `port` of this user has its folder, whether it runs or not."""
    return _top() / str(port)


@contextmanager
def claimed_folder(port: int, *, is_over: Callable[[], bool]) -> Iterator[Path]:
    """Make the folder of a service anew, for this process alone; after the block it is removed if `is_over` says so.

    Raises SetupError when another service has it, or somebody else its place.
    """
    folder = folder_of(port)
    check_path(folder)
    try:
        lock = _claim(folder)
    except OSError as exc:
        raise SetupError(_unusable(folder, exc.strerror or str(exc))) from exc
    if lock is None:
        raise SetupError(f"port {port} cannot be used: another service of yours is starting or stopping there")
    try:
        yield folder
    finally:
        if is_over():
            shutil.rmtree(folder, ignore_errors=True)
            if not _is_top_given():
                with suppress(OSError):  # other services of this user have theirs in it
                    folder.parent.rmdir()
        else:
            for stale in (_METRICS, _FACTS):  # what stays is for reading logs
                with suppress(OSError):
                    (folder / stale).unlink()
        lock.close()


def check_usable(port: int) -> None:
    """Return if the service on `port` can have its folder, which nobody makes yet. Raises SetupError."""
    folder = folder_of(port)
    check_path(folder)
    for each in (folder,) if _is_top_given() else (folder.parent, folder):
        if os.path.lexists(each) and sys.platform != "win32":
            _check_owner(each)
    if reason := why_not_writable(folder):
        raise SetupError(_unusable(folder, reason))


def is_running(port: int) -> bool:
    """Tell whether a service of this user starts, runs or stops on `port`."""
    return _is_held(folder_of(port))


def check_path(folder: Path, variable: str = VARIABLE, most_bytes: int = MAX_BYTES) -> None:
    """Return if sockets may have names below a folder that `variable` sets.

    Raises SetupError when its path is too long, or not a whole one: neither Ray nor HAProxy takes that.
    """
    if not folder.is_absolute():
        what = f"{folder} does not begin with /"
        raise SetupError(Fault(variable, what, "write the whole path of a folder, without ~"))
    if len(os.fsencode(folder)) > most_bytes and sys.platform != "win32":
        what = f"{folder} is longer than {most_bytes} bytes, the limit for a folder with sockets"
        raise SetupError(Fault(variable, what, "set it to a shorter path"))


def haproxy_files(folder: Path) -> dict[str, str]:
    """Return the variables by which HAProxy's files come into the folder; Ray adds a folder for each node."""
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/{_HAPROXY}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/{_HAPROXY}/{_ADMIN_SOCKET}",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/{_HAPROXY}/m",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{folder}/{_HAPROXY}",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/{_HAPROXY}/server-state",
    }


def haproxy_sockets(folder: Path) -> list[Path]:
    """Return the admin sockets of the service's HAProxies."""
    return sorted(folder.glob(f"{_HAPROXY}/*/{_ADMIN_SOCKET}"))


def write_facts(folder: Path, *, dashboard: str, metrics: Path) -> None:
    """Say where to find what a running service has. Raises OSError."""
    (folder / _METRICS).symlink_to(metrics)
    (folder / _FACTS).write_text(json.dumps({"dashboard": dashboard}), encoding="utf-8")


def find_dashboard(port: int) -> str:
    """Return the dashboard's URL of the service that this user runs on `port`. Raises SetupError."""
    folder = folder_of(port)
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = None
    if facts is None or not _is_held(folder):
        raise SetupError(f"you run no service on port {port} that is ready; start it, or name the dashboard of another")
    return str(facts["dashboard"])


def _is_top_given() -> bool:
    """Tell whether the user has named the folder of all services, which is then not ours to guard or remove."""
    return bool(os.environ.get(VARIABLE))


def _top() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given)
    if sys.platform == "win32":
        return Path(tempfile.gettempdir()) / "serve-app"
    return Path("/tmp") / f"serve-app-{os.getuid()}"  # noqa: S108 as Ray; TMPDIR may be too long for sockets


def _claim(folder: Path) -> "_Lock | None":
    """Return the lock of a folder, made or emptied; None if another process has it. Raises OSError and SetupError."""
    for _ in range(_TRIES):
        try:
            _make_private(folder.parent, is_shared=_is_top_given())
            _make_private(folder)
            break
        except FileNotFoundError:  # another service of this user has ended, and removed what it thought was empty
            continue
    lock = _Lock.of(folder)
    if lock is not None:
        for left in folder.iterdir():  # by a service that was killed, or failed
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    return lock


def _make_private(folder: Path, *, is_shared: bool = False) -> None:
    """Make a folder that only this user can use. Raises OSError, and SetupError when somebody else has made it."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=is_shared)
    if is_shared or sys.platform == "win32":
        return
    _check_owner(folder)
    folder.chmod(0o700)


def _check_owner(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        remedy = f"remove it, or set {VARIABLE} to a folder of yours"
        raise SetupError(Fault(VARIABLE, f"{folder} belongs to somebody else", remedy))


def _unusable(folder: Path, reason: str) -> Fault:
    return Fault(VARIABLE, f"{folder} cannot be written: {reason}", "set it to a folder that you can write")


class _Lock:
    """Holds a folder for this process until it is closed, or this process ends. Nothing on Windows."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """Return the lock of a folder, or None when another process holds it. Raises OSError."""
        if sys.platform == "win32":
            return cls(None)
        import fcntl

        lock = cls(descriptor := os.open(folder, os.O_RDONLY))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), folder.lstat()):  # else it was removed and made again meanwhile
                return lock
        except (BlockingIOError, FileNotFoundError):
            pass
        lock.close()
        return None

    def close(self) -> None:
        """Let the folder go."""
        if self._descriptor is not None:
            os.close(self._descriptor)


def _is_held(folder: Path) -> bool:
    try:
        lock = _Lock.of(folder)
    except OSError:
        return False
    if lock is not None:
        lock.close()
    return lock is None or sys.platform == "win32"
