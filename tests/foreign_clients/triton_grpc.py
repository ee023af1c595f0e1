"""Run with tritonclient's own Python: ADDRESS MODEL PICTURE PIXELS.npy [KEY]; prints JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException


def outputs(result: Any) -> dict[str, Any]:
    labels = [[text.decode() if isinstance(text, bytes) else text for text in row] for row in result.as_numpy("labels")]
    ids, probabilities = (result.as_numpy(name).tolist() for name in ("class_ids", "probabilities"))
    return {"labels": labels, "class_ids": ids, "probabilities": probabilities}


def refusal(call: Any, *arguments: Any, **options: Any) -> dict[str, str]:
    try:
        call(*arguments, **options)
    except InferenceServerException as exc:
        return {"status": str(exc.status()), "text": str(exc.message())}
    raise AssertionError("it was not refused")


def main(address: str, model: str, picture: str, pixels_file: str, key: str = "") -> None:
    headers = {"x-api-key": key} if key else None
    client = InferenceServerClient(address)
    data, pixels = Path(picture).read_bytes(), np.load(pixels_file)

    def infer(name: str, given: Any, **options: Any) -> Any:
        return client.infer(name, [given], headers=headers, **options)

    pictures = InferInput("pictures", [2], "BYTES")
    pictures.set_data_from_numpy(np.array([data, data], dtype=object))
    whole = infer(model, pictures, request_id="seven", parameters={"top_k": 3})
    part = infer(
        model, pictures, outputs=[InferRequestedOutput(name) for name in ("labels", "class_ids", "probabilities")]
    )
    found = {"pictures": outputs(whole), "named outputs": outputs(part)}
    for datatype, given in (("UINT8", pixels), ("FP32", pixels.astype(np.float32))):
        tensor = InferInput("pixels", list(given.shape), datatype)
        tensor.set_data_from_numpy(given)
        found[datatype] = outputs(infer(f"{model}_{datatype.lower()}", tensor))
    bad = InferInput("pictures", [1], "BYTES")
    bad.set_data_from_numpy(np.array([b"no picture"], dtype=object))
    told = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model, headers=headers),
        "missing": refusal(client.is_model_ready, "nothing", headers=headers),
        "server": client.get_server_metadata(headers=headers, as_json=True),
        "metadata": client.get_model_metadata(model, headers=headers, as_json=True),
        "config": client.get_model_config(model, headers=headers, as_json=True),
        "index": client.get_model_repository_index(headers=headers, as_json=True),
        "id": whole.get_response().id,
        "answers": found,
        "refused": refusal(infer, model, bad),
        "without_key": refusal(client.get_model_metadata, model) if key else None,
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
