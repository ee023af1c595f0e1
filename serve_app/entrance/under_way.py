"""Counts the requests that each process works on, and tells whether the service takes more: for a stop under load.

Every process that takes HTTP writes its count into a file of the service's folder; the launcher adds them up. That of
a process that was killed does not count. Without the folder, as with `serve run`, nothing is counted.
"""

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from starlette.datastructures import Headers
from starlette.types import Scope

from serve_app.entrance.haproxy import ARRIVED_HEADER

VARIABLE = "SERVE_APP_SERVICE_FOLDER"

_COUNT = struct.Struct("=q")
_STOPPING = "stopping"
_REQUESTS = "requests"


class UnderWay:
    """The requests of this process."""

    def __init__(self) -> None:
        """Make the file, if the environment names a folder. Raises OSError."""
        given = os.environ.get(VARIABLE)
        self._stopping = Path(given) / _STOPPING if given else None
        self._shared = _open_count(Path(given)) if given else bytearray(_COUNT.size)
        self._count = 0
        self._stopped_ms: float | None = None

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request while the block runs, which asks `is_accepted`: the launcher looks in the other order."""
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    def is_accepted(self, scope: Scope) -> bool:
        """Return whether a request came before the service was told to stop, or it was not."""
        if self._stopping is None or not os.path.exists(self._stopping):  # noqa: PTH110 for each request
            return True
        if self._stopped_ms is None:
            self._stopped_ms = float(self._stopping.read_text(encoding="ascii"))
        arrived = Headers(scope=scope).get(ARRIVED_HEADER, "")
        return arrived.isdecimal() and int(arrived) < self._stopped_ms

    def _add(self, change: int) -> None:
        self._count += change
        _COUNT.pack_into(self._shared, 0, self._count)


def tell_stopping(folder: Path) -> None:
    """Have every process of the service refuse what comes from now on. Raises OSError."""
    unfinished = folder / f"{_STOPPING}.unfinished"
    unfinished.write_text(f"{1000 * time.time():.0f}", encoding="ascii")
    unfinished.replace(folder / _STOPPING)


def count_under_way(folder: Path) -> int:
    """Return how many requests all living processes of the service work on."""
    total = 0
    with suppress(FileNotFoundError):  # no process of the service has begun
        for file in (folder / _REQUESTS).iterdir():
            count = file.read_bytes()
            if len(count) == _COUNT.size and psutil.pid_exists(int(file.name.partition("-")[0])):
                total += _COUNT.unpack(count)[0]
    return total


def _open_count(folder: Path) -> mmap.mmap:
    requests = folder / _REQUESTS
    requests.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f"{os.getpid()}-", dir=requests, delete=False) as file:
        file.write(bytes(_COUNT.size))
        file.flush()
        return mmap.mmap(file.fileno(), _COUNT.size)
