"""Prepares the JSON lines of an earlier run for --resume."""

import json
from collections.abc import Iterator
from pathlib import Path

from serve_app.client.errors import UsageError
from serve_app.client.outcome import Outcome


def keep_answered(output: Path) -> set[str]:
    """Remove every line without a prediction from `output` and return the files of the others.

    Files with an error are classified again, and so is the file of an incomplete last line. Raises UsageError if
    `output` cannot be read and written, or contains other lines than this client's.
    """
    answered: set[str] = set()
    kept = output.with_name(f".{output.name}.kept")
    try:
        with output.open("rb") as lines, kept.open("wb") as keeping:
            for number, line in enumerate(lines, start=1):
                file = _answered_file(line, f"--output {output}, line {number}")
                if file is not None:
                    answered.add(file)
                    keeping.write(line)
        kept.replace(output)
    except OSError as exc:
        raise UsageError(f"--output {output}: cannot be resumed: {exc.strerror}") from exc
    finally:
        kept.unlink(missing_ok=True)
    return answered


def read_kept(output: Path) -> Iterator[Outcome]:
    """Yield the outcomes in `output`, after `keep_answered` has left those with a prediction. Raises UsageError."""
    try:
        with output.open("rb") as lines:
            for line in lines:
                found = json.loads(line)
                yield Outcome(found["file"], found["prediction"], None, found.get("against"))
    except OSError as exc:
        raise UsageError(f"--output {output}: cannot be resumed: {exc.strerror}") from exc


def _answered_file(line: bytes, where: str) -> str | None:
    if not line.endswith(b"\n"):
        return None
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not (isinstance(answer, dict) and isinstance(answer.get("file"), str) and "prediction" in answer):
        raise UsageError(f"{where}: was not written by this client as jsonl; choose another --output")
    return None if answer["prediction"] is None else answer["file"]
