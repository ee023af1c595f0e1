"""Tables on the terminal. Called by the command line with figures that are made already."""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_OF_A_FILE = 160


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand to the right."""

    heading: str
    is_number: bool = True


def print_table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Sequence[str]) -> None:
    """Print a table to standard output; `styles` has the colour of each row, as rich names it, or nothing."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column.heading, justify="right" if column.is_number else "left", overflow="fold")
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*[Text(cell) for cell in row], style=style)
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else _WIDTH_OF_A_FILE
    Console(highlight=False, width=width).print(table)
