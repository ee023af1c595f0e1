"""Requests of the Open Inference Protocol v2 for the fuzzer: pictures in tensors, and spoilt envelopes around them."""

import base64
import itertools
import json
import math
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.fuzz.mutations import Spoilt, spoil
from loadtest.fuzz.request import FuzzRequest, Header
from loadtest.load.inference_input import Input

PATH_END = "/infer"
"""Of the paths that take such requests."""
SIDE = 16
"""Of the pictures that are sent as pixels, where the model leaves it open."""

_JSON_LENGTH = b"inference-header-content-length"
_SHAPES: tuple[Any, ...] = (
    [], [0], [2], [-1], [1, 16, 16], [1, 16, 16, 4], [1, 3, 16, 16], [2, 16, 8, 3],
    [1, 10**9, 10**9, 3], [10**9], [2**63], [1, 1], [1, 2], [1] * 100, [1.5], [True], ["1"], None, 1, [[1]], [10**40],
)  # fmt: skip
_DATATYPES: tuple[Any, ...] = ("BYTES", "UINT8", "FP32", "FP64", "bytes", "", None, 7, "B" * 5000)
_ODD: tuple[Any, ...] = (None, True, -1, 0, 1.5, 10**40, "", "x", "\x00", [], [[]], {}, {"a": [1]}, [None] * 100)
_ODD_FLOATS = (math.nan, math.inf, -math.inf, -1.0, 255.6, 1e38)
_SIZES: tuple[Any, ...] = (0, 1, -1, 10**9, 2**63, 1.5, "4", None, True)
_LENGTHS = (b"0", b"1", b"-1", b"x", b"", b"9" * 400, b"0x10", b"1.5")
_KEYS = ("id", "parameters", "outputs", "inputs", "surprise")
_NESTED = 20_000


def valid_inferences(path: str, files: Sequence[bytes], model_input: Input) -> Iterator[FuzzRequest]:
    """Yield each file as a raw tensor and as JSON: one of them at least should be accepted."""
    for file in files:
        for is_raw in (True, False):
            headers, body = _encode(*_envelope(model_input, file, is_raw=is_raw))
            yield FuzzRequest(path.encode(), headers, body)


def make_inference(path: str, files: Sequence[bytes], seed: int, number: int, model_input: Input) -> FuzzRequest:
    """Return request `number` of the campaign `seed`: the same for the same files, whatever was sent before."""
    rng = random.Random(f"{seed} {number}")
    picture = spoil(rng, files) if rng.random() < 0.5 else Spoilt("as it is", rng.choice(files))  # noqa: PLR2004 half
    if rng.random() < 0.1:  # noqa: PLR2004 one in ten
        picture = Spoilt("no picture", rng.randbytes(100))
    is_raw = rng.random() < 0.5  # noqa: PLR2004 half
    envelope, raw = _envelope(model_input, picture.data, is_raw=is_raw)
    done = [picture.was_done, "raw" if is_raw else "JSON"]
    if rng.random() < 0.6:  # noqa: PLR2004 more than half
        done.append(_change(rng, envelope))
    if model_input.datatype != "BYTES" and rng.random() < 0.3:  # noqa: PLR2004 one in three
        raw = _change_value(rng, envelope, raw)
        done.append("value")
    headers, body = _encode(envelope, raw)
    if rng.random() < 0.2:  # noqa: PLR2004 one in five
        spoilt = spoil(rng, [body])
        body = spoilt.data
        done.append(f"body: {spoilt.was_done}")
    if rng.random() < 0.15:  # noqa: PLR2004 one in seven
        headers = ((_JSON_LENGTH, rng.choice(_LENGTHS)),)
        done.append("length of the JSON")
    if rng.random() < 0.05:  # noqa: PLR2004 one in twenty
        headers, body = (), b'{"inputs":' + rng.choice((b"[", b'{"a":')) * rng.choice((10, _NESTED))
        done = ["nested"]
    return FuzzRequest(path.encode(), headers, body, rng.random() < 0.2, "; ".join(done))  # noqa: PLR2004 one in five


def _envelope(model_input: Input, file: bytes, *, is_raw: bool) -> tuple[dict[str, Any], bytes | None]:
    """Return the JSON and the raw tensor behind it: files that are `file`, or pixels from its bytes."""
    tensor: dict[str, Any] = {
        "name": model_input.name, "shape": list(model_input.shape), "datatype": model_input.datatype,
    }  # fmt: skip
    count = math.prod(model_input.shape)
    pixels = list(itertools.islice(itertools.cycle(file or b"\0"), count))
    if not is_raw:
        texts = [base64.b64encode(file).decode()] * count if model_input.datatype == "BYTES" else pixels
        return {"inputs": [{**tensor, "data": texts}]}, None
    if model_input.datatype == "BYTES":
        raw = (struct.pack("<I", len(file)) + file) * count
    else:
        raw = bytes(pixels) if model_input.datatype == "UINT8" else struct.pack(f"<{count}f", *pixels)
    return {"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}, raw


def _encode(envelope: dict[str, Any], raw: bytes | None) -> tuple[tuple[Header, ...], bytes]:
    text = json.dumps(envelope).encode()
    if raw is None:
        return (), text
    return ((_JSON_LENGTH, str(len(text)).encode()),), text + raw


def _change_value(rng: random.Random, envelope: dict[str, Any], raw: bytes | None) -> bytes | None:
    """Put something odd into the place of a pixel, and return the raw tensor."""
    if raw is not None:
        at = rng.randrange(len(raw))
        return raw[:at] + struct.pack("<f", rng.choice(_ODD_FLOATS)) + raw[at:][rng.choice((4, 4, 0, 5)) :]
    for tensor in envelope["inputs"] if isinstance(envelope["inputs"], list) else ():
        data = tensor.get("data") if isinstance(tensor, dict) else None
        if isinstance(data, list) and data:
            data[rng.randrange(len(data))] = rng.choice((*_ODD, *_ODD_FLOATS, 10**400, "x" * 20_000))
    return None


def _change(rng: random.Random, envelope: dict[str, Any]) -> str:
    """Put something odd into one place of the envelope, and return which."""
    tensor = envelope["inputs"][0]
    place = rng.choice(("shape", "datatype", "name", "data", "size", "top", "tensors", "top_k"))
    if place == "shape":
        tensor["shape"] = rng.choice(_SHAPES)
    elif place == "datatype":
        tensor["datatype"] = rng.choice(_DATATYPES)
    elif place == "size":
        tensor["parameters"] = {"binary_data_size": rng.choice(_SIZES)}
    elif place == "top":
        envelope[rng.choice(_KEYS)] = rng.choice(_ODD)
    elif place == "tensors":
        envelope["inputs"] = envelope["inputs"] * rng.choice((0, 2, 100))
    elif place == "top_k":
        envelope["parameters"] = {rng.choice(("top_k", "timeout", "binary_data_output")): rng.choice(_ODD)}
    else:
        tensor[place] = rng.choice(_ODD)
    return place
