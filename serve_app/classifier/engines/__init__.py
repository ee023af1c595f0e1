"""Where the network is computed: the only folder that imports TensorFlow, Keras, OpenVINO and ONNX Runtime."""

from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MOST_AT_ONCE = 2
"""The most batches that an engine computes at the same time."""


class Engine(Protocol):
    """A loaded network."""

    at_once: int
    """How many threads may call `infer` at the same time, and gain by it."""

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the class probabilities, shape (n, classes), of RGB pictures, shape (n, crop, crop, 3)."""


def import_engine(name: str) -> None:
    """Import what `load_engine` needs: the larger half of its time, and without a thread that stays."""
    import_module(f"serve_app.classifier.engines.{name}_engine")


def load_engine(name: str, folder: Path, *, threads: int, precision: str) -> Engine:
    """Load the prepared model in `folder`. Raises SetupError."""
    if name == "openvino":
        from serve_app.classifier.engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(folder, threads=threads, precision=precision)
    if name == "onnxruntime":
        from serve_app.classifier.engines.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(folder, threads=threads)
    from serve_app.classifier.engines.tensorflow_engine import TensorFlowEngine

    return TensorFlowEngine(folder, threads=threads, precision=precision)
