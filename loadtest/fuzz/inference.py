"""Requests of the Open Inference Protocol v2 for the fuzzer: pictures in tensors, and spoilt envelopes around them."""

import base64
import json
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.fuzz.mutations import Spoilt, spoil
from loadtest.fuzz.request import FuzzRequest, Header

PATH_END = "/infer"
"""Of the paths that take such requests."""

_JSON_LENGTH = b"inference-header-content-length"
_INPUT = "pictures"
_SHAPES: tuple[Any, ...] = (
    [], [0], [2], [-1], [10**9], [2**63], [1, 1], [1, 2], [1] * 100, [1.5], [True], ["1"], None, 1, [[1]], [10**40],
)  # fmt: skip
_DATATYPES: tuple[Any, ...] = ("UINT8", "FP32", "FP64", "bytes", "", None, 7, "B" * 5000)
_ODD: tuple[Any, ...] = (None, True, -1, 0, 1.5, 10**40, "", "x", "\x00", [], [[]], {}, {"a": [1]}, [None] * 100)
_SIZES: tuple[Any, ...] = (0, 1, -1, 10**9, 2**63, 1.5, "4", None, True)
_LENGTHS = (b"0", b"1", b"-1", b"x", b"", b"9" * 400, b"0x10", b"1.5")
_KEYS = ("id", "parameters", "outputs", "inputs", "surprise")
_NESTED = 20_000


def valid_inferences(path: str, files: Sequence[bytes]) -> Iterator[FuzzRequest]:
    """Yield each file as a raw tensor and as Base64: one of them at least should be accepted."""
    for file in files:
        for is_raw in (True, False):
            headers, body = _encode(_envelope(file, is_raw=is_raw), file if is_raw else None)
            yield FuzzRequest(path.encode(), headers, body)


def make_inference(path: str, files: Sequence[bytes], seed: int, number: int) -> FuzzRequest:
    """Return request `number` of the campaign `seed`: the same for the same files, whatever was sent before."""
    rng = random.Random(f"{seed} {number}")
    picture = spoil(rng, files) if rng.random() < 0.5 else Spoilt("as it is", rng.choice(files))  # noqa: PLR2004 half
    is_raw = rng.random() < 0.5  # noqa: PLR2004 half
    envelope = _envelope(picture.data, is_raw=is_raw)
    done = [picture.was_done, "raw" if is_raw else "Base64"]
    if rng.random() < 0.6:  # noqa: PLR2004 more than half
        done.append(_change(rng, envelope))
    headers, body = _encode(envelope, picture.data if is_raw else None)
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


def _envelope(file: bytes, *, is_raw: bool) -> dict[str, Any]:
    tensor: dict[str, Any] = {"name": _INPUT, "shape": [1], "datatype": "BYTES"}
    if is_raw:
        tensor["parameters"] = {"binary_data_size": len(file) + 4}
    else:
        tensor["data"] = [base64.b64encode(file).decode()]
    return {"inputs": [tensor]}


def _encode(envelope: dict[str, Any], file: bytes | None) -> tuple[tuple[Header, ...], bytes]:
    text = json.dumps(envelope).encode()
    if file is None:
        return (), text
    return ((_JSON_LENGTH, str(len(text)).encode()),), text + struct.pack("<I", len(file)) + file


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
