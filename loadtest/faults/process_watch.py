"""Which processes of each role live, looked at several times a second; their coming and going is written down."""

import time
from collections import Counter
from pathlib import Path

import psutil

from loadtest.machine.processes import descendants
from loadtest.machine.resources import role_of
from loadtest.plan.targets import Role
from loadtest.rows.columns import ProcessRow, RowWriter


class ProcessWatch:
    """Follows the processes of a target while it is loaded."""

    def __init__(self, roles: list[Role], path: Path) -> None:
        """Create the file at `path`. Raises OSError."""
        self._roles = roles
        self._writer = RowWriter(path, ProcessRow)
        self._living: dict[psutil.Process, str] = {}

    def look(self) -> None:
        """Write a row for each process that has come, changed its role or gone since the last look. Raises OSError."""
        now_unix_s = round(time.time(), 3)
        found = {process: role_of(process, self._roles) for process in descendants()}
        for process, role in self._living.items():
            if found.get(process) != role:
                self._writer.write(ProcessRow(now_unix_s, role, process.pid, "gone"))
        for process, role in found.items():
            if self._living.get(process) != role:
                self._writer.write(ProcessRow(now_unix_s, role, process.pid, "came"))
        self._living = found
        self._writer.flush()

    def of_role(self, role: str) -> list[psutil.Process]:
        """Return the processes of a role at the last look, the oldest first."""
        found = [process for process, name in self._living.items() if name == role]
        return sorted(found, key=lambda process: (process.create_time(), process.pid))

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def count_roles(rows: list[ProcessRow], unix_s: float) -> Counter[str]:
    """Return how many processes each role had at a moment."""
    counts: Counter[str] = Counter()
    for row in rows:
        if row.unix_s <= unix_s:
            counts[row.role] += 1 if row.change == "came" else -1
    return counts
