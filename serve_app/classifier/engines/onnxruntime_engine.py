"""ONNX files on ONNX Runtime (extra `onnxruntime`), from what `engines.prepare` wrote. TensorFlow is not loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from serve_app.classifier.engines.prepared_files import ONNX_MODEL, OnnxInput
from serve_app.errors import SetupError

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxRuntimeEngine:
    """A session with its own number of threads."""

    at_once = 1
    device = "cpu"
    has_tf32 = False

    def __init__(self, folder: Path, *, threads: int) -> None:
        try:
            self._input, self._is_logits = OnnxInput.read(folder)
            self._session = open_session(folder / ONNX_MODEL, threads=threads)
        except (OSError, ValueError, RuntimeError) as exc:
            raise SetupError(f"the prepared model {folder} cannot be loaded; delete that folder: {exc}") from exc

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Engine.infer."""
        scores = run_session(self._session, self._input, pictures)
        if not self._is_logits:
            return scores
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        softmax: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
        return softmax


def open_session(path: Path, *, threads: int) -> Any:
    """Return a session on the CPU. Raises what ONNX Runtime raises, a RuntimeError among others."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # errors are raised, too
    # Threads that spin while they wait take the cores of decoding and of other replicas.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run_session(session: Any, given: OnnxInput, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what the network returns for RGB pictures, shape (n, side, side, 3)."""
    [into] = session.get_inputs()
    scaled = given.scale(pictures).astype(_TYPES[into.type], copy=False)
    parts = [scaled[index : index + 1] for index in range(len(scaled))] if given.one_at_a_time else [scaled]
    scores = [session.run(None, {into.name: np.ascontiguousarray(part)})[0] for part in parts]
    return np.concatenate(scores).astype(np.float32, copy=False)
