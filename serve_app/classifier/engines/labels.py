"""The names of the classes: ImageNet's, those of a file, or placeholders. Called by `prepare`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_app.classifier.engines.sources import fetch_imagenet, obtain_file
from serve_app.classifier.model_cache import UnavailableError, checked_sha256
from serve_app.classifier.settings import ClassifierSettings, file_name
from serve_app.errors import SetupError

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Labels:
    """One name for each class, and where they are from: imagenet, placeholder, or a file's name."""

    source: str
    names: list[str]
    are_missing: bool = False
    """Whether ImageNet's belong here and could not be fetched."""


def obtain_labels(settings: ClassifierSettings, classes: int) -> Labels:
    """Return the labels that `settings` ask for. Raises SetupError if there are not as many as `classes`."""
    if settings.labels not in ("auto", "imagenet"):
        path = obtain_file("labels", settings.labels, settings.labels_sha256)
        checked_sha256(path, settings.labels_sha256, "labels")
        return Labels(file_name(settings.labels), read_labels(path, classes))
    is_imagenet = classes == IMAGENET_CLASSES and not settings.is_model_file
    if settings.labels == "auto" and (settings.weights == "random" or not is_imagenet):
        return Labels("placeholder", _placeholders(classes))
    if classes != IMAGENET_CLASSES:
        raise SetupError(
            f"labels: imagenet names {IMAGENET_CLASSES} classes, and this network has {classes}; give a file of names"
        )
    try:
        return Labels("imagenet", fetch_imagenet("labels", _imagenet_labels))
    except UnavailableError:
        if settings.labels == "imagenet" or settings.weights == "imagenet":
            raise
        return Labels("placeholder", _placeholders(classes), are_missing=True)


def read_labels(path: Path, classes: int) -> list[str]:
    """Return the labels of a file: Keras' index ({"0": ["n01440764", "tench"], …}), a JSON list, or one a line.

    Raises SetupError if it has another form or not as many as `classes`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
        names = [_name_of(found, index) for index in range(len(found))]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as exc:
        raise SetupError(f"labels: {path} is neither Keras' JSON index, a JSON list nor lines of text: {exc}") from exc
    if len(names) != classes:
        raise SetupError(f"labels: {path} has {len(names)} labels; this network has {classes} classes")
    return names


def _name_of(found: dict[str, Sequence[str]] | list[str], index: int) -> str:
    return str(found[str(index)][1]) if isinstance(found, dict) else str(found[index])


def _imagenet_labels() -> list[str]:
    import keras
    import numpy as np

    # Keras keeps the names to itself, but tells the best one for any row of scores.
    rows = np.eye(IMAGENET_CLASSES, dtype=np.float32)
    return [str(row[0][1]) for row in keras.applications.imagenet_utils.decode_predictions(rows, top=1)]


def _placeholders(classes: int) -> list[str]:
    return [f"class_{index:04d}" for index in range(classes)]
