"""With which framework Keras computes in this process; to be asked before Keras is imported."""

import os
from importlib import import_module

from serve_app.classifier.engines import lean_imports

VARIABLE = "KERAS_BACKEND"
TENSORFLOW, JAX = "tensorflow", "jax"


def choose_backend(engine: str) -> None:
    """Let Keras compute with the framework that prepares models for `engine`; TensorFlow does so on the CPU."""
    os.environ[VARIABLE] = JAX if engine == "jax" else TENSORFLOW
    if engine != "jax":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def import_keras() -> None:
    """Import Keras as `lean_imports` does, which takes 4 s; then `import keras` anywhere takes none."""
    with lean_imports(os.environ.get(VARIABLE, TENSORFLOW)):
        import_module("keras")
