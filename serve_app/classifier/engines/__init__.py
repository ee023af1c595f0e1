"""Where the network is computed: the only folder that imports TensorFlow, Keras or OpenVINO, each when asked for."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """A loaded network; used by one thread."""

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the class probabilities, shape (n, classes), of RGB pictures, shape (n, 224, 224, 3)."""


def import_engine(name: str) -> None:
    """Import what `load_engine` needs: the larger half of its time, and without a thread that stays."""
    if name == "openvino":
        import serve_app.classifier.engines.openvino_engine
    else:
        import serve_app.classifier.engines.tensorflow_engine  # noqa: F401


def load_engine(name: str, folder: Path, *, threads: int, precision: str) -> Engine:
    """Load the prepared model in `folder`. Raises SetupError."""
    if name == "openvino":
        from serve_app.classifier.engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(folder, threads=threads, precision=precision)
    from serve_app.classifier.engines.tensorflow_engine import TensorFlowEngine

    return TensorFlowEngine(folder, threads=threads)
