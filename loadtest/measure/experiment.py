"""The folder of an experiment: one process at a time measures in it, for one question, and resumes what it began.

Used by every command that measures. What else an experiment keeps in the folder is up to the command.
"""

import signal
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from json import loads
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel

from loadtest.errors import BadInputError
from loadtest.machine.processes import INTERRUPTS, adopt_orphans
from loadtest.plan.shipped import find_file
from loadtest.plan.target_key import key_headers
from loadtest.plan.targets import Target
from loadtest.plan.workload import Workload
from loadtest.rows.run_folder import as_json, folder_faults, write_json

_Asked = TypeVar("_Asked", bound=BaseModel)
_LOCK = "run.lock"
_HASHES = "files.json"
_ONCE_MORE_S = 0.05


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came. Not an Exception, so that no cell records it as its failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Need(NamedTuple):
    """A file of the plan."""

    key: str
    """What names it."""
    file: Path
    stays: bool = True
    """Whether an experiment is only resumed with the same content."""


class _Hashes(BaseModel):
    """Of the files by which an experiment is made, when its folder began. Absent in folders of an older kit."""

    sha256: dict[str, str]
    """By their paths in the plan."""


@contextmanager
def opened(
    path: Path,
    asked: _Asked,
    *,
    command: str,
    found: Collection[str] = (),
    needs: Iterable[Need] = (),
) -> Iterator[_Asked]:
    """Keep a folder open for one experiment; yield its record, which is at `path` and begins as `asked`.

    `command` is the one that resumes it. The keys in `found` are results: they may differ from what is asked. `needs`
    are looked for before a new experiment begins. Raises BadInputError when the folder cannot be used, and Interrupted
    after SIGINT or SIGTERM.
    """
    needs = list(needs)
    key_headers()  # refuses a key that cannot be sent
    folder = path.parent
    with folder_faults(folder), _locked(folder), raising_on_signals():
        if path.is_file():
            record = _resumed(path, asked, command, set(found))
            _check_unchanged(folder, needs)
        else:
            if any(file.name not in (_LOCK, _HASHES) for file in folder.iterdir()):
                raise BadInputError(
                    f"{folder} is not empty and not a folder of `loadtest {command}`: choose another with --out"
                )
            missing = [f"{need.key}: {need.file} is not a file" for need in needs if not find_file(need.file).is_file()]
            if missing:
                where = f"relative paths begin in the folder in which loadtest runs, {Path.cwd()}"
                raise BadInputError("\n".join([*missing, where]))
            write_json(
                folder / _HASHES, _Hashes(sha256={str(need.file): _sha256(need) for need in needs if need.stays})
            )
            write_json(path, asked)
            record = asked
        adopt_orphans()
        yield record


def _resumed(path: Path, asked: _Asked, command: str, found: set[str]) -> _Asked:
    try:
        known = type(asked).model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise BadInputError(
            f"{path}: is not what `loadtest {command}` writes; choose another folder with --out: {exc}"
        ) from exc
    before, now = ({**loads(as_json(record)), **dict.fromkeys(found)} for record in (known, asked))
    differing = list(_differing(before, now))
    if differing:
        raise BadInputError(
            f"{path.parent} holds the results of another `loadtest {command}` (differing: {', '.join(differing)}): "
            "choose another folder with --out, or give the same file and options to resume it"
        )
    return known


def files_of(workload: Workload, targets: Iterable[Target], plan: str = "") -> Iterator[Need]:
    """Yield the files by which a load is made and its targets are served, each with its key, behind `plan`."""
    yield Need(f"{plan}workload.locustfile", workload.locustfile)
    for target in targets:
        yield from (Need(f"{plan}targets.{target.name}.files", file) for file in target.files)


def _check_unchanged(folder: Path, needs: list[Need]) -> None:
    path = folder / _HASHES
    known = _Hashes.model_validate_json(path.read_text(encoding="utf-8")).sha256 if path.is_file() else {}
    for need in needs:
        before = known.get(str(need.file)) if need.stays else None
        if before is not None and before != _sha256(need):
            raise BadInputError(
                f"{need.key}: {need.file} has changed since {folder} began, and one result cannot come of two versions "
                "of it: choose another folder with --out, or restore the file to resume it"
            )


def _sha256(need: Need) -> str:
    try:
        return sha256(find_file(need.file).read_bytes()).hexdigest()
    except OSError as exc:
        raise BadInputError(f"{need.key}: {need.file} cannot be read: {exc.strerror}") from exc


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in {**before, **now}:
        one, other = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from (f"{key}.{inner}" for inner in _differing(one, other))
        elif one != other:
            yield key


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / _LOCK).acquire(timeout=0)
    except Timeout as exc:
        raise BadInputError(f"another run uses {folder}: wait for it, or choose another folder with --out") from exc
    with lock:
        yield


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Raise Interrupted on the first SIGINT or SIGTERM; further ones change nothing while things are taken down."""

    def stop(number: int, _: object) -> None:
        if number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):
            # Held back by `undisturbed`, it came through a thread of a library such as numpy. It waits for this one.
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return
        for each in previous:
            signal.signal(each, lambda *_: None)  # SIG_IGN would be inherited by a stop command
        raise Interrupted(number)

    def note_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
        lost = unraisable.exc_value
        if not isinstance(lost, Interrupted):
            hook(unraisable)
            return
        # It was raised where Python only prints an exception, such as in a __del__: the signal comes once more.
        for each in previous:
            signal.signal(each, stop)
        main = threading.main_thread().ident or 0
        threading.Timer(_ONCE_MORE_S, signal.pthread_kill, (main, lost.number)).start()

    hook, sys.unraisablehook = sys.unraisablehook, note_unraisable
    previous = {number: signal.signal(number, stop) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
