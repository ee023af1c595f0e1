"""Run with tritonclient's own Python: ADDRESS (no scheme) MODEL PICTURE PIXELS.npy [KEY]; prints JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException


def outputs(result: Any) -> dict[str, Any]:
    labels = [[text.decode() if isinstance(text, bytes) else text for text in row] for row in result.as_numpy("labels")]
    ids, probabilities = (result.as_numpy(name).tolist() for name in ("class_ids", "probabilities"))
    return {"labels": labels, "class_ids": ids, "probabilities": probabilities}


def main(address: str, model: str, picture: str, pixels_file: str, key: str = "") -> None:
    headers = {"X-API-Key": key} if key else None
    client = InferenceServerClient(address, network_timeout=120, connection_timeout=120)
    data, pixels = Path(picture).read_bytes(), np.load(pixels_file)

    def infer(name: str, given: Any, **options: Any) -> Any:
        # A copy: it would keep the length of one request's JSON in the headers of the next.
        return client.infer(name, [given], headers=dict(headers) if headers else None, **options)

    pictures = InferInput("pictures", [2], "BYTES")
    pictures.set_data_from_numpy(np.array([data, data], dtype=object))
    whole = infer(model, pictures, request_id="seven", parameters={"top_k": 3})
    json_outputs = [InferRequestedOutput(name, binary_data=False) for name in ("labels", "class_ids")]
    part = infer(model, pictures, outputs=[*json_outputs, InferRequestedOutput("probabilities")])
    found = {"pictures": outputs(whole), "named outputs": outputs(part)}
    for datatype, given in (("UINT8", pixels), ("FP32", pixels.astype(np.float32))):
        for is_binary in (True, False):
            tensor = InferInput("pixels", list(given.shape), datatype)
            tensor.set_data_from_numpy(given, binary_data=is_binary)
            found[f"{datatype} {is_binary}"] = outputs(infer(f"{model}_{datatype.lower()}", tensor))
    try:
        pictures.set_data_from_numpy(np.array([b"no picture", data], dtype=object))
        infer(model, pictures)
    except InferenceServerException as exc:
        refused = {"status": exc.status(), "text": exc.message()}
    told = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model, headers=headers),
        "missing_ready": client.is_model_ready("nothing", headers=headers),
        "server": client.get_server_metadata(headers=headers),
        "metadata": client.get_model_metadata(model, headers=headers),
        "config": client.get_model_config(model, headers=headers),
        "index": client.get_model_repository_index(headers=headers),
        "id": whole.get_response()["id"],
        "answers": found,
        "refused": refused,
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
