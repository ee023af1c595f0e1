"""Tables on the terminal. Called by the commands with figures that are made already."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_FILE = 160


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand to the right."""

    heading: str
    is_number: bool = True


def columns_of(headings: Iterable[str], words: int = 0) -> list[Column]:
    """Return columns of numbers, but for the first `words`."""
    return [Column(heading, is_number=number >= words) for number, heading in enumerate(headings)]


def make_table(
    columns: Sequence[Column],
    rows: Iterable[Iterable[str]],
    styles: Iterable[str] = repeat(""),
    title: str | None = None,
    **looks: Any,
) -> Table:
    """Return a table; `styles` has the colour of each row, as rich names it, or nothing; `looks` is what rich takes."""
    table = Table(title=title, title_justify="left", **looks)
    for column in columns:
        table.add_column(column.heading, justify="right" if column.is_number else "left", overflow="fold")
    for row, style in zip(rows, styles, strict=False):
        table.add_row(*map(Text, row), style=style)
    return table


def print_table(
    title: str, columns: Sequence[Column], rows: Iterable[Iterable[str]], styles: Iterable[str] = repeat("")
) -> None:
    """Print a table to standard output, as wide as the terminal, or wide enough for a file."""
    open_console(_WIDTH_OF_A_FILE).print(make_table(columns, rows, styles, title, title_style="bold"))


def open_console(least_width: int = 0) -> Console:
    """Return standard output; where it is no terminal, at least so wide."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, least_width)
    return console
