"""Writes outcomes one by one as CSV, JSON (one list) or JSON lines. The table is in `table`."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

from serve_app.client.errors import RunStopped, UsageError
from serve_app.client.outcome import Outcome
from serve_app.client.resume import drop_unanswered

FORMATS = ("table", "csv", "json", "jsonl")
CSV_HEADER = ("file", "prediction", "score", "cached", "error_code", "error_detail", "predictions")

# First characters that make a cell a formula in a spreadsheet, as listed by OWASP; the last four are full-width forms.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


class Answers(Protocol):
    """Writes outcomes in order."""

    def write(self, outcome: Outcome) -> None:
        """Write one."""

    def close(self) -> None:
        """Write the end of the output."""


class CsvAnswers:
    """One row per item; the last column is JSON, so that the header does not depend on --top-k."""

    def __init__(self, file: TextIO) -> None:
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow(CSV_HEADER)

    def write(self, outcome: Outcome) -> None:
        """Write one row."""
        prediction, error = outcome.prediction or {}, outcome.error or {}
        cached = prediction.get("cached")
        self._rows.writerow(
            (
                _cell(outcome.file),
                _cell(prediction.get("prediction")),
                prediction.get("score", ""),
                "" if cached is None else str(cached).lower(),
                _cell(error.get("code")),
                _cell(error.get("detail")),
                _compact(prediction["predictions"]) if prediction else "",
            )
        )

    def close(self) -> None:
        """Write nothing: the output is complete."""


class JsonLinesAnswers:
    """One JSON object per line: {file, prediction, error}."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, outcome: Outcome) -> None:
        """Write one line."""
        self._file.write(f"{_compact(outcome.as_json())}\n")

    def close(self) -> None:
        """Write nothing: the output is complete."""


class JsonAnswers:
    """One list of the same objects, complete even if the run ends early."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._before = "[\n"

    def write(self, outcome: Outcome) -> None:
        """Write one element."""
        self._file.write(f"{self._before}{_compact(outcome.as_json())}")
        self._before = ",\n"

    def close(self) -> None:
        """End the list."""
        self._file.write("[]\n" if self._before == "[\n" else "\n]\n")


@contextmanager
def open_answers(kind: str, output: Path | None, *, resume: bool) -> Iterator[Answers]:
    """Open `output`, or standard output, for outcomes in a format; with `resume`, behind those that have a prediction.

    Raises UsageError if it cannot be opened, RunStopped if it cannot be written; the block raises no other OSError.
    """
    try:
        with _open(output, resume=resume) as file:
            answers = _answers(kind, file)
            try:
                yield answers
            finally:
                answers.close()
    except BrokenPipeError:
        raise
    except OSError as exc:
        where = f"--output {output}" if output else "standard output"
        raise RunStopped(f"{where}: cannot be written: {exc.strerror}") from exc


@contextmanager
def _open(output: Path | None, *, resume: bool) -> Iterator[TextIO]:
    if output is None:
        yield standard_output()
        return
    if resume and output.exists():
        drop_unanswered(output)
    try:
        # Line-buffered: completed results are in the file, however the run ends.
        file = output.open("a" if resume else "x", 1, "utf-8", "backslashreplace", "\n")
    except OSError as exc:
        raise UsageError(f"--output {output}: cannot be written: {exc.strerror}") from exc
    with file:
        yield file


def standard_output() -> TextIO:
    """Return standard output as UTF-8 in every locale; half of a surrogate pair is written as its JSON escape."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True)
    return sys.stdout


def _answers(kind: str, file: TextIO) -> Answers:
    if kind == "table":
        from serve_app.client.table import TableAnswers

        return TableAnswers(file)
    classes: dict[str, Callable[[TextIO], Answers]] = {
        "csv": CsvAnswers,
        "json": JsonAnswers,
        "jsonl": JsonLinesAnswers,
    }
    return classes[kind](file)


def _cell(text: Any) -> str:
    # A file name, a label or a message may come from someone else; the apostrophe makes it text.
    text = "" if text is None else str(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
