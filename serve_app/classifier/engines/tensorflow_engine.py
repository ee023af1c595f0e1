"""Networks on TensorFlow's CPU kernels, from the SavedModel that `engines.prepare` wrote."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Read when TensorFlow is imported: no banner, no search for a GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
# Kernels may keep the weights in the order in which they compute with them: those of a loaded network never change.
# Without it each run orders them anew. It holds for the whole process, in which only one network may be computed then.
os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")

import tensorflow as tf

from serve_app.classifier.engines import MOST_AT_ONCE
from serve_app.classifier.engines.prepared_files import INPUT, OUTPUT, SAVED_MODEL
from serve_app.errors import SetupError


class TensorFlowEngine:
    """A loaded SavedModel with its own number of threads; TensorFlow's pools are per process, so one of them each."""

    device = "cpu"
    has_tf32 = False

    def __init__(self, folder: Path, *, threads: int, precision: str) -> None:
        # Each operation uses all threads, and each batch is in one operation. Threads that wait at the end of an
        # operation of one batch compute the other batch meanwhile. A single thread never waits.
        self.at_once = min(MOST_AT_ONCE, threads)
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(self.at_once)
        if precision == "bfloat16":
            tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
        try:
            self._model = tf.saved_model.load(str(folder / SAVED_MODEL))
        except (OSError, tf.errors.OpError) as exc:
            raise SetupError(f"the prepared model {folder} cannot be loaded; delete that folder: {exc}") from exc
        self._run = self._model.signatures["serving_default"]

    def infer(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See Engine.infer."""
        scores: NDArray[np.float32] = self._run(**{INPUT: tf.constant(pictures)})[OUTPUT].numpy()
        return scores
