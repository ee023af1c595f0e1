"""Reads and prepares the JSON lines of an earlier run for --resume."""

import json
from collections.abc import Iterator
from pathlib import Path

from serve_app.client.errors import UsageError
from serve_app.client.outcome import Outcome, is_prediction


def read_answered(output: Path) -> Iterator[Outcome]:
    """Yield the outcomes in `output` that have a prediction, and leave the file as it is.

    The others, and an incomplete last line, are to be classified again. Raises UsageError if `output` cannot be read,
    or contains other lines than this client's.
    """
    try:
        with output.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if (outcome := _answered(line, f"--output {output}, line {number}")) is not None:
                    yield outcome
    except OSError as exc:
        raise UsageError(f"--output {output}: cannot be resumed: {exc.strerror}") from exc


def drop_unanswered(output: Path) -> None:
    """Remove every line without a prediction from `output`. Raises UsageError if it cannot be read and written."""
    kept = output.with_name(f".{output.name}.kept")
    try:
        with output.open("rb") as lines, kept.open("wb") as keeping:
            for number, line in enumerate(lines, start=1):
                if _answered(line, f"--output {output}, line {number}") is not None:
                    keeping.write(line)
        kept.replace(output)
    except OSError as exc:
        raise UsageError(f"--output {output}: cannot be resumed: {exc.strerror}") from exc
    finally:
        kept.unlink(missing_ok=True)


def _answered(line: bytes, where: str) -> Outcome | None:
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("file"), str) and "prediction" in found:
        if found["prediction"] is None:
            return None
        outcome = Outcome(found["file"], found["prediction"], None, found.get("against"), found.get("fingerprints", []))
        if _is_of_client(outcome):
            return outcome
    raise UsageError(f"{where}: was not written by this client as jsonl; choose another --output")


def _is_of_client(outcome: Outcome) -> bool:
    answers = [answer for answer in (outcome.prediction, outcome.against) if answer is not None]
    names = outcome.fingerprints
    return (
        all(map(is_prediction, answers))
        and isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and len(names) in (0, len(answers))
    )
