"""Networks whose convolutions do the work of the BatchNormalization after them. Called by `keras_network`."""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.engines.checks import find_memory_fault

logger = logging.getLogger(__name__)

SAME_WITHIN = 1e-3
"""Of the largest score: more than rounding makes of 200 layers, less than a wrongly folded one would change."""


def fold_batch_norm(network: keras.Model, probe: NDArray[np.float32]) -> keras.Model:
    """Return a network with the same outputs and fewer BatchNormalization layers; `network` itself where none folds.

    With gamma g, beta b, mean m, variance v: kernel' = kernel·s and bias' = (bias − m)·s + b, s = g/√(v + epsilon).
    Both compute `probe`, an input batch, up to each folded layer and to the end. If any difference is above SAME_WITHIN
    of the largest value there, or the network cannot be taken apart, `network` is returned. A network that is a layer
    of another one is folded by itself, on what the other one gives it.
    """
    try:
        # A Sequential of a file has nodes of every step in which it was built; its functional form, one each.
        graph = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
        nodes, nested = dict(_foldable(graph)), dict(_folded_layers(graph, probe))
        if not nodes and not nested:
            return network
        folded = _fold(graph, {name: node.operation for name, node in nodes.items()}, nested)
        pairs = [(node.output_tensors[0], folded.get_layer(node.operation.name).output) for node in nodes.values()]
        pairs.append((graph.outputs[0], folded.outputs[0]))
        wanted = compute(keras.Model(graph.inputs[0], [before for before, _ in pairs]), probe)
        found = compute(keras.Model(folded.inputs[0], [after for _, after in pairs]), probe)
    except Exception as exc:  # a network from elsewhere may be built in any way; unfolded it is right, only slower
        if find_memory_fault(exc):
            raise
        logger.warning("BatchNormalization is not folded: the network cannot be taken apart", exc_info=True)
        return network
    differs_by = np.max([*map(_difference, wanted, found)])
    if not differs_by <= SAME_WITHIN:  # nor where that is no number
        logger.warning("BatchNormalization is not folded: the outputs would differ by %.1g of the largest", differs_by)
        return network
    return folded


def compute(network: keras.Model, inputs: Any) -> Any:
    """Return what a network returns for `inputs`, as one compiled whole where Keras computes with JAX.

    JAX would compile each operation by itself: 25 s for a ResNet50 instead of 5 s. It computes in the highest
    precision, for a GPU's TF32 rounds by about as much as SAME_WITHIN.
    """
    if keras.backend.backend() != "jax":
        return network(inputs, training=False)
    import jax

    weights = (
        [each.value for each in variables]
        for variables in (network.trainable_variables, network.non_trainable_variables)
    )
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda *given: network.stateless_call(*given, training=False)[0])(*weights, inputs)


def finalize(network: keras.Model) -> None:
    """Let the layers that compute with copies of their weights, such as Normalization, copy those that were set."""
    for layer in network._flatten_layers():  # noqa: SLF001 nested ones too
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _fold(network: keras.Model, norms: dict[str, Any], nested: dict[str, keras.Model]) -> keras.Model:
    stand_ins = nested | {norm.name: _PassThrough(name=norm.name) for norm in norms.values()}
    folded = keras.models.clone_model(network, clone_function=lambda layer: _clone(layer, norms, stand_ins))
    for layer in network.layers:
        if layer.name in norms:
            folded.get_layer(layer.name).set_weights(_folded_weights(layer, norms[layer.name]))
        elif layer.weights and layer.name not in stand_ins:
            folded.get_layer(layer.name).set_weights(layer.get_weights())
    finalize(folded)
    return folded


def _difference(wanted: Any, found: Any) -> float:
    """Return the largest difference, as a share of the largest value that is wanted."""
    scale = max(1e-6, float(np.abs(wanted).max()))
    return float(np.abs(np.asarray(wanted) - np.asarray(found)).max()) / scale


class _PassThrough(keras.layers.Layer):  # type: ignore[misc]
    """Stands where a BatchNormalization was."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:  # noqa: ARG002
        return inputs


def _folded_layers(graph: keras.Model, probe: NDArray[np.float32]) -> Iterator[tuple[str, keras.Model]]:
    """Yield the name of each network that is a layer of `graph`, and its folded form, where it has one."""
    nodes = _nodes(graph)
    uses = Counter(id(node.operation) for node in nodes)
    for node in nodes:
        layer = node.operation
        if isinstance(layer, keras.Model) and uses[id(layer)] == len(layer.inputs) == len(layer.outputs) == 1:
            given = compute(keras.Model(graph.inputs[0], node.input_tensors[0]), probe)
            folded = fold_batch_norm(layer, given)
            if folded is not layer:
                yield layer.name, folded


def _nodes(graph: keras.Model) -> list[Any]:
    return [node for of_one_depth in graph._nodes_by_depth.values() for node in of_one_depth]  # noqa: SLF001


def _foldable(graph: keras.Model) -> Iterator[tuple[str, Any]]:
    """Yield the name of each layer that can take over the BatchNormalization after it, and the node of that one."""
    nodes = _nodes(graph)
    uses = Counter(id(node.operation) for node in nodes)
    followers = Counter(id(before) for node in nodes for before in node.parent_nodes)
    for node in nodes:
        if type(node.operation) is keras.layers.BatchNormalization and len(node.parent_nodes) == 1:
            before = node.parent_nodes[0]
            once = uses[id(node.operation)] == uses[id(before.operation)] == followers[id(before)] == 1
            if once and _fits(before.operation, node):
                yield before.operation.name, node


def _fits(layer: Any, node: Any) -> bool:
    """Tell whether a layer is linear, with its channels where the BatchNormalization has them: last."""
    axis, rank = node.operation.axis, len(node.input_tensors[0].shape)
    if type(layer) not in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense):
        return False
    is_last = axis in (-1, rank - 1) and getattr(layer, "data_format", "channels_last") == "channels_last"
    return is_last and layer.activation is keras.activations.linear


def _clone(layer: Any, norms: dict[str, Any], stand_ins: dict[str, Any]) -> Any:
    if layer.name in stand_ins:
        return stand_ins[layer.name]
    config = layer.get_config()
    if layer.name in norms:
        config["use_bias"] = True
    return layer.__class__.from_config(config)


def _folded_weights(layer: Any, norm: Any) -> list[NDArray[np.float32]]:
    kernel, *biases = layer.get_weights()
    if len(biases) > 1:
        raise ValueError(f"{layer.name} has further weights")  # such as those of LoRA
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
