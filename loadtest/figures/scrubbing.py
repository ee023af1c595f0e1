"""Takes out of figures what belongs to the measuring machine alone: its paths, and the hosts in messages."""

import re
from typing import Any

from pydantic import BaseModel

from loadtest.figures.figures import Reason

# The beginnings of paths on usual systems; paths of a URL begin otherwise.
_LOCAL_PATH = re.compile(
    r"(?<![\w./:])(?:/(?:etc|home|mnt|opt|private|root|run|srv|tmp|usr|var|Users|Volumes)|[A-Za-z]:)[/\\][^\s'\",;:)]+"
)
_HOST = re.compile(r"(?<=://)(?!127\.0\.0\.1\b|localhost\b)[^/\s:,;)]+")


def without_host(message: str) -> str:
    """Return a message without the hosts of its addresses; those of this machine may stay."""
    return _HOST.sub("…", message)


def without_local_paths(value: Any) -> Any:
    """Return figures, or parts of them, with each path of the measuring machine cut down to its last part."""
    if isinstance(value, Reason):
        return Reason(_shorten(value), value.code)
    if isinstance(value, str):
        return _shorten(value)
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: without_local_paths(part) for name, part in value})
    if isinstance(value, dict):
        return {key: without_local_paths(part) for key, part in value.items()}
    return [without_local_paths(part) for part in value] if isinstance(value, list) else value


def _shorten(text: str) -> str:
    return _LOCAL_PATH.sub(lambda found: "…/" + re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)
