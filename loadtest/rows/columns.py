"""The rows of a run folder's CSV files: one per request, per second of the generator and of each role, per process.

Written while a cell is measured, read by the report. The column names are the field names, units included.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from math import isnan
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import IO, Any, TypeVar

REFUSAL_STATUSES = frozenset({429, 503})
"""Of a target that takes no more: from this client, or from anyone."""


def is_rejection(status: int) -> bool:
    """Return whether an answer says that the request is not one for this target, however busy that is."""
    return 300 <= status < 500 and status not in {408, 429}  # noqa: PLR2004 # redirections and client errors


def status_error(status: int) -> str:
    """Return the error of a request whose answer has another status than 200, and no other fault."""
    return f"status {status}"


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request, as the client saw it."""

    start_unix_s: float
    """When it was sent."""
    endpoint: str
    """Its key among the plan's endpoints; Locust's name for a request that the plan does not know."""
    status: int
    """HTTP status; 0 when no answer came."""
    latency_ms: float
    """Until the last byte of the answer; nan where the locustfile gives none, as for a pushed message."""
    response_bytes: int
    error: str
    """Empty when the answer was right."""
    server_timing: str
    """The answer's Server-Timing header as it came, such as `decode;dur=2.1, inference;dur=40`."""
    scheduled_unix_s: float | None = None
    """In an open loop, when it should have been sent; empty in a closed one."""
    generator: int | None = None
    """Which of several load generators sent it, from 1 on; there is no such column where there is one."""

    @property
    def is_refusal(self) -> bool:
        """Return whether the target refused it as it should: one of REFUSAL_STATUSES, and nothing else is wrong."""
        return self.status in REFUSAL_STATUSES and self.error == status_error(self.status)

    @property
    def is_timed(self) -> bool:
        """Return whether it has a latency."""
        return not isnan(self.latency_ms)

    @property
    def ended_unix_s(self) -> float:
        """Return when it was over."""
        return self.start_unix_s + (self.latency_ms / 1000 if self.is_timed else 0.0)


@dataclass(frozen=True, slots=True)
class GeneratorRow:
    """What the load generator did up to this second."""

    unix_s: float
    monotonic_s: float
    """Beside unix_s, so that a jump of the clock shows."""
    users: int
    requests: int
    """Since the start."""
    failures: int
    """Since the start."""
    lag_ms: float
    """The longest time within this second by which the generator's event loop was late."""
    own_cpu_percent: float | None = None
    """What the process of this generator used; 100 is one core. Only where there are several."""
    generator: int | None = None
    """Which of several load generators this is, from 1 on; there is no such column where there is one."""


@dataclass(frozen=True, slots=True)
class ResourceRow:
    """What the processes of one role used in this second."""

    unix_s: float
    role: str
    processes: int
    cpu_percent: float
    """100 is one core."""
    rss_bytes: int
    """Sum over the processes; pages that they share count several times. Of `machine`: memory in use."""
    threads: int
    busy_threads: int | None = None
    """Threads that ran or waited for a core for a good part of this second; None where the system does not tell."""
    busiest_thread_percent: float | None = None
    """CPU of the thread that ran most; 100 is one core."""
    runqueue_wait_percent: float | None = None
    """Time in which its threads could have run and had no core, summed over them; 100 is one thread all the time."""
    crowd_threads: int | None = None
    """Busy threads that may run on the same cores only, where they are most to a core."""
    crowd_cores: float | None = None
    """Those cores; None when no thread was busy."""


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process of the target that has come or gone."""

    unix_s: float
    """When that was seen."""
    role: str
    pid: int
    change: str
    """`came` or `gone`; a process that gets another role goes and comes."""


_OF_ONE_GENERATOR: dict[type, int] = {RequestRow: 8, GeneratorRow: 6}
"""How many of the columns there are where one generator makes the load."""

_FEWER_COLUMNS: dict[type, int] = {**_OF_ONE_GENERATOR, ResourceRow: 9}
"""The same, and how many columns of ResourceRow there were before 2026-11-26; such files are read, too."""

AnyRow = RequestRow | GeneratorRow | ResourceRow | ProcessRow
Row = TypeVar("Row", RequestRow, GeneratorRow, ResourceRow, ProcessRow)


def column_names(kind: type[AnyRow]) -> list[str]:
    """Return the columns of a file of such rows."""
    return [field.name for field in fields(kind)]


def read_values(kind: type[AnyRow], columns: int | None = None) -> Callable[[AnyRow], tuple[Any, ...]]:
    """Return what gives the values of such a row in the order of its columns, or of the first `columns`.

    `dataclasses.astuple` does the same, but copies each value: 20 µs of every request's CPU.
    """
    return attrgetter(*column_names(kind)[:columns])


class RowWriter:
    """Appends rows to a CSV file with a header."""

    def __init__(self, path: Path, kind: type[AnyRow], *, of_several: bool = False) -> None:
        """Create the file, of several generators with their columns. Raises OSError, also later, if it cannot write."""
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        columns = None if of_several else _OF_ONE_GENERATOR.get(kind)
        self._values = read_values(kind, columns)
        self._csv.writerow(column_names(kind)[:columns])

    def write(self, row: AnyRow) -> None:
        """Add a row; it is in the file after the next flush."""
        self._csv.writerow(self._values(row))

    def write_now(self, rows: Iterable[AnyRow]) -> None:
        """Add rows and flush."""
        for row in rows:
            self.write(row)
        self.flush()

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Return the rows of a file that RowWriter wrote; an unfinished last line is left out.

    Raises OSError, and ValueError when the file has other columns or values.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(line for line in file if line.endswith("\n"))
        known, names = list(fields(kind)), column_names(kind)
        header = next(lines, None)
        if header is not None and header == names[: _FEWER_COLUMNS.get(kind)]:
            known = known[: len(header)]
        elif header is not None and header != names:
            raise ValueError(f"its columns are {', '.join(header)} instead of {', '.join(names)}")
        converters = [_converter(field.type) for field in known]  # no `from __future__` here, so these are types
        for line in lines:
            if len(line) == len(converters):
                yield kind(*[convert(text) for convert, text in zip(converters, line, strict=True)])


def _converter(kind: Any) -> Callable[[str], Any]:
    """Return what makes a value of a column's text; an empty one is None where the column may have that."""
    if isinstance(kind, UnionType):
        known: Callable[[str], Any] = kind.__args__[0]
        return lambda text: known(text) if text else None
    convert: Callable[[str], Any] = kind
    return convert
