"""Whether weights and labels can be had, asked before a start: without TensorFlow, and at once.

Called before Ray starts, and by the builder of the application.
"""

import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from serve_app.classifier.calibration import MOST_PICTURES, find_calibration_fault
from serve_app.classifier.choice import MOST_OF_A_FOLDER
from serve_app.classifier.engines.download import find_fault, is_fetched
from serve_app.classifier.engines.model_file import check_model_file
from serve_app.classifier.engines.weights_file import count_classes, has_second_scaling
from serve_app.classifier.family_weights import FAMILY_WEIGHTS
from serve_app.classifier.labels import IMAGENET_CLASSES, no_imagenet_labels, read_labels
from serve_app.classifier.model_cache import Manifest, checked_sha256, find_engine_fault, find_prepared
from serve_app.classifier.picture_folder import FindPictures, find_pictures, no_pictures
from serve_app.classifier.settings import SOURCE_WORDS, ClassifierSettings, is_url, shown
from serve_app.errors import Fault, SetupError
from serve_app.places import is_file

ANSWER_S = 4.0
"""Longest wait for the answer of a server that has weights or labels."""
LABELS_URL = "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json"
"""Where Keras fetches the labels from; a test compares with Keras."""
_WAYS = {
    "weights": "give a copy of them (`weights: /path/to/file.h5`), or write `weights: auto`, which starts with random "
    "weights instead, whose predictions mean nothing",
    "labels": f"give a file of {IMAGENET_CLASSES} names (`labels: /path/to/file.json`), or write `labels: auto`, which "
    "starts with placeholders instead",
}


def find_source_faults(settings: ClassifierSettings, *, gpu_share: float | None = None) -> Iterator[Fault]:
    """Yield why the model of an engine with so much of a GPU, or any, cannot be prepared, by the keys of `settings`.

    Waits ANSWER_S at most for each source.
    """
    find = cache(find_pictures)
    if settings.agreement_pictures is not None:
        folder = Path(settings.agreement_pictures)
        if not find(folder, MOST_OF_A_FOLDER):
            yield no_pictures("agreement_pictures", folder)
    if settings.calibration is not None:
        folder = Path(settings.calibration)
        if fault := find_calibration_fault(folder, find(folder, MOST_PICTURES)):
            yield fault
    if fault := find_engine_fault(settings):
        yield fault
    elif manifest := _find_prepared(settings, gpu_share, find):
        # `auto` has passed over what it may not serve.
        if not settings.is_auto and (fault := manifest.find_admission_fault(settings.min_agreement)):
            yield fault
        return
    weights = list(_weights_faults(settings))
    yield from weights
    yield from _labels_faults(settings, None if weights else _count_classes(settings), has_weights=not weights)


def _find_prepared(settings: ClassifierSettings, gpu_share: float | None, find: FindPictures) -> Manifest | None:
    try:
        return find_prepared(settings, gpu_share=gpu_share, find=find)
    except SetupError:  # a file that cannot be read, or has another checksum, which is told in its turn
        return None


def _weights_faults(settings: ClassifierSettings) -> Iterator[Fault]:
    if settings.is_model_file:
        yield from _file_or_url_faults("model", settings.model, settings.model_sha256, check_model_file)
    elif settings.weights == "imagenet":
        known = FAMILY_WEIGHTS[settings.model]
        yield from _imagenet_faults("weights", known.url, known.file_name)
    elif settings.weights not in SOURCE_WORDS["weights"]:
        check = partial(_check_weights, model=settings.model)
        yield from _file_or_url_faults("weights", settings.weights, settings.weights_sha256, check)


def _labels_faults(settings: ClassifierSettings, classes: int | None, *, has_weights: bool) -> Iterator[Fault]:
    if settings.labels not in SOURCE_WORDS["labels"]:
        check = partial(read_labels, classes=classes)
        yield from _file_or_url_faults("labels", settings.labels, settings.labels_sha256, check)
    elif settings.labels == "imagenet" and classes not in (None, IMAGENET_CLASSES):
        yield no_imagenet_labels(classes)
    elif "imagenet" in (settings.labels, settings.weights) and has_weights:
        asked_by = "labels" if settings.labels == "imagenet" else "weights"
        yield from _imagenet_faults("labels", LABELS_URL, LABELS_URL.rpartition("/")[2], asked_by)


def _imagenet_faults(field: str, url: str, file_name: str, asked_by: str | None = None) -> Iterator[Fault]:
    keras_home = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser())
    if not is_file(keras_home / "models" / file_name) and (reason := find_fault(url, ANSWER_S)):
        what = f"the ImageNet {field} cannot be fetched from {shown(url)}: {reason}"
        yield Fault(field, what, _WAYS[asked_by or field])


def _file_or_url_faults(
    field: str, source: str, sha256: str | None, check: Callable[[Path], object]
) -> Iterator[Fault]:
    if is_url(source):
        assert sha256 is not None  # ClassifierSettings asks for one with every URL
        if not is_fetched(source, sha256) and (reason := find_fault(source, ANSWER_S)):
            yield Fault(
                field, f"{shown(source)} cannot be fetched: {reason}", "correct the URL, or name a file on this machine"
            )
        return
    try:
        checked_sha256(Path(source), sha256, field)
        check(Path(source))
    except SetupError as exc:
        yield exc.fault


def _check_weights(path: Path, model: str) -> None:
    try:
        count_classes(path, model)
        has_second_scaling(path, model)
    except ValueError as exc:
        what = f"{path} cannot be used: {exc}"
        raise SetupError(Fault("weights", what, f"name a file of Keras weights of {model}")) from exc


def _count_classes(settings: ClassifierSettings) -> int | None:
    """Return how many classes the network has, where that is known without building it; `settings` have no fault."""
    if settings.is_model_file or is_url(settings.weights):
        return None
    if settings.weights in SOURCE_WORDS["weights"]:
        return IMAGENET_CLASSES
    return count_classes(Path(settings.weights), settings.model)
