"""The names of the classes: ImageNet's, those of a file, or placeholders. Called by `prepare`."""

from dataclasses import dataclass

from serve_app.classifier.engines.download import fetch_imagenet
from serve_app.classifier.engines.source_file import copied
from serve_app.classifier.labels import IMAGENET_CLASSES, no_imagenet_labels, placeholder_labels, read_labels
from serve_app.classifier.model_cache import UnavailableError
from serve_app.classifier.settings import SOURCE_WORDS, ClassifierSettings, file_name, shown
from serve_app.errors import SetupError


@dataclass(frozen=True)
class Labels:
    """One name for each class, and where they are from: imagenet, placeholder, or a file's name."""

    source: str
    names: list[str]
    are_missing: bool = False
    """Whether ImageNet's belong here and could not be fetched."""


def obtain_labels(settings: ClassifierSettings, classes: int) -> Labels:
    """Return the labels that `settings` ask for. Raises SetupError if there are not as many as `classes`."""
    if settings.labels not in SOURCE_WORDS["labels"]:
        with copied("labels", settings.labels, settings.labels_sha256) as file:
            return Labels(file_name(settings.labels), read_labels(file.path, classes, shown(settings.labels)))
    is_imagenet = classes == IMAGENET_CLASSES and not settings.is_model_file
    if settings.labels == "auto" and (settings.weights == "random" or not is_imagenet):
        return Labels("placeholder", placeholder_labels(classes))
    if classes != IMAGENET_CLASSES:
        raise SetupError(no_imagenet_labels(classes))
    try:
        return Labels("imagenet", fetch_imagenet("labels", _imagenet_labels))
    except UnavailableError:
        if settings.labels == "imagenet" or settings.weights == "imagenet":
            raise
        return Labels("placeholder", placeholder_labels(classes), are_missing=True)


def _imagenet_labels() -> list[str]:
    import keras
    import numpy as np

    # Keras keeps the names to itself, but tells the best one for any row of scores.
    rows = np.eye(IMAGENET_CLASSES, dtype=np.float32)
    return [str(row[0][1]) for row in keras.applications.imagenet_utils.decode_predictions(rows, top=1)]
