"""Makes a prepared model: Keras' ResNet50 with its weights and labels, BatchNorm folded away, saved for one engine.

Run by `model_cache` as a process of its own, `python -m serve_app.classifier.engines.prepare FOLDER <SETTINGS_JSON`,
because Keras and the conversion leave 1-2 GB behind that no replica should carry. The last line on stderr is the
reason of a failure.
"""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

from serve_app.classifier.engines.download import describe_fault, fetch
from serve_app.classifier.engines.prepared_files import INPUT, OPENVINO_MODEL, OUTPUT, SAVED_MODEL
from serve_app.classifier.images import SIDE_PIXELS
from serve_app.classifier.labels import CLASSES, placeholder_labels, read_labels
from serve_app.classifier.model_cache import (
    CANNOT_FETCH,
    CANNOT_PREPARE,
    MANIFEST,
    Manifest,
    UnavailableError,
    checked_sha256,
)
from serve_app.classifier.settings import ClassifierSettings, file_name, is_url, shown
from serve_app.errors import SetupError

T = TypeVar("T")

# Keras fetches without a time limit of its own; a network that swallows packets must not hold up a start for long.
DOWNLOAD_STALL_S = 10
# ImageNet means of blue, green and red, as in keras.applications.resnet50.preprocess_input.
MEAN_BGR = (103.939, 116.779, 123.68)


def prepare(settings: ClassifierSettings, folder: Path) -> None:
    """Write the prepared model into `folder`, which must not exist yet. Raises SetupError."""
    weights, weights_sha256, network = obtain_network(settings)  # first: without them, labels are not to blame
    labels_from, labels = obtain_labels(settings)
    folder.mkdir(parents=True)
    save = _save_for_openvino if settings.engine == "openvino" else _save_for_tensorflow
    save(served_function(fold_batch_norm(network)), folder)
    manifest = Manifest(
        name="resnet50", weights=weights, weights_sha256=weights_sha256, labels_from=labels_from, labels=labels
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def preprocess(pictures: tf.Tensor) -> tf.Tensor:
    """Return uint8 RGB pictures, shape (n, 224, 224, 3), as the network wants them: float32 BGR minus the mean."""
    return tf.cast(pictures, tf.float32)[..., ::-1] - tf.constant(MEAN_BGR)


def obtain_network(settings: ClassifierSettings) -> tuple[str, str | None, keras.Model]:
    """Return what the weights are called in answers, their file's SHA-256 if they have one, and the network."""
    if settings.weights == "random":
        keras.utils.set_random_seed(settings.seed)
        return "random", None, keras.applications.ResNet50(weights=None)
    if settings.weights == "imagenet":
        return "imagenet", None, _fetch("weights", lambda: keras.applications.ResNet50(weights="imagenet"))
    path = _obtain_file("weights", settings.weights, settings.weights_sha256)
    sha256 = checked_sha256(path, settings.weights_sha256, "weights")
    try:
        return file_name(settings.weights), sha256, keras.applications.ResNet50(weights=str(path))
    except (OSError, ValueError, KeyError) as exc:
        reason = str(exc).strip().splitlines()[0]
        raise SetupError(
            f"weights: {shown(settings.weights)} is not a readable Keras weights file of a ResNet50 with "
            f"{CLASSES} classes (truncated, or of another network?): {reason}"
        ) from exc


def obtain_labels(settings: ClassifierSettings) -> tuple[str, list[str]]:
    """Return where the labels are from ("imagenet", "placeholder" or a file's name) and one for each class."""
    if settings.labels == "auto" and settings.weights == "random":
        return "placeholder", placeholder_labels()
    if settings.labels in ("auto", "imagenet"):
        try:
            return "imagenet", _fetch("labels", _imagenet_labels)
        except UnavailableError:
            if settings.labels == "imagenet" or settings.weights == "imagenet":
                raise
            return "placeholder", placeholder_labels()
    path = _obtain_file("labels", settings.labels, settings.labels_sha256)
    checked_sha256(path, settings.labels_sha256, "labels")
    return file_name(settings.labels), read_labels(path)


def fold_batch_norm(network: keras.Model) -> keras.Model:
    """Return a network with the same outputs whose convolutions have done the work of the BatchNorm after them.

    With gamma g, beta b, mean m, variance v: kernel' = kernel·s and bias' = (bias − m)·s + b, s = g/√(v + epsilon).
    """
    folded = keras.models.clone_model(network, clone_function=_without_batch_norm)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            norm = network.get_layer(layer.name.removesuffix("_conv") + "_bn")
            gamma, beta, mean, variance = norm.get_weights()
            scale = gamma / np.sqrt(variance + norm.epsilon)
            folded.get_layer(layer.name).set_weights([kernel * scale, (bias - mean) * scale + beta])
        elif isinstance(layer, keras.layers.Dense):
            folded.get_layer(layer.name).set_weights(layer.get_weights())
    return folded


def served_function(network: keras.Model) -> tf.Module:
    """Return the network from uint8 RGB pictures to class probabilities as a module with one signature."""

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec([None, SIDE_PIXELS, SIDE_PIXELS, 3], tf.uint8, name=INPUT)]
    )
    def serve(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: network(preprocess(pictures), training=False)}

    module = tf.Module()
    module.network = network  # a SavedModel keeps the variables that it can reach
    module.serve = serve
    return module


class _PassThrough(keras.layers.Layer):  # type: ignore[misc]
    """Stands where a BatchNorm was."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:  # noqa: ARG002
        return inputs


def _without_batch_norm(layer: keras.layers.Layer) -> keras.layers.Layer:
    if isinstance(layer, keras.layers.BatchNormalization):
        return _PassThrough(name=layer.name)
    return layer.__class__.from_config(layer.get_config())


def _save_for_tensorflow(module: tf.Module, folder: Path) -> None:
    tf.saved_model.save(module, str(folder / SAVED_MODEL), signatures=module.serve.get_concrete_function())


def _save_for_openvino(module: tf.Module, folder: Path) -> None:
    import openvino
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(module.serve.get_concrete_function())
    graph = folder / "frozen.pb"
    graph.write_bytes(frozen.graph.as_graph_def().SerializeToString())
    openvino.save_model(openvino.Core().read_model(graph), folder / OPENVINO_MODEL, compress_to_fp16=False)
    graph.unlink()


def _fetch(field: str, get: Callable[[], T]) -> T:
    try:
        return get()
    except Exception as exc:  # Keras raises a bare Exception when it cannot fetch
        raise UnavailableError(f"{field}: the ImageNet {field} cannot be had: {describe_fault(exc)}") from exc


def _obtain_file(field: str, source: str, sha256: str | None) -> Path:
    if not is_url(source):
        return Path(source)
    assert sha256 is not None  # ClassifierSettings asks for one with every URL
    return fetch(field, source, sha256)


def _imagenet_labels() -> list[str]:
    # Keras keeps the names to itself, but tells the best one for any row of scores.
    best = keras.applications.imagenet_utils.decode_predictions(np.eye(CLASSES, dtype=np.float32), top=1)
    return [str(row[0][1]) for row in best]


def main() -> int:
    """Prepare as stdin says; exit CANNOT_PREPARE or CANNOT_FETCH, with one line on stderr, when that fails."""
    socket.setdefaulttimeout(DOWNLOAD_STALL_S)
    try:
        prepare(ClassifierSettings.model_validate_json(sys.stdin.read()), Path(sys.argv[1]))
    except SetupError as exc:
        print(" ".join(str(exc).split()), file=sys.stderr)
        return CANNOT_FETCH if isinstance(exc, UnavailableError) else CANNOT_PREPARE
    return 0


if __name__ == "__main__":
    sys.exit(main())
