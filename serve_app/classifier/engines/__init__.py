"""Where the network is computed: the only folder that imports TensorFlow, Keras, JAX, OpenVINO, NNCF, ONNX Runtime."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# OpenVINO and NNCF send statistics of their use to the internet when they are imported, OpenVINO from a fork of the
# process, unless the module for it is missing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

MOST_AT_ONCE = 2
"""The most batches that an engine computes at the same time."""

STUCK_AFTER_S = 60
"""A batch takes half a second: an engine that has had one for this long will not come back."""

MOST_FAILURES = 20
"""Batches that may fail one after the other: an engine whose memory is broken computes none any more."""


class Engine(Protocol):
    """A loaded network."""

    at_once: int
    """How many threads may call `infer` at the same time, and gain by it."""
    device: str
    """What computes it: `cpu`, or the name of a GPU."""
    has_tf32: bool
    """Whether it multiplies float32 as TF32, with 10 bits of mantissa."""

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the class probabilities, shape (n, classes), of RGB pictures, shape (n, crop, crop, 3)."""


def has_answers(scores: NDArray[np.float32]) -> bool:
    """Return whether the scores, shape (n, classes), have a row of finite numbers."""
    return bool(np.isfinite(scores).all(axis=1).any())


@contextmanager
def lean_imports(engine: str) -> Iterator[None]:
    """Import in this block what `engine` needs, and nothing that TensorFlow and Keras take along.

    Where they find matplotlib, scikit-learn or JAX, they import these too, for functions that nothing here calls: 40 %
    of the time.
    """
    unused = ("matplotlib", "sklearn") if engine == "jax" else ("matplotlib", "sklearn", "jax")
    modules: dict[str, Any] = sys.modules
    hidden = [name for name in unused if modules.setdefault(name, None) is None]
    try:
        yield
    finally:
        for name in hidden:
            if modules.get(name) is None:
                modules.pop(name, None)


def import_engine(name: str) -> None:
    """Import what `load_engine` needs: the larger half of its time, and without a thread that stays."""
    with lean_imports(name):
        import_module(f"serve_app.classifier.engines.{name}_engine")


def load_engine(  # noqa: PLR0913 the last two are for one engine
    name: str, folder: Path, *, threads: int, precision: str, max_batch: int = 8, gpu_share: float = 0.0
) -> Engine:
    """Load the prepared model in `folder`, for up to `max_batch` pictures in a batch. Raises SetupError.

    `precision` is one of the settings, or `highest` of engine `jax`, with which its other ones are compared.
    `gpu_share` is what Ray has given of a GPU to this process: 0 where it has given none.
    """
    import_engine(name)
    if name == "jax":
        from serve_app.classifier.engines.jax_engine import JaxEngine

        return JaxEngine(folder, threads=threads, precision=precision, max_batch=max_batch, gpu_share=gpu_share)
    if name == "openvino":
        from serve_app.classifier.engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(folder, threads=threads, precision=precision)
    if name == "onnxruntime":
        from serve_app.classifier.engines.onnxruntime_engine import OnnxRuntimeEngine

        return OnnxRuntimeEngine(folder, threads=threads)
    from serve_app.classifier.engines.tensorflow_engine import TensorFlowEngine

    return TensorFlowEngine(folder, threads=threads, precision=precision)
