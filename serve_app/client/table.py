"""Writes outcomes as a table for people."""

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve_app.client.outcome import Outcome
from serve_app.client.plain_text import printable

_OTHERS = 2
_UNBOUNDED = 10_000


def print_rows(file: TextIO, rows: Sequence[Sequence[str]], headings: Sequence[str] = ()) -> None:
    """Print one or more `rows` as a table; a heading that begins with `>` is that of a column of numbers."""
    table = Table(box=None, header_style="dim", pad_edge=False, show_header=bool(headings))
    for heading in headings or [""] * len(rows[0]):
        table.add_column(heading.removeprefix(">"), justify="right" if heading[:1] == ">" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _open(file).print(table)


class TableAnswers:
    """Collects the rows and prints them at the end, since a column is as wide as its widest cell."""

    def __init__(self, file: TextIO) -> None:
        self._console = _open(file)
        self._table = Table(box=None, header_style="dim", pad_edge=False)
        self._table.add_column("file", overflow="fold")
        self._table.add_column("prediction", overflow="fold")
        self._table.add_column("score", justify="right", no_wrap=True)
        self._table.add_column("alternatives", overflow="fold")

    def write(self, outcome: Outcome) -> None:
        """Add one row."""
        file = Text(printable(outcome.file))
        if outcome.prediction is None:
            code, detail = (printable(str((outcome.error or {}).get(key))) for key in ("code", "detail"))
            self._table.add_row(file, Text(code, style="bold red"), "", Text(detail, style="red"))
            return
        classes = outcome.prediction["predictions"]
        self._table.add_row(
            file,
            Text(printable(outcome.prediction["prediction"]), style="bold"),
            f"{outcome.prediction['score']:.3f}",
            Text(", ".join(_class(other) for other in classes[1 : 1 + _OTHERS]), style="dim"),
        )

    def close(self) -> None:
        """Print all rows, if any."""
        if self._table.row_count:
            self._console.print(self._table)


def _open(file: TextIO) -> Console:
    return Console(file=file, highlight=False, width=None if file.isatty() else _UNBOUNDED)


def _class(found: Mapping[str, Any]) -> str:
    return f"{printable(str(found.get('label')))} {found.get('score', 0):.3f}"
