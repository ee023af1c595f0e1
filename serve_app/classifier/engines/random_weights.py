"""Random weights that are the same on every engine: drawn by Keras with TensorFlow, wherever that is installed.

Keras' frameworks draw other numbers from the same seed. Where it computes with JAX, `keras_network` lets a process of
its own draw them: `python -m serve_app.classifier.engines.random_weights FILE`, with the settings as JSON on stdin.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.engines.keras_backend import JAX, TENSORFLOW, VARIABLE, choose_backend, import_keras
from serve_app.classifier.settings import ClassifierSettings


def is_drawn_elsewhere() -> bool:
    """Tell whether another process has to draw the weights: Keras computes with JAX here, and TensorFlow is there."""
    return os.environ.get(VARIABLE) == JAX and find_spec(TENSORFLOW) is not None


def obtain_random_weights(settings: ClassifierSettings) -> list[NDArray[np.float32]]:
    """Return the weights that Keras draws with TensorFlow, in the order of the network's variables."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "weights.npz"
        subprocess.run(
            [sys.executable, "-m", __name__, str(file)],
            input=settings.model_dump_json().encode(),
            check=True,
        )
        with np.load(file) as weights:
            return [weights[name] for name in weights.files]


def main() -> None:
    """Draw the weights that stdin asks for."""
    choose_backend(TENSORFLOW)
    import_keras()
    from serve_app.classifier.engines.keras_network import obtain_network

    settings = ClassifierSettings.model_validate_json(sys.stdin.read())
    np.savez(sys.argv[1], *obtain_network(settings).network.get_weights())


if __name__ == "__main__":
    main()
