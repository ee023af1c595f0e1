"""A network of Keras, by name or from a file, as one function from pixels to probabilities. Called by `prepare`.

Keras computes with the framework that `choose_backend` named: JAX for `engine: jax`, else TensorFlow.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # replicas may compute on the same GPU
# Here several networks are computed: kernels must not keep the weights of one, as `tensorflow_engine` lets them.
os.environ["TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"] = "0"

import keras
import numpy as np

from serve_app.classifier.engines.checks import NetworkFacts, check_side, first_line, judge_outputs
from serve_app.classifier.engines.download import fetch_imagenet
from serve_app.classifier.engines.folding import compute, finalize, fold_batch_norm
from serve_app.classifier.engines.model_file import check_model_file
from serve_app.classifier.engines.prepared_files import probe
from serve_app.classifier.engines.random_weights import is_drawn_elsewhere, obtain_random_weights
from serve_app.classifier.engines.source_file import copied
from serve_app.classifier.engines.weights_file import ElsewhereError, count_classes, has_second_scaling
from serve_app.classifier.families import FAMILIES, PREPROCESSING, Preprocessing, PreprocessingName
from serve_app.classifier.family_weights import FAMILY_WEIGHTS
from serve_app.classifier.settings import ClassifierSettings, file_name, shown
from serve_app.errors import Fault, SetupError


@dataclass(frozen=True)
class _Source:
    """A network as it was built or read, and what its weights are called."""

    network: keras.Model
    weights: str
    weights_sha256: str | None
    preprocessing: PreprocessingName


@dataclass(frozen=True)
class KerasNetwork:
    """A network with known input and outputs."""

    facts: NetworkFacts
    network: keras.Model
    settings: ClassifierSettings

    def save(self, folder: Path) -> str:
        """See Network.save; BatchNormalization is folded away where that applies. Raises SetupError."""
        preprocessing = PREPROCESSING[self.facts.preprocessing]
        network = fold_batch_norm(self.network, preprocess(probe(self.facts.crop), preprocessing))
        is_logits = self.facts.outputs == "logits"

        def serve(pictures: Any, call: Callable[[Any], Any]) -> Any:
            """Return class probabilities of uint8 RGB pictures, shape (n, crop, crop, 3)."""
            scores = keras.ops.cast(call(preprocess(pictures, preprocessing)), "float32")
            return keras.ops.softmax(scores) if is_logits else scores

        if self.settings.engine == "jax":
            from serve_app.classifier.engines.jax_network import save_for_jax

            return save_for_jax(network, serve, self.facts.crop, folder, self.settings.precision)
        from serve_app.classifier.engines.tensorflow_network import save_for_openvino, save_for_tensorflow

        save = save_for_openvino if self.settings.engine == "openvino" else save_for_tensorflow
        save(network, serve, self.facts.crop, folder)
        return "cpu"


def obtain_network(settings: ClassifierSettings) -> KerasNetwork:
    """Return the network that `settings` ask for. Raises SetupError if it cannot be had, or cannot be served."""
    source = _read_model_file(settings) if settings.is_model_file else _build_family(settings)
    name = shown(settings.model)
    crop = _check_input(name, source.network, settings.crop)
    classes = _check_output(name, source.network)
    inputs = preprocess(probe(crop), PREPROCESSING[source.preprocessing])
    try:
        scores = np.asarray(compute(source.network, inputs), np.float32)
    except Exception as exc:  # a network from elsewhere may fail in any way
        raise SetupError(f"model: {name} does not compute pictures of {crop}×{crop}: {first_line(exc)}") from exc
    facts = NetworkFacts(
        name=source.weights if settings.is_model_file else settings.model,
        weights=source.weights,
        weights_sha256=source.weights_sha256,
        preprocessing=source.preprocessing,
        crop=crop,
        classes=classes,
        outputs=judge_outputs(name, scores, settings.outputs, is_sigmoid=_ends_in_sigmoid(source.network)),
    )
    return KerasNetwork(facts, source.network, settings)


def preprocess(pictures: Any, preprocessing: Preprocessing) -> Any:
    """Return uint8 RGB pictures, shape (n, side, side, 3), as the network wants them: float32, of the same shape."""
    mean, scale = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.scale))
    pixels = (keras.ops.cast(pictures, "float32") - mean) / scale
    return pixels[..., ::-1] if preprocessing.is_bgr else pixels


def _build_family(settings: ClassifierSettings) -> _Source:
    family = FAMILIES[settings.model]
    build = _builder(settings)
    preprocessing = family.preprocessing if settings.preprocessing == "auto" else settings.preprocessing
    if settings.weights == "random":
        keras.utils.set_random_seed(settings.seed)
        network = build(weights=None)
        if is_drawn_elsewhere():
            network.set_weights(obtain_random_weights(settings))
        return _Source(network, "random", None, preprocessing)
    if settings.weights == "imagenet":
        network = fetch_imagenet("weights", lambda: _with_imagenet(settings))
        return _Source(network, "imagenet", None, preprocessing)
    with copied("weights", settings.weights, settings.weights_sha256) as file:
        network = _with_weights(settings, file.path)
    return _Source(network, file_name(settings.weights), file.sha256, preprocessing)


def _builder(settings: ClassifierSettings) -> Callable[..., keras.Model]:
    function = getattr(keras.applications, FAMILIES[settings.model].function)
    side = _asked_side(settings)
    return function if side is None else partial(function, input_shape=(side, side, 3))


def _asked_side(settings: ClassifierSettings) -> int | None:
    """Return the side of the input, pixels; None where Keras' function decides."""
    return settings.crop or FAMILIES[settings.model].crop


def _with_imagenet(settings: ClassifierSettings) -> keras.Model:
    """Return the named network with Keras' ImageNet weights, which Keras itself gives for its own input size only."""
    network = getattr(keras.applications, FAMILIES[settings.model].function)(weights="imagenet")
    if _asked_side(settings) in (None, network.input_shape[1]):
        return network
    other = _builder(settings)(weights=None)
    if FAMILY_WEIGHTS[settings.model].has_second_scaling:
        other = _with_second_scaling(other)
    try:
        other.set_weights(network.get_weights())
        finalize(other)
    except ValueError as exc:
        what = f"the ImageNet weights of {settings.model} are for {network.input_shape[1]} pixels only"
        raise SetupError(Fault("crop", what, "remove the key")) from exc
    return other


def _with_second_scaling(network: keras.Model) -> keras.Model:
    """Return the network as Keras builds it for ImageNet's weights, see FamilyWeights.md5. Its weights are new ones."""
    deviations = [scale / 255 for scale in PREPROCESSING["torchvision"].scale]
    scaling = keras.layers.Rescaling([1 / math.sqrt(deviation) for deviation in deviations])

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        return scaling(outputs) if isinstance(layer, keras.layers.Normalization) else outputs

    return keras.models.clone_model(network, call_function=call)


def _with_weights(settings: ClassifierSettings, path: Path) -> keras.Model:
    """Return the named network with the weights of a file, and as many classes as they have."""
    try:
        network = _builder(settings)(weights=None, classes=count_classes(path, settings.model))
        if has_second_scaling(path, settings.model):
            network = _with_second_scaling(network)
        network.load_weights(path)
    except ElsewhereError as exc:
        raise SetupError(f"weights: {shown(settings.weights)}: {exc}; save the weights in one file") from exc
    except Exception as exc:  # a file that is damaged, or of another network, may make Keras raise anything
        raise SetupError(
            f"weights: {shown(settings.weights)} is not a readable Keras weights file of "
            f"{settings.model}: {first_line(exc)}; name another file"
        ) from exc
    return network


def _read_model_file(settings: ClassifierSettings) -> _Source:
    assert settings.preprocessing != "auto"  # ClassifierSettings asks for it
    with copied("model", settings.model, settings.model_sha256) as file:
        check_model_file(file.path, shown(settings.model))
        try:
            network = keras.models.load_model(file.path, compile=False, safe_mode=True)
            _ = network.inputs, network.outputs  # those of a Sequential that was never built are missing
        except Exception as exc:  # a file from elsewhere may make Keras raise anything
            raise SetupError(
                f"model: {shown(settings.model)} is not a readable Keras model: {first_line(exc)}; save it again"
            ) from exc
    return _Source(network, file_name(settings.model), file.sha256, settings.preprocessing)


def _check_input(name: str, network: keras.Model, crop: int | None) -> int:
    """Return the side of the pictures that the network takes. Raises SetupError if it takes something else."""
    if len(network.inputs) != 1 or len(shape := tuple(network.inputs[0].shape)) != 4 or shape[3] != 3:  # noqa: PLR2004
        shapes = " and ".join(str(tuple(each.shape)) for each in network.inputs)
        raise SetupError(
            f"model: {name} has an input of shape {shapes}; it must take RGB pictures: (None, side, side, 3)"
        )
    return check_side(name, shape[1], shape[2], crop)


def _check_output(name: str, network: keras.Model) -> int:
    shapes = [tuple(output.shape) for output in network.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] is None:  # noqa: PLR2004
        raise SetupError(
            f"model: {name} has outputs of shape {' and '.join(map(str, shapes))}; it must have one score for "
            "each class: (None, classes)"
        )
    return int(shapes[0][1])


def _ends_in_sigmoid(network: keras.Model) -> bool:
    return getattr(network.layers[-1], "activation", None) is keras.activations.sigmoid
