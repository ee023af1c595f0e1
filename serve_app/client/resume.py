"""Goes on with an output of JSON lines that an earlier run left behind."""

import json
from pathlib import Path

from serve_app.client.errors import UsageError


def keep_answered(output: Path) -> set[str]:
    """Return the files that `output` has predictions for, after taking everything else out of it.

    Errors go, since their files are tried again, and so does a line that was cut off when the earlier run ended.
    Raises UsageError when it is not such an output.
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
        raise UsageError(f"--output {output}: cannot be gone on with: {exc.strerror}") from exc
    finally:
        kept.unlink(missing_ok=True)
    return answered


def _answered_file(line: bytes, where: str) -> str | None:
    if not line.endswith(b"\n"):
        return None
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not (isinstance(answer, dict) and isinstance(answer.get("file"), str) and "prediction" in answer):
        raise UsageError(f"{where}: is not what this client writes as jsonl; give another --output")
    return None if answer["prediction"] is None else answer["file"]
