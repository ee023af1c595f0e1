"""Whether weights and labels can be had, asked before a start: without TensorFlow, and at once.

Called before Ray starts, and by the builder of the application.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from serve_app.classifier.engines.download import find_fault, is_fetched
from serve_app.classifier.engines.model_file import check_model_file
from serve_app.classifier.engines.weights_file import ResNetWeights, look_into, read_shapes
from serve_app.classifier.labels import IMAGENET_CLASSES, read_labels
from serve_app.classifier.model_cache import checked_sha256, find_engine_fault, is_prepared
from serve_app.classifier.settings import SOURCE_WORDS, ClassifierSettings, is_url, shown
from serve_app.errors import Fault, SetupError

ANSWER_S = 4.0
"""Longest wait for each answer of a server that has weights or labels."""
IMAGENET_URLS = {
    "weights": "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet50_weights_tf_dim_ordering_tf_kernels.h5",
    "labels": "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",
}
"""Where Keras fetches them from; a test compares with Keras."""
_WAYS = {
    "weights": "give a copy of them (`weights: /path/to/file.h5`), or write `weights: auto`, which goes on with random "
    "weights where these cannot be had: predictions then mean nothing",
    "labels": f"give a file of {IMAGENET_CLASSES} names (`labels: /path/to/file.json`), or write `labels: auto`, which "
    "goes on with placeholders where these cannot be had",
}


def find_source_faults(settings: ClassifierSettings) -> Iterator[Fault]:
    """Yield why the model cannot be prepared, by the keys of `settings`. Waits 2 × ANSWER_S at most for each source."""
    if fault := find_engine_fault(settings.engine):
        yield fault
    elif _is_prepared(settings):
        return
    weights = list(_weights_faults(settings))
    yield from weights
    if settings.labels not in SOURCE_WORDS:
        check = partial(read_labels, classes=_count_classes(settings))
        yield from _file_or_url_faults("labels", settings.labels, settings.labels_sha256, check)
    elif "imagenet" in (settings.labels, settings.weights) and not weights:
        yield from _imagenet_faults("labels", "labels" if settings.labels == "imagenet" else "weights")


def _is_prepared(settings: ClassifierSettings) -> bool:
    try:
        return is_prepared(settings)
    except SetupError:  # a file that cannot be read, or has another checksum, which is told in its turn
        return False


def _weights_faults(settings: ClassifierSettings) -> Iterator[Fault]:
    if settings.is_model_file:
        yield from _file_or_url_faults("model", settings.model, settings.model_sha256, check_model_file)
    elif settings.weights == "imagenet":
        yield from _imagenet_faults("weights") if settings.model == "resnet50" else ()
    elif settings.weights not in SOURCE_WORDS:
        check = partial(_check_weights, model=settings.model)
        yield from _file_or_url_faults("weights", settings.weights, settings.weights_sha256, check)


def _imagenet_faults(field: str, asked_by: str | None = None) -> Iterator[Fault]:
    url = IMAGENET_URLS[field]
    keras_home = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser())
    if not (keras_home / "models" / url.rpartition("/")[2]).is_file() and (reason := find_fault(url, ANSWER_S)):
        yield Fault(
            field, f"the ImageNet {field} cannot be fetched from {shown(url)}: {reason}", _WAYS[asked_by or field]
        )


def _file_or_url_faults(
    field: str, source: str, sha256: str | None, check: Callable[[Path], object]
) -> Iterator[Fault]:
    if is_url(source):
        assert sha256 is not None  # ClassifierSettings asks for one with every URL
        if not is_fetched(source, sha256) and (reason := find_fault(source, ANSWER_S)):
            yield Fault(field, f"{shown(source)} cannot be fetched: {reason}", "correct the URL, or name a file")
        return
    try:
        checked_sha256(Path(source), sha256, field)
        check(Path(source))
    except SetupError as exc:
        yield exc.fault


def _check_weights(path: Path, model: str) -> None:
    try:
        found = look_into(path) if model == "resnet50" else read_shapes(path)
    except ValueError as exc:
        found = str(exc)
    if isinstance(found, str):
        raise SetupError(Fault("weights", f"{path} cannot be used: {found}", f"name Keras weights of a {model}"))


def _count_classes(settings: ClassifierSettings) -> int | None:
    """Return how many classes the network has, where that is known without building it."""
    if settings.is_model_file or is_url(settings.weights):
        return None
    if settings.weights in SOURCE_WORDS:
        return IMAGENET_CLASSES
    found = look_into(Path(settings.weights)) if settings.model == "resnet50" else None
    return found.classes if isinstance(found, ResNetWeights) else None
