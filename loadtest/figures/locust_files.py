"""Reads the CSV files that `locust --csv PREFIX` writes, line by line, for the report and for the audit."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path

from loadtest.errors import BadInputError

STATS, HISTORY, FAILURES, EXCEPTIONS = "_stats.csv", "_stats_history.csv", "_failures.csv", "_exceptions.csv"
"""What Locust appends to the prefix."""

OLD_STATS, OLD_PERCENTILES = "_requests.csv", "_distribution.csv"
"""What Locust 0.8 to 0.13 wrote instead of `_stats.csv`."""

TOTAL = "Aggregated"
_TOTALS = (TOTAL, "Total")
"""The second is that of Locust before 0.13."""
REQUESTS, FAILED, RPS = "Request Count", "Failure Count", "Requests/s"
MEDIAN, MEAN, LEAST, MOST = (f"{name} Response Time" for name in ("Median", "Average", "Min", "Max"))


_OLD_NAMES = {
    "Type": "Method",
    **dict.fromkeys((REQUESTS, f"Total {REQUESTS}"), "# requests"),
    **dict.fromkeys((FAILED, f"Total {FAILED}"), "# failures"),
    **{
        f"{total}{column}": column.replace("Response Time", "response time")
        for total in ("", "Total ")
        for column in (MEDIAN, MEAN, LEAST, MOST)
    },
}
"""What Locust before 1.0 called columns (`requests_csv` and `stats_history_csv` in its stats.py)."""

MOST_TOLD = 5
"""Of the faults of a file."""

_PERCENTILE = re.compile(r"(\d+(?:\.\d+)?)%")  # which there are can be changed in Locust
_NO_NUMBER = ("", "N/A")
"""What Locust writes as a percentile of no request."""
_WHOLE = "Count"
"""In the name of a column: its numbers are whole."""


@dataclass(frozen=True)
class Line:
    """A line of a file, by column."""

    at: int
    """Its number in the file."""
    text: dict[str, str]
    numbers: dict[str, float]
    """Those asked for, and all percentiles that there are."""
    is_old: bool = False
    """Whether Locust before 1.0 wrote it: milliseconds cut to whole ones, requests/s rounded to two digits."""

    @property
    def name(self) -> str | None:
        """Return what Locust calls it on its console; None is all requests together."""
        kind, name = self.text["Type"], self.text["Name"]
        return None if name in _TOTALS and kind in {"", "None"} else name_request(kind, name)

    @property
    def percentiles(self) -> list[tuple[float, float]]:
        """Return share and value of each percentile."""
        found = [(_PERCENTILE.fullmatch(column), value) for column, value in self.numbers.items()]
        return [(float(match[1]) / 100, value) for match, value in found if match]


def name_request(kind: str, name: str) -> str:
    """Return what Locust calls requests on its console; a name that begins with the method has it once."""
    return name if not kind or name.startswith(f"{kind} ") else f"{kind} {name}".strip()


def find_option_faults(users: int | None, wait_s: Sequence[float] | None) -> list[str]:
    """Return what cannot be of the options that say of a run what its files do not."""
    faults = []
    if users is not None and users < 1:
        faults.append(f"--users: {users} is no number of users; at least 1")
    if wait_s is not None and not 0 <= wait_s[0] <= wait_s[1] < inf:
        faults.append(f"--wait: {wait_s[0]:g} and {wait_s[1]:g} are not the least and the most seconds of a think time")
    return faults


def read_lines(
    path: Path, texts: Sequence[str], numbers: Sequence[str], notes: list[str], optional: Sequence[str] = ()
) -> list[Line]:
    """Return the lines of a file, by the column names of Locust 1.0 and newer; none of an empty file.

    Locust's files are empty until its first flush. Numbers in `optional` columns are returned where the file has them.
    A last line that is cut off is left out, with a note. Raises BadInputError with what is no number.
    """
    rows, is_old = _read_rows(path, [*texts, *numbers])
    numbers = [*numbers, *(column for column in optional if rows and column in rows[0][1])]
    if rows and None in rows[-1][1].values():
        rows.pop()
        notes.append(f"the last line of {path.name} is cut off, and left out")
    faults = [f"{path}: line {at}, {fault}" for at, row in rows for fault in _find_faults(row, numbers)]
    if faults:
        more = [f"{path}: {len(faults) - MOST_TOLD} more of them"] if len(faults) > MOST_TOLD else []
        raise BadInputError(
            "\n".join([*faults[:MOST_TOLD], *more, "correct the file, or delete it to report without it"])
        )
    return [
        Line(
            at,
            {column: row[column] or "" for column in texts},
            {column: float(row[column] or "") for column in _numeric(row, numbers)},
            is_old,
        )
        for at, row in rows
    ]


def _read_rows(path: Path, columns: Sequence[str]) -> tuple[list[tuple[int, dict[str, str | None]]], bool]:
    """Return the rows of a CSV file by column, with the line at which each ends; and whether its names are old ones."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.DictReader(file)
            found = reader.fieldnames or columns
            today = {_OLD_NAMES[column]: column for column in columns if column not in found and column in _OLD_NAMES}
            reader.fieldnames = header = [today.get(column, column) for column in found]
            rows = [(reader.line_num, dict(row)) for row in reader]
    except OSError as exc:
        raise BadInputError(f"{path}: cannot be read: {exc.strerror}") from exc
    except csv.Error as exc:
        raise BadInputError(f"{path}: cannot be read as CSV: {exc}") from exc
    missing = [column for column in columns if column not in header]
    if missing:
        raise BadInputError(
            f"{path}: is not what Locust writes, for it has no column {', '.join(missing)}; "
            "give the PREFIX of `locust --csv PREFIX`"
        )
    repeated = sorted({column for column in header if header.count(column) > 1})
    if repeated:
        raise BadInputError(f"{path}: the column {', '.join(repeated)} stands there twice")
    return rows, header != found


def _numeric(row: dict[str, str | None], numbers: Sequence[str]) -> list[str]:
    """Return the columns that hold a number in this row."""
    percentiles = [column for column in row if column and _PERCENTILE.fullmatch(column)]
    return [*numbers, *(column for column in percentiles if row[column] not in _NO_NUMBER)]


def _find_faults(row: dict[str, str | None], numbers: Sequence[str]) -> Iterator[str]:
    for column in _numeric(row, numbers):
        try:
            number = float(row[column] or "")
        except ValueError:
            number = -1.0
        if not isfinite(number) or number < 0:
            yield f"column {column}: {row[column]!r} is not a number from 0 on"
        elif _WHOLE in column and number != int(number):
            yield f"column {column}: {row[column]!r} is not a whole number"
