"""With which framework Keras computes in this process; to be asked before Keras is imported."""

import os

VARIABLE = "KERAS_BACKEND"
TENSORFLOW, JAX = "tensorflow", "jax"


def choose_backend(engine: str) -> None:
    """Let Keras compute with the framework that prepares models for `engine`; TensorFlow does so on the CPU."""
    os.environ[VARIABLE] = JAX if engine == "jax" else TENSORFLOW
    if engine != "jax":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
