"""What a person sees while the kit works: a live display on a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadtest.machine.processes import undisturbed
from loadtest.rows.columns import GeneratorRow

_PLAIN_EVERY_S = 10.0
_RATE_SECONDS = 5


@dataclass
class _Now:
    """What is shown: the cell or step, what happens in it, and the load."""

    title: str
    number: int
    count: int | None
    """None when it is not known in advance."""
    remaining_s: float
    """Of the whole run, when this step began: an estimate, or the longest where `count` is None."""
    began_s: float
    doing: str = "begins"
    since_s: float = 0.0


class Progress:
    """Shows how far a run has come."""

    def __init__(self, console: Console) -> None:
        """Show on `console`: live when it is a terminal, else in lines."""
        self._console = console
        self._duration_s: float | None = None
        self._now: _Now | None = None
        self._seconds: list[GeneratorRow] = []
        self._told_s = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def begin_step(self, title: str, number: int, count: int | None = None, remaining_s: float = 0.0) -> None:
        """Show that a step begins: of `count`, if that is known, with `remaining_s` for it and all after it."""
        now_s = time.monotonic()
        self._now, self._seconds = _Now(title, number, count, remaining_s, now_s, since_s=now_s), []
        if not self._console.is_terminal:
            left = f"about {show_clock(remaining_s)} to go" if count else f"at most {show_clock(remaining_s)} left"
            self.say(f"[{number}{f'/{count}' if count else ''}] {title} ({left})")

    def begin(self, what: str, longest_s: float, note: str = "") -> None:
        """Print how long a command takes at most, before it begins."""
        self.say(f"{what}: at most {show_clock(longest_s)}{note}")

    def doing(self, what: str) -> None:
        """Show that something else happens in the cell."""
        assert self._now is not None
        self._now.doing, self._now.since_s, self._told_s = what, time.monotonic(), time.monotonic()
        self._seconds, self._duration_s = [], None
        if not self._console.is_terminal:
            self.say(f"  {what}")

    def second(self, row: GeneratorRow | None, duration_s: float) -> None:
        """Show another second of the load, which takes `duration_s` in all."""
        if row is not None and (not self._seconds or row.unix_s > self._seconds[-1].unix_s):
            self._seconds = [*self._seconds[-_RATE_SECONDS:], row]
        self._duration_s = duration_s
        now_s = time.monotonic()
        if not self._console.is_terminal and self._seconds and now_s - self._told_s >= _PLAIN_EVERY_S:
            self._told_s = now_s
            self.say(f"  {self._load(duration_s)}")

    def display(self) -> RenderableType:
        """Return what stands on the terminal now."""
        now, duration_s = self._now, self._duration_s
        if now is None:
            return ""
        elapsed_s = time.monotonic() - now.since_s
        if duration_s is None:
            return Group(_head(now), Text(f"{now.doing} … {elapsed_s:.0f} s"))
        failed = bool(self._seconds and self._seconds[-1].failures)
        bar = ProgressBar(total=duration_s, completed=min(elapsed_s, duration_s), width=40)
        load = Text(f"{now.doing}: {self._load(duration_s)}", style="red" if failed else "")
        return Group(_head(now), load, bar)

    def _load(self, duration_s: float) -> str:
        assert self._now is not None
        elapsed_s = min(time.monotonic() - self._now.since_s, duration_s)
        if len(self._seconds) < 2:  # noqa: PLR2004 a rate is between two points
            return f"{elapsed_s:.0f} of {duration_s:.0f} s"
        first, last = self._seconds[0], self._seconds[-1]
        rps = (last.requests - first.requests) / (last.unix_s - first.unix_s)
        return (
            f"{elapsed_s:.0f} of {duration_s:.0f} s, {last.users} users, {rps:.1f} requests/s, "
            f"{last.requests} requests, {last.failures} failed"
        )


def _head(now: _Now) -> Table:
    remaining = show_clock(now.remaining_s - (time.monotonic() - now.began_s))
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(f"cell {now.number} of {now.count}" if now.count else f"step {now.number}", style="bold"),
        Text(now.title, style="bold cyan"),
        Text(f"about {remaining} to go" if now.count else f"at most {remaining} left", style="dim"),
    )
    return head


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Show progress on standard error, live when that is a terminal."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Progress(Console(file=sys.stderr, highlight=False, width=10_000, no_color=True))
        return
    progress = Progress(console)
    live = Live(console=console, get_renderable=progress.display, refresh_per_second=4, transient=True)
    with undisturbed():  # its thread inherits this: otherwise signals that are held back would arrive through it
        live.start()
    try:
        yield progress
    finally:
        live.stop()


def show_clock(seconds: float) -> str:
    """Return a duration such as `1:05 min` or `1:00:00 h`; a negative one is none."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} h" if hours else f"{minutes}:{seconds:02} min"
