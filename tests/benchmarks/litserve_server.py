"""The network behind LitServe, as its users would write it. Run by `peer` with the Python that has LitServe:

python litserve_server.py PORT FROZEN_GRAPH THREADS MAX_BATCH
"""

import io
import os
import sys

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import litserve  # type: ignore[import-not-found]
from PIL import Image

BATCH_TIMEOUT_S = 0.002
RESIZED, CROP = 256, 224


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """Decodes, batches and computes in one worker process."""

    def setup(self, device: str) -> None:  # noqa: ARG002 LitServe's interface
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[3]))
        tf.config.threading.set_inter_op_parallelism_threads(1)
        with open(sys.argv[2], "rb") as file:  # noqa: PTH123 another Python, kept plain
            graph_def = tf.compat.v1.GraphDef.FromString(file.read())
        wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
        names = ("pictures:0", "Identity:0")
        self._compute = wrapped.prune(*(wrapped.graph.as_graph_element(name) for name in names))
        self._constant = tf.constant
        for pictures in (1, int(sys.argv[4])):
            self.predict(np.zeros((pictures, CROP, CROP, 3), np.uint8))

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201 a type would mean JSON
        picture = Image.open(io.BytesIO(request["file"].file.read())).convert("RGB")
        scale = RESIZED / min(picture.size)
        width, height = (round(side * scale) for side in picture.size)
        left, top = (width - CROP) // 2, (height - CROP) // 2
        small = picture.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(small.crop((left, top, left + CROP, top + CROP)), np.uint8)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        scores: np.ndarray = self._compute(self._constant(x)).numpy()
        return scores

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, object]:
        best = [{"class_id": int(index), "score": float(output[index])} for index in np.argsort(-output)[:5]]
        return {"prediction": str(best[0]["class_id"]), "predictions": best}


if __name__ == "__main__":
    api = Classifier(max_batch_size=int(sys.argv[4]), batch_timeout=BATCH_TIMEOUT_S, api_path="/model/predict")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, healthcheck_path="/model/ready")
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
