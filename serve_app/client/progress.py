"""Shows progress on standard error: a bar on a terminal, otherwise a line every ten seconds."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from serve_app.client.errors import ItemError
from serve_app.client.plain_text import printable

PLAIN_EVERY_S = 10.0
_SHOW_WAIT_S = 3.0
_MOST_REASON = 80


class Progress:
    """Counts the completed items and shows them; use it as a context manager. It never writes to standard output."""

    def __init__(self, total: int | None, *, bar: bool) -> None:
        """Show progress towards `total` items (None: unknown); `bar` only where it does not disturb other output."""
        self.retries = 0
        self._done = 0
        self._failed = 0
        self._total = total
        self._began_s = self._told_s = time.monotonic()
        self._waiting = ""
        self._waiting_until_s = 0.0
        self._console = Console(file=sys.stderr, highlight=False)
        self._bar = _make_bar(self._console) if bar and sys.stderr.isatty() and self._console.is_terminal else None
        self._task = self._bar.add_task("", total=total, state="") if self._bar else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began_s

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        if sys.stderr.isatty():
            self._console.print(Text(text, style=style), soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.say(f"WARNING: {text}", "bold red")

    def expect(self, count: int) -> None:
        """Add `count` items to the total."""
        self._total = (self._total or 0) + count
        self._show()

    def advance(self, count: int, *, failed: bool = False) -> None:
        """Count `count` more completed items."""
        self._done += count
        self._failed += count * failed
        self._show()

    def fail(self, count: int) -> None:
        """Count `count` of the completed items as failed."""
        self._failed += count
        self._show()

    def retry(self, error: ItemError, wait_s: float) -> None:
        """Show an error whose retry follows in `wait_s`."""
        self.retries += 1
        reason = printable(error.detail)
        reason = reason if len(reason) <= _MOST_REASON else f"{reason[:_MOST_REASON]}…"
        self._waiting = f"{error.code} ({reason}), retry in {wait_s:.1f} s"
        self._waiting_until_s = time.monotonic() + max(wait_s, _SHOW_WAIT_S)
        self._show()

    def _show(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, total=self._total, state=self._state())
        elif time.monotonic() - self._told_s >= PLAIN_EVERY_S:
            self._told_s = time.monotonic()
            total = "" if self._total is None else f" of {self._total:,}"
            self.say(f"{self._done:,}{total} done, {self._state()}")

    def _state(self) -> str:
        parts = [f"{self._done / max(self.elapsed_s, 1e-9):.1f}/s", f"{self._failed:,} failed"]
        if time.monotonic() < self._waiting_until_s:
            parts.append(self._waiting)
        return ", ".join(parts)


def _make_bar(console: Console) -> Bar:
    return Bar(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        console=console,
        transient=True,
        # It would redirect standard output to standard error.
        redirect_stdout=False,
        redirect_stderr=False,
    )
