"""The workload for any server of the Open Inference Protocol v2: Triton, KServe, OVMS, MLServer, this service.

What a request has to look like comes from the server: GET /v2/models/MODEL says the name, datatype and shape of its
input. Pictures (BYTES) are JPEG files as in the shipped workload, numbers are random pixels.

    locust -f configs/stress/oip_locustfile.py --host http://127.0.0.1:8000/model --model resnet50
"""

import base64
import itertools
import json
import math
import random
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar

from locust import FastHttpUser, between, events, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.runners import MasterRunner

from loadtest.errors import BadInputError
from loadtest.load.inference_input import Input, read_input
from loadtest.load.pictures import PicturePool, read_size
from loadtest.plan.base_url import read_base_url
from loadtest.plan.target_key import key_headers
from loadtest.rows.columns import status_error

JSON_LENGTH = "Inference-Header-Content-Length"
_DISTINCT_NUMBERS = 4


class Bodies:
    """Request bodies for one model, each with other contents if `distinct`."""

    def __init__(self, model_input: Input, pool: int, *, is_binary: bool, distinct: bool) -> None:
        self._input = model_input
        self._is_binary = is_binary
        self._distinct = distinct
        self._pictures = PicturePool(pool, distinct=distinct) if model_input.datatype == "BYTES" else None
        numbers = math.prod(model_input.shape)
        # One tensor for each request of the pool: to draw new pixels costs more than to send them.
        self._pixels = itertools.cycle([] if self._pictures else [random.randbytes(numbers) for _ in range(pool)])
        self._number = itertools.count()

    def next_body(self) -> tuple[bytes, dict[str, str]]:
        """Return a body and its headers."""
        head = {"name": self._input.name, "shape": self._input.shape, "datatype": self._input.datatype}
        if not self._is_binary:
            return _json({"inputs": [{**head, **self._values()}]}), {"Content-Type": "application/json"}
        raw = self._raw()
        wanted = {"binary_data_output": True}
        text = _json({"inputs": [{**head, "parameters": {"binary_data_size": len(raw)}}], "parameters": wanted})
        return text + raw, {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(text))}

    def _values(self) -> dict[str, Any]:
        if self._pictures is None:
            return {"data": list(self._next_pixels())}
        texts = [base64.b64encode(file).decode() for file in self._files()]
        return {"data": texts, "parameters": {"content_type": "base64"}}

    def _raw(self) -> bytes:
        if self._pictures is not None:
            return b"".join(struct.pack("<I", len(file)) + file for file in self._files())
        pixels = self._next_pixels()
        return struct.pack(f"<{len(pixels)}f", *pixels) if self._input.datatype == "FP32" else pixels

    def _files(self) -> Iterator[bytes]:
        assert self._pictures is not None
        for _ in range(math.prod(self._input.shape)):
            yield self._pictures.next_picture()

    def _next_pixels(self) -> bytes:
        pixels = next(self._pixels)
        if not self._distinct:
            return pixels
        return (next(self._number).to_bytes(_DISTINCT_NUMBERS, "little") + pixels[_DISTINCT_NUMBERS:])[: len(pixels)]


class InferenceClient(FastHttpUser):
    """One client that asks for inferences."""

    wait_time = between(1, 5)
    network_timeout = 60.0
    concurrency = 1
    model: ClassVar[str]
    bodies: ClassVar[Bodies]

    def __init__(self, environment: Environment) -> None:
        self.default_headers = key_headers()
        with suppress(ValueError):  # Locust says itself what is wrong with another one
            self.host = read_base_url(self.host or "")
        super().__init__(environment)

    @tag("infer")
    @task
    def infer(self) -> None:
        """Send one request to the model."""
        body, headers = self.bodies.next_body()
        path = f"/v2/models/{self.model}/infer"
        with self.client.post(
            path,
            name=f"POST {path}",
            data=body,  # type: ignore[arg-type] # bytes go out as they are
            headers=headers,
            catch_response=True,
            allow_redirects=False,
        ) as response:
            fault = find_fault(response)
            if fault is not None:
                response.failure(fault)


def find_fault(response: ResponseContextManager) -> str | None:
    """Return what is wrong with an answer, in fixed words: Locust lists each different message separately."""
    if response.status_code not in {0, 200}:
        return status_error(response.status_code)
    broken = response.request_meta["exception"]
    if broken is not None:
        return f"no whole answer: {type(broken).__name__}"
    try:
        length = _json_length(response)
        outputs = json.loads(response.content[:length])["outputs"]
        raw_bytes = sum(output.get("parameters", {}).get("binary_data_size", 0) for output in outputs)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "the answer is not that of the protocol"
    if not outputs:
        return "the answer has no outputs"
    return None if length + raw_bytes == len(response.content) else "the raw outputs are not as long as they say"


def _json_length(response: ResponseContextManager) -> int:
    told = response.headers.get(JSON_LENGTH) if response.headers is not None else None
    return len(response.content) if told is None else int(str(told))


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--model", default="resnet50", help="The model to load (default: resnet50)")
    meaning = "binary: raw tensors behind the JSON; json: for servers without that extension (default: binary)"
    parser.add_argument("--encoding", choices=("binary", "json"), default="binary", help=meaning)
    meaning = "Size of the first dimension (default: 1)"
    parser.add_argument("--pictures-per-request", type=read_size, default=1, help=meaning)
    meaning = "Size of other dimensions that the model leaves open (default: 224)"
    parser.add_argument("--side", type=read_size, default=224, help=meaning)
    meaning = "distinct: no request is sent twice, so no cache can answer; repeated: those of the pool, again and again"
    parser.add_argument("--pictures", choices=("distinct", "repeated"), default="distinct", help=meaning)
    meaning = "Pictures or tensors to make before the test (default: 32)"
    parser.add_argument("--picture-pool", type=read_size, default=32, help=meaning, include_in_web_ui=False)


@events.init.add_listener  # type: ignore[untyped-decorator]
def _refuse_login(environment: Environment, **_: object) -> None:
    if "@" in (environment.host or ""):
        raise SystemExit("--host: must have no user and password: Locust's page and reports show it")


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def _make_bodies(environment: Environment, **_: object) -> None:
    # Not at import: `--processes` forks after the import, and every process needs its own pool.
    options = environment.parsed_options
    if options is not None and not isinstance(environment.runner, MasterRunner):
        url = f"{read_base_url(environment.host or '')}/v2/models/{options.model}"
        try:
            given = read_input(url, options.pictures_per_request, options.side)
        except BadInputError as exc:
            raise SystemExit(f"--model {options.model}: {exc}") from exc
        InferenceClient.model = options.model
        InferenceClient.bodies = Bodies(
            given,
            options.picture_pool,
            is_binary=options.encoding == "binary",
            distinct=options.pictures == "distinct",
        )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
