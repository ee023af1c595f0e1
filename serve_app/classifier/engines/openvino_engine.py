"""Networks on OpenVINO (extra `openvino`), from the IR files that `engines.prepare` wrote. TensorFlow is not loaded."""

from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray

from serve_app.classifier.engines.prepared_files import INT8_MODEL, OPENVINO_MODEL
from serve_app.errors import SetupError

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""Of what the file does not compute in int8."""
# OpenVINO knows of its own process only: pinned, the threads of every replica would be on the same first cores.
FOR_REPLICAS = {"ENABLE_CPU_PINNING": False}


class OpenVinoEngine:
    """A compiled model with its own number of threads."""

    at_once = 1
    device = "cpu"
    has_tf32 = False

    def __init__(self, folder: Path, *, threads: int, precision: str) -> None:
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            **FOR_REPLICAS,
        }
        file = folder / (INT8_MODEL if precision == "int8" else OPENVINO_MODEL)
        try:
            self._model = openvino.Core().compile_model(file, "CPU", options)
        except RuntimeError as exc:
            raise SetupError(f"the prepared model {folder} cannot be loaded; delete that folder: {exc}") from exc

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Engine.infer."""
        scores: NDArray[np.float32] = self._model(pictures)[0]
        return scores
