"""Run with the Python that has KServe's client: URL MODEL PICTURE PIXELS.npy [KEY]; prints JSON."""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def outputs(result: Any) -> dict[str, Any]:
    return {output.name: output.as_numpy().tolist() for output in result.outputs}


async def main(url: str, model: str, picture: str, pixels_file: str, key: str = "") -> None:
    headers = {"X-API-Key": key} if key else {}
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=120))
    data, pixels = Path(picture).read_bytes(), np.load(pixels_file)

    async def infer(name: str, given: Any, **parameters: Any) -> dict[str, Any]:
        request = InferRequest(name, [given], parameters=parameters)
        return outputs(await client.infer(url, request, model_name=name, headers=dict(headers)))

    raw = InferInput("pictures", [2], "BYTES")
    raw.set_data_from_numpy(np.array([data, data], dtype=object), binary_data=True)
    text = base64.b64encode(data).decode()
    coded = InferInput("pictures", [1], "BYTES", data=[text], parameters={"content_type": "base64"})
    found = {
        "pictures": await infer(model, raw, top_k=3),
        "raw answer": await infer(model, raw, binary_data_output=True),
        "base64": await infer(model, coded),
    }
    for datatype, given in (("UINT8", pixels), ("FP32", pixels.astype(np.float32))):
        for is_binary in (True, False):
            tensor = InferInput("pixels", list(given.shape), datatype)
            tensor.set_data_from_numpy(given, binary_data=is_binary)
            found[f"{datatype} {is_binary}"] = await infer(f"{model}_{datatype.lower()}", tensor)
    try:
        await infer(model, InferInput("pictures", [1], "BYTES", data=["%"]))
    except httpx.HTTPStatusError as exc:
        refused = {"status": str(exc.response.status_code), "text": str(exc)}
    told = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, model, headers=headers),
        "missing_ready": await client.is_model_ready(url, "nothing", headers=headers),
        "answers": found,
        "refused": refused,
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
