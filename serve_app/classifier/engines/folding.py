"""Networks whose convolutions do the work of the BatchNormalization after them. Called by `keras_network`."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

SAME_WITHIN = 1e-3
"""Of a probability: more than rounding makes of 200 layers, less than a wrongly folded one would change."""


def fold_batch_norm(network: keras.Model, probe: NDArray[np.float32]) -> keras.Model:
    """Return a network with the same outputs and fewer BatchNormalization layers; `network` itself where none folds.

    With gamma g, beta b, mean m, variance v: kernel' = kernel·s and bias' = (bias − m)·s + b, s = g/√(v + epsilon).
    Both networks compute `probe`, an input batch; if they differ by more than SAME_WITHIN, `network` is returned.
    """
    norms = dict(_foldable(network))
    if not norms:
        return network
    names = {norm.name for norm in norms.values()}
    folded = keras.models.clone_model(network, clone_function=lambda layer: _clone(layer, norms, names))
    for layer in network.layers:
        if layer.name in norms:
            folded.get_layer(layer.name).set_weights(_folded_weights(layer, norms[layer.name]))
        elif layer.weights and layer.name not in names:
            folded.get_layer(layer.name).set_weights(layer.get_weights())
    difference = np.abs(network(probe, training=False) - folded(probe, training=False)).max()
    return folded if difference <= SAME_WITHIN else network


class _PassThrough(keras.layers.Layer):  # type: ignore[misc]
    """Stands where a BatchNormalization was."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:  # noqa: ARG002
        return inputs


def _foldable(network: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the name of each layer that can take over the BatchNormalization after it, and that one."""
    kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    for norm in network.layers:
        if type(norm) is not keras.layers.BatchNormalization or len(norm._inbound_nodes) != 1:  # noqa: SLF001
            continue
        before = norm._inbound_nodes[0].parent_nodes  # noqa: SLF001
        layer: Any = before[0].operation if len(before) == 1 else None
        if type(layer) in kinds and _only_feeds(layer, norm):
            yield layer.name, norm


def _only_feeds(layer: Any, norm: Any) -> bool:
    rank = len(norm.input.shape)
    is_last_axis = norm.axis in (-1, rank - 1) and getattr(layer, "data_format", "channels_last") == "channels_last"
    nodes, uses = layer._inbound_nodes, layer._outbound_nodes  # noqa: SLF001
    return is_last_axis and len(nodes) == len(uses) == 1 and layer.activation is keras.activations.linear


def _clone(layer: Any, norms: dict[str, Any], names: set[str]) -> Any:
    if layer.name in names:
        return _PassThrough(name=layer.name)
    config = layer.get_config()
    if layer.name in norms:
        config["use_bias"] = True
    return layer.__class__.from_config(config)


def _folded_weights(layer: Any, norm: Any) -> list[NDArray[np.float32]]:
    kernel, *biases = layer.get_weights()
    mean, variance = (np.asarray(value) for value in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * np.asarray(norm.gamma)
    bias = (sum(biases) - mean) * scale
    if norm.center:
        bias = bias + np.asarray(norm.beta)
    # A depthwise kernel has its output channels in its last two axes.
    per_output = scale.reshape(kernel.shape[2:]) if isinstance(layer, keras.layers.DepthwiseConv2D) else scale
    return [kernel * per_output, bias]
