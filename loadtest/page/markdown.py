"""Markdown that every command of the kit writes in the same way: tables, and text that stays what it is in them."""

import re
from collections.abc import Collection, Iterable, Sequence

from loadtest.figures.figures import NO_FIGURE

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_NUMBER = re.compile(r"[−+±-]?[\d.,]+(?: (?:%|ms|s|[KMGT]iB))?(?: \(whole run\))?")


def escape(text: str) -> str:
    """Return text on one line, so that it stays in its list item, and without HTML tags that take effect."""
    return _TAG.sub(r"\\<", " ".join(text.split()))


def make_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return a table; the columns with the numbers `right` are aligned to the right."""
    lines = [_escape_cells(line) for line in (header, *rows)]
    return _join(lines, ["---:" if number in right else "---" for number in range(len(header))])


def make_aligned_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that is aligned in the source too, numbers to the right; nothing when it has no rows."""
    head, *body = (_escape_cells(line) for line in (header, *rows))
    if not body:
        return ""
    columns = [*zip(head, *body, strict=True)]
    widths = [max(3, *map(len, column)) for column in columns]
    right = [_are_numbers(column[1:]) for column in columns]
    lines = [
        [
            cell.rjust(width) if of_numbers else cell.ljust(width)
            for cell, width, of_numbers in zip(line, widths, right, strict=True)
        ]
        for line in (head, *body)
    ]
    dashes = zip(widths, right, strict=True)
    return _join(lines, ["-" * (width - 1) + ":" if of_numbers else "-" * width for width, of_numbers in dashes])


def _escape_cells(line: Sequence[str]) -> list[str]:
    return [escape(cell).replace("|", "\\|") for cell in line]


def _are_numbers(cells: Sequence[str]) -> bool:
    given = [cell for cell in cells if cell != NO_FIGURE]
    return bool(given) and all(_NUMBER.fullmatch(cell) for cell in given)


def _join(lines: Sequence[Sequence[str]], rule: Sequence[str]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
