"""Writes a network of Keras for TensorFlow, and for OpenVINO, which reads TensorFlow's graphs."""

from pathlib import Path

import keras
import tensorflow as tf

from serve_app.classifier.engines.checks import Serve
from serve_app.classifier.engines.prepared_files import INPUT, OPENVINO_MODEL, OUTPUT, SAVED_MODEL


def save_for_tensorflow(network: keras.Model, serve: Serve, crop: int, folder: Path) -> None:
    """Write a SavedModel."""
    module = _module(network, serve, crop)
    tf.saved_model.save(module, str(folder / SAVED_MODEL), signatures=module.serve.get_concrete_function())


def save_for_openvino(network: keras.Model, serve: Serve, crop: int, folder: Path) -> None:
    """Write the files of OpenVINO."""
    import openvino
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(_module(network, serve, crop).serve.get_concrete_function())
    graph = folder / "frozen.pb"
    graph.write_bytes(frozen.graph.as_graph_def().SerializeToString())
    openvino.save_model(openvino.Core().read_model(graph), folder / OPENVINO_MODEL, compress_to_fp16=False)
    graph.unlink()


def _module(network: keras.Model, serve: Serve, crop: int) -> tf.Module:
    """Return the network from uint8 RGB pictures to class probabilities as a module with one signature."""
    signature = [tf.TensorSpec([None, crop, crop, 3], tf.uint8, name=INPUT)]

    @tf.function(input_signature=signature, autograph=False)  # type: ignore[untyped-decorator]
    def function(pictures: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: serve(pictures, lambda inputs: network(inputs, training=False))}

    module = tf.Module()
    module.weights = [each.value for each in network.variables]  # a SavedModel keeps the variables that it can reach
    module.serve = function
    return module
