"""The names of the network's classes, read from a file. Called when a model is prepared, and before a start."""

import json
from pathlib import Path

from serve_app.errors import Fault, SetupError

IMAGENET_CLASSES = 1000


def read_labels(path: Path, classes: int | None, name: str | None = None) -> list[str]:
    """Return the labels of a file: Keras' index ({"0": ["n01440764", "tench"], …}), a JSON list, or one a line.

    Raises SetupError when it has none of these forms, or not as many labels as `classes`, where that is known. `name`
    is what it calls the file, its path by default.
    """
    name = name or str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else text.rstrip().split("\n")
        labels = [_read_name(entry) for entry in _entries(found)]
    except OSError as exc:
        raise _refusal(f"{name} cannot be read: {exc.strerror or exc}") from exc
    except RecursionError as exc:
        raise _refusal(f"{name} is JSON that is nested too deeply for labels") from exc
    except (ValueError, KeyError, TypeError, IndexError) as exc:
        raise _refusal(f"{name} is neither Keras' JSON index, a JSON list nor lines of text: {exc}") from exc
    broken = [index for index, label in enumerate(labels) if not _is_text(label)]
    if broken:
        raise _refusal(f"{name}: the label of class {broken[0]} has half of a character (\\ud800 to \\udfff alone)")
    if len(labels) != (classes or len(labels)):
        raise _refusal(f"{name} has {len(labels)} labels; this network has {classes} classes")
    return labels


def _entries(found: object) -> list[object]:
    if isinstance(found, dict):
        return [found[str(index)] for index in range(len(found))]
    if not isinstance(found, list):
        raise TypeError(f"it holds one {type(found).__name__}")
    return found


def _read_name(entry: object) -> str:
    """Return the name in an entry: itself, or what follows the synset."""
    name = entry[1] if isinstance(entry, list) and len(entry) == len(("synset", "name")) else entry
    if not isinstance(name, str):
        raise TypeError(f"{entry!r} is no name")
    return name.strip()


def _is_text(label: str) -> bool:
    try:
        label.encode()
    except UnicodeEncodeError:
        return False
    return True


def placeholder_labels(classes: int) -> list[str]:
    """Return a label for each class where no name is known."""
    return [f"class_{index:04d}" for index in range(classes)]


def no_imagenet_labels(classes: int | None) -> Fault:
    """Return why ImageNet's labels do not fit a network with so many classes."""
    return _refusal(f"imagenet has {IMAGENET_CLASSES} labels; this network has {classes} classes").fault


def _refusal(what: str) -> SetupError:
    return SetupError(Fault("labels", what, "name a file with one label for each class, or write `labels: auto`"))
