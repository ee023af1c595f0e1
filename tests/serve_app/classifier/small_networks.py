"""Networks of a few weights that tell generated pictures apart, as Keras and ONNX files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE = 32
COLOURS = ("red", "green", "blue")


def pictures(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return noisy pictures of one colour each, shape (count, SIDE, SIDE, 3), and which of COLOURS it is."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, len(COLOURS), count)
    pixels = random.integers(0, 90, (count, SIDE, SIDE, 3))
    pixels[np.arange(count), :, :, classes] += 120
    return pixels.astype(np.uint8), classes


def trained(*, scaling: bool = True, softmax: bool = True) -> Any:
    """Return a Keras network that tells such pictures apart, with its own scaling layer or for pixels 0 to 1.

    Its convolutions are random, its last layer is fitted to them by least squares: that takes no training loop.
    """
    import keras

    keras.utils.set_random_seed(3)
    layers = [
        keras.Input((SIDE, SIDE, 3)),
        *([keras.layers.Rescaling(1 / 255)] if scaling else []),
        keras.layers.Conv2D(8, 3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(momentum=0.0),  # one pass in training mode sets mean and variance
        keras.layers.ReLU(),
        keras.layers.DepthwiseConv2D(3),
        keras.layers.BatchNormalization(momentum=0.0),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(len(COLOURS), activation="softmax" if softmax else None),
    ]
    network = keras.Sequential(layers)
    images, classes = pictures(192)
    given = images.astype(np.float32) / (1 if scaling else 255)
    features = keras.Model(network.inputs[0], network.layers[-1].input)
    features(given, training=True)
    found = np.asarray(features(given, training=False))
    with_bias = np.column_stack([found, np.ones(len(found))])
    fitted = np.linalg.lstsq(with_bias, 8 * np.eye(len(COLOURS))[classes], rcond=None)[0]
    network.layers[-1].set_weights([fitted[:-1], fitted[-1]])
    return network


def write_onnx(  # noqa: PLR0913 each is one feature of the file
    path: Path,
    *,
    channels_first: bool = True,
    batch: int | str = "n",
    softmax: bool = False,
    side: int = SIDE,
    convolution: bool = False,
    integers: str | None = None,
) -> Path:
    """Write a network whose score for a colour is its mean, and return `path`. Its input are pixels 0 to 1.

    With `convolution` a first layer, for channels that come first, passes each colour on. With `integers`, such as
    uint8, its input are pixels 0 to 255 of that type, which it scales itself.
    """
    import onnx
    from onnx import TensorProto, helper

    shape: list[int | str] = [batch, 3, side, side] if channels_first else [batch, side, side, 3]
    axes = onnx.numpy_helper.from_array(np.array([2, 3] if channels_first else [1, 2]), "axes")
    scaling = [
        helper.make_node("Cast", ["whole"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["cast", "white"], ["pixels"]),
    ]
    nodes = [
        *(scaling if integers else []),
        *([helper.make_node("Conv", ["pixels", "kernel"], ["passed"])] if convolution else []),
        helper.make_node("ReduceMean", ["passed" if convolution else "pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "gain"], ["logits"]),
        *([helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)] if softmax else []),
    ]
    kernel = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32)[..., np.newaxis, np.newaxis], "kernel")
    gain = onnx.numpy_helper.from_array(np.array(20, np.float32), "gain")
    white = onnx.numpy_helper.from_array(np.array(255, np.float32), "white")
    kind = TensorProto.DataType.Value(integers.upper()) if integers else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("whole" if integers else "pixels", kind, shape)],
        [helper.make_tensor_value_info("probabilities" if softmax else "logits", TensorProto.FLOAT, [batch, 3])],
        [gain, axes, *([kernel] if convolution else []), *([white] if integers else [])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def colour_probabilities(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return what the network of `write_onnx` finds: the softmax of 20 times the mean of each colour."""
    logits = 20 * (images / 255).mean(axis=(1, 2))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result
