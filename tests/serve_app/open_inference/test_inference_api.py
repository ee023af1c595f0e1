"""The protocol over HTTP, through ASGI without Ray: what foreign clients sent, limits, places in the queue, errors."""

import asyncio
import base64
import io
import json
import re
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serve_app.classifier.classifier import Classifier
from serve_app.metrics import Metrics
from serve_app.shares import EVERYONE, Account
from serve_app.uploads import UploadBudget
from tests.conftest import Fitted
from tests.held_engine import held
from tests.hostile import encode
from tests.patience import until
from tests.serve_app.classifier.test_images import smooth

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.http"))
LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/resnet50/infer"
DECODED_BYTES = 3_000_000
"""What decoding takes beside the uploads: one picture of 600 × 600 and the network's inputs."""

OWN_ANSWERS: dict[bytes, list[dict[str, Any]]] = {}
"""What the service answers to a picture at `/predict`: asked for once."""


def body_of(data: list[bytes], **more: Any) -> dict[str, Any]:
    texts = [base64.b64encode(file).decode() for file in data]
    tensor = {"name": "pictures", "shape": [len(data)], "datatype": "BYTES", "data": texts}
    return {"inputs": [tensor], **more}


def outputs(response: httpx.Response) -> dict[str, np.ndarray]:
    """Return the outputs of an answer as arrays, wherever they stand."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    told, raw = json.loads(response.content[:length]), response.content[length:]
    found = {}
    for output in told["outputs"]:
        if "data" in output:
            flat: Any = output["data"]
        else:
            size = output["parameters"]["binary_data_size"]
            flat, raw = read_raw(output["datatype"], raw[:size]), raw[size:]
        found[output["name"]] = np.array(flat).reshape(output["shape"])
    assert not raw
    return found


def read_raw(datatype: str, raw: bytes) -> Any:
    if datatype != "BYTES":
        return np.frombuffer(raw, {"INT32": "<i4", "FP32": "<f4"}[datatype])
    texts = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        texts.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return texts


async def expect_as_predict(client: httpx.AsyncClient, found: dict[str, np.ndarray], row: int, picture: bytes) -> None:
    """Check one row of an answer against that of the service's own API, which is asked about a picture once."""
    if picture not in OWN_ANSWERS:
        OWN_ANSWERS[picture] = (await client.post("/predict?top_k=10", content=picture)).json()["predictions"]
    own = OWN_ANSWERS[picture][: len(found["labels"][row])]
    assert [each["label"] for each in own] == found["labels"][row].tolist()
    assert [each["class_id"] for each in own] == found["class_ids"][row].tolist()
    assert found["probabilities"][row] == pytest.approx([each["score"] for each in own], abs=1e-6)


def assert_refused(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    for word in words:
        assert word in response.json()["error"]


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
async def test_what_foreign_clients_sent_is_answered_as_predict_does(client: httpx.AsyncClient, file: Path) -> None:
    head, _, body = file.read_bytes().partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields if not field.lower().startswith(("host", "content-length")))
    path = line.split()[1].removeprefix("/model").replace("mobilenet_v3_small", "resnet50")
    response = await client.post(path, content=body, headers=headers)
    if file.stem in ("triton_7", "kserve_8"):  # those that were to be refused
        assert 400 <= response.status_code < 500
        assert list(response.json()) == ["error"]
        return
    found = outputs(response)
    for row in range(len(found["labels"])):
        await expect_as_predict(client, found, row, encode(smooth(16, 12), "PNG"))


async def test_several_pictures_are_answered_in_their_order(client: httpx.AsyncClient, fitted: Fitted) -> None:
    found = outputs(await client.post(INFER, json=body_of(list(fitted.pictures.values()))))
    assert found["labels"][:, 0].tolist() == list(fitted.pictures)
    expected = np.take_along_axis(fitted.expected, found["class_ids"], axis=1)
    assert found["probabilities"] == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize(("datatype", "kind"), [("UINT8", "u1"), ("FP32", "<f4")])
async def test_pixels_are_answered_as_their_picture(
    client: httpx.AsyncClient, fitted: Fitted, datatype: str, kind: str
) -> None:
    file = fitted.pictures["thing 7"]
    pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))[None]
    raw = pixels.astype(kind).tobytes()
    tensor = {"name": "pixels", "shape": pixels.shape, "datatype": datatype}
    text = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    headers = {LENGTH: str(len(text))}
    path = f"/v2/models/resnet50_{datatype.lower()}/versions/1/infer"
    found = outputs(await client.post(path, content=text + raw, headers=headers))
    await expect_as_predict(client, found, 0, encode(Image.fromarray(pixels[0]), "PNG"))


async def test_an_answer_has_what_was_asked_for(client: httpx.AsyncClient, fitted: Fitted) -> None:
    wanted = [{"name": "labels"}, {"name": "probabilities", "parameters": {"binary_data": True}}]
    body = body_of([fitted.pictures["thing 7"]], id="seven", outputs=wanted, parameters={"top_k": 2})
    response = await client.post(INFER, json=body)
    told = json.loads(response.content[: int(response.headers[LENGTH])])
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", "resnet50", "1")
    assert told["parameters"]["weights"] == "fitted.weights.h5"
    labels, probabilities = told["outputs"]
    assert labels["data"][0] == "thing 7"
    assert (labels["shape"], probabilities["shape"]) == ([1, 2], [1, 2])
    assert probabilities["parameters"] == {"binary_data_size": 8}
    assert "inference;dur=" in response.headers["server-timing"]


async def test_what_is_there_is_told(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v2")).json()["extensions"][0] == "binary_tensor_data"
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    names = (await client.get("/v2/models")).json()["models"]
    assert names == ["resnet50", "resnet50_uint8", "resnet50_fp32"]
    assert [entry["name"] for entry in (await client.post("/v2/repository/index")).json()] == names
    for name in names:
        for path in (f"/v2/models/{name}", f"/v2/models/{name}/versions/1"):
            assert (await client.get(path)).json()["versions"] == ["1"]
            assert (await client.get(f"{path}/ready")).json() == {"name": name, "ready": True}
            config = (await client.get(f"{path}/config")).json()
            assert config["max_batch_size"] == 64
            assert config["input"][0]["name"] == (await client.get(path)).json()["inputs"][0]["name"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/resnet5", 404),
        ("GET", "/v2/models/resnet50/versions/2", 404),
        ("POST", "/v2/models/nothing/infer", 404),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2?x=1", 422),
        ("GET", INFER, 405),
    ],
)
async def test_errors_have_the_protocols_shape(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    assert_refused(await client.request(method, path), status)


async def test_other_errors_keep_theirs(client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/v22", "/x/v2"):
        assert set((await client.get(path)).json()) == {"code", "detail", "request_id"}


TENSOR = {"name": "pictures", "shape": [1], "datatype": "BYTES"}


def one(**changes: Any) -> bytes:
    """Return a request of one tensor with changes."""
    return json.dumps({"inputs": [{**TENSOR, **changes}]}).encode()


def nested(depth: int) -> bytes:
    return b'{"inputs": ' + b"[" * depth + b"]" * depth + b"}"


HOSTILE: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", {}, 400, "JSON"),
    "no JSON": (b"\xff\xd8\xff\xe0", {}, 400, "JSON"),
    "a list": (b"[]", {}, 400, "the body"),
    "no inputs": (b"{}", {}, 400, "inputs"),
    "nested without end": (nested(100_000), {}, 400, "recursion"),
    "open brackets": (b"[" * 500_000, {}, 400, "recursion"),
    "two million values": (b'{"inputs": [' + b"[]," * 1_000_000 + b"[]]}", {}, 413, "1,000,000"),
    "NaN in JSON": (b'{"inputs": [{"name": "pictures", "shape": [NaN], "datatype": "BYTES"}]}', {}, 400, "shape"),
    "another datatype": (one(datatype="FP64", data=[]), {}, 400, "BYTES"),
    "another name": (one(name="x", data=[]), {}, 400, "pictures"),
    "two inputs": (json.dumps({"inputs": [{**TENSOR, "data": ["AAAA"]}] * 2}).encode(), {}, 400, "one input"),
    "a negative shape": (one(shape=[-1], data=[]), {}, 400, "shape"),
    "a billion pictures": (one(shape=[10**9], data=[]), {}, 413, "64"),
    "65 pictures": (json.dumps(body_of([b"a"] * 65)).encode(), {}, 413, "64"),
    "no data": (json.dumps({"inputs": [TENSOR]}).encode(), {}, 400, "neither"),
    "a length that is no number": (b"{}", {LENGTH: "x"}, 400, LENGTH),
    "a negative length": (b"{}", {LENGTH: "-1"}, 400, LENGTH),
    "a length beyond the body": (b"{}", {LENGTH: "3"}, 400, LENGTH),
    "a length of many digits": (b"{}", {LENGTH: "9" * 400}, 400, LENGTH),
    "a tensor larger than the body": (
        one(parameters={"binary_data_size": 10**9}), {}, 400, "binary_data_size",
    ),
    "a negative tensor": (
        one(parameters={"binary_data_size": -1}), {}, 400, "binary_data_size",
    ),
    "both kinds of data": (
        one(data=["AAAA"], parameters={"binary_data_size": 0}),
        {}, 400, "both",
    ),
    "bytes that belong to nothing": (json.dumps(body_of([b"a"])).encode() + b"rest", {LENGTH: "90"}, 400, "belong"),
    "an unknown output": (json.dumps(body_of([b"a"], outputs=[{"name": "x"}])).encode(), {}, 400, "labels"),
    "top_k 11": (json.dumps(body_of([b"a"], parameters={"top_k": 11})).encode(), {}, 400, "top_k"),
    "top_k true": (json.dumps(body_of([b"a"], parameters={"top_k": True})).encode(), {}, 400, "top_k"),
    "a timeout of text": (json.dumps(body_of([b"a"], parameters={"timeout": "soon"})).encode(), {}, 400, "timeout"),
    "a timeout of 400 digits": (
        json.dumps(body_of([b"a"], parameters={"timeout": 10**399})).encode(), {}, 400, "timeout",
    ),
    "another content type": (
        one(data=["a"], parameters={"content_type": "np"}), {}, 400, "base64",
    ),
    "no picture": (json.dumps(body_of([b"hello"])).encode(), {}, 415, "JPEG"),
    "compressed": (b"\x1f\x8b" + bytes(100), {"content-encoding": "gzip"}, 415, "gzip"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_body_is_a_clear_4xx(client: httpx.AsyncClient, name: str) -> None:
    body, headers, status, words = HOSTILE[name]
    if name == "bytes that belong to nothing":
        headers = {LENGTH: str(len(body) - 4)}
    assert_refused(await client.post(INFER, content=body, headers=headers), status, words)


async def test_one_bad_picture_is_named_by_its_place(client: httpx.AsyncClient, fitted: Fitted) -> None:
    good = fitted.pictures["thing 7"]
    assert_refused(await client.post(INFER, json=body_of([good, good[:2000], good])), 400, "picture 1", "truncated")


JSON: st.SearchStrategy[Any] = st.sampled_from(
    (None, True, -1, 10**40, 1.5, float("nan"), "x", "\ud800", [], [[]], [None, 1], {}, {"a": [1]}, {"": {}})
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(("pictures", "pixels")) | JSON,
        "shape": st.lists(st.integers(-2, 4), max_size=5) | JSON,
        "datatype": st.sampled_from(("BYTES", "UINT8", "FP32")) | JSON,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.integers(-1, 60), "content_type": JSON}
        )
        | JSON,
        "data": st.lists(st.integers(0, 256), max_size=12) | JSON,
    },
)
BODIES = st.fixed_dictionaries(
    {"inputs": st.lists(FIELDS, max_size=2) | JSON},
    optional={
        "id": JSON,
        "outputs": JSON,
        "parameters": st.dictionaries(st.sampled_from(("top_k", "timeout")), JSON) | JSON,
    },
)


@settings(max_examples=120)
@given(st.sampled_from(("", "_uint8", "_fp32")), BODIES, st.binary(max_size=60), st.none() | st.integers(-1, 300))
async def test_no_body_at_all_is_ever_our_fault(
    client: httpx.AsyncClient, model: str, body: Any, raw: bytes, length: int | None
) -> None:
    text = json.dumps(body).encode()
    headers = {} if length is None else {LENGTH: str(length if length % 7 else len(text))}
    response = await client.post(f"/v2/models/resnet50{model}/infer", content=text + raw, headers=headers)
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    if response.status_code != 200:
        assert list(response.json()) == ["error"]


class Counted(Metrics):
    """Counts what is told."""

    def __init__(self) -> None:
        self.queued: list[float] = []

    def set(self, _gauge: Any, value: float, _label_value: str = "") -> None:
        self.queued.append(value)


def request_of(tensor: dict[str, Any], raw: bytes) -> tuple[bytes, dict[str, str]]:
    """Return the body of a request with one tensor, raw if there are bytes of it, and its headers."""
    parameters = {"parameters": {"binary_data_size": len(raw)}} if raw else {}
    text = json.dumps({"inputs": [{**tensor, **parameters}]}, separators=(",", ":")).encode()
    return text + raw, {LENGTH: str(len(text))} if raw else {}


def large_requests() -> dict[str, tuple[str, bytes, dict[str, str]]]:
    """Return model, body and headers of requests of several megabytes, one for each form that a tensor has."""
    rng, side = np.random.default_rng(0), 600
    file = rng.bytes(1_500_000)
    text = base64.b64encode(file).decode()
    element = len(file).to_bytes(4, "little") + file
    uint8 = rng.integers(0, 256, (4, side, side, 3), np.uint8)
    pictures, pixels = {"name": "pictures", "datatype": "BYTES"}, {"name": "pixels"}
    listed = {"shape": [1, 200, 200, 3], "data": rng.uniform(0, 255, (1, 200, 200, 3)).tolist()}
    return {
        "Base64": ("resnet50", *request_of({**pictures, "shape": [4], "data": [text] * 4}, b"")),
        "raw files": ("resnet50", *request_of({**pictures, "shape": [4]}, element * 4)),
        "UINT8": (
            "resnet50_uint8",
            *request_of({**pixels, "datatype": "UINT8", "shape": list(uint8.shape)}, uint8.tobytes()),
        ),
        "FP32": (
            "resnet50_fp32",
            *request_of({**pixels, "datatype": "FP32", "shape": list(uint8.shape)}, uint8.astype("<f4").tobytes()),
        ),
        "numbers in JSON": ("resnet50_fp32", *request_of({**pixels, "datatype": "FP32", **listed}, b"")),
    }


LARGE = large_requests()


@pytest.mark.parametrize("form", LARGE)
async def test_what_a_large_request_takes_in_memory_is_accounted_for(
    form: str, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what Python and NumPy allocate; a tenth is left for what has no size of its own, such as a growing buffer."""
    model, body, headers = LARGE[form]
    most_bytes, hold = 0, UploadBudget.hold

    def note(budget: UploadBudget, count: int, account: Account = EVERYONE, *, is_first: bool = False) -> None:
        nonlocal most_bytes
        hold(budget, count, account, is_first=is_first)
        most_bytes = max(most_bytes, budget._held_bytes)

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 65_536):
            yield body[at : at + 65_536]

    async with held(classifier, Metrics(), max_upload_bytes=10**7) as replica:
        monkeypatch.setattr(UploadBudget, "hold", note)
        replica.engine.release()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            response = await replica.client.post(f"/v2/models/{model}/infer", content=chunks(), headers=headers)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert response.status_code == (200 if "pixels" in body[:100].decode(errors="replace") else 415), response.text
    assert most_bytes >= len(body)
    assert peak - before <= 1.1 * most_bytes + DECODED_BYTES
    assert replica.classifier.admission.uploads._held_bytes == 0


@pytest.mark.parametrize("form", ["Base64", "FP32"])
async def test_one_picture_of_the_largest_size_is_taken_in_each_form_where_a_request_may_have_one(
    form: str, classifier: Classifier
) -> None:
    """Both are more than a megabyte larger than the file itself."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1100, 1100, 3), np.uint8)
    file = encode(Image.fromarray(pixels[0]), "BMP")
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape)}
    model, body, headers = {
        "Base64": ("resnet50", json.dumps(body_of([file])).encode(), {}),
        "FP32": ("resnet50_fp32", *request_of(tensor, pixels.astype("<f4").tobytes())),
    }[form]
    limits = {"max_request_pictures": 1, "max_upload_bytes": len(file), "max_pixels": 1100 * 1100}
    async with held(classifier, Metrics(), **limits) as replica:
        replica.engine.release()
        response = await replica.client.post(f"/v2/models/{model}/infer", content=body, headers=headers)
    assert response.status_code == 200, response.text


async def test_a_request_larger_than_half_of_the_memory_gets_413(classifier: Classifier) -> None:
    async with held(classifier, Metrics(), max_upload_bytes=10**6, max_held_bytes=3 * 10**6) as replica:
        refused = await replica.client.post(INFER, content=bytes(1_500_001))
        assert_refused(refused, 413, "larger than 1,500,000 bytes")


async def test_a_request_that_alone_takes_more_memory_than_there_is_gets_413_and_needs_no_retry(
    classifier: Classifier,
) -> None:
    async with held(classifier, Metrics(), max_upload_bytes=10**6, max_held_bytes=3 * 10**6) as replica:
        refused = await replica.client.post(INFER, json=body_of([bytes(800_000)]))
        assert_refused(refused, 413, "more than the 3,000,000 of max_held_bytes", "the binary extension")
        assert replica.classifier.admission.uploads._held_bytes == 0
        smaller = await replica.client.post(INFER, json=body_of([bytes(700_000)]))
        assert_refused(smaller, 415)


async def test_each_picture_of_a_request_has_a_place_in_the_queue(classifier: Classifier, fitted: Fitted) -> None:
    picture, metrics = fitted.pictures["thing 7"], Counted()
    async with held(classifier, metrics, max_queue=5) as replica:
        three = asyncio.create_task(replica.client.post(INFER, json=body_of([picture] * 3)))
        await replica.engine.begun()
        assert max(metrics.queued) == 3
        refused = await replica.client.post(INFER, json=body_of([picture] * 3))
        assert_refused(refused, 503, "3 pictures")
        assert int(refused.headers["Retry-After"]) >= 1
        two = asyncio.create_task(replica.client.post(INFER, json=body_of([picture] * 2)))
        await until(lambda: metrics.queued[-1] == 5, "five places")
        assert (await replica.client.post("/predict", content=picture)).status_code == 503
        replica.engine.release()
        assert [(await request).status_code for request in (three, two)] == [200, 200]
        assert metrics.queued[-1] == 0
        assert replica.engine.pictures == 5
        too_many = await replica.client.post(INFER, json=body_of([picture] * 6))
        assert_refused(too_many, 413, "one request may have 5")


async def test_equal_pictures_of_a_request_share_one_computation_within_its_places(
    classifier: Classifier, fitted: Fitted
) -> None:
    same, another = (fitted.pictures[name] for name in ("thing 7", "thing 999"))
    async with held(classifier, Metrics(), max_queue=8, cache={"store": "memory"}) as replica:
        five = asyncio.create_task(replica.client.post(INFER, json=body_of([same] * 5)))
        await replica.engine.begun()
        three = asyncio.create_task(replica.client.post(INFER, json=body_of([another] * 3)))
        await until(lambda: replica.waiting == 1, "the other picture in the queue")
        assert (await replica.client.post("/predict", content=same)).status_code == 503
        replica.engine.release()
        assert [(await request).status_code for request in (five, three)] == [200, 200]
        assert replica.engine.pictures == 2
        assert (await replica.client.post(INFER, json=body_of([same] * 8))).status_code == 200


async def test_a_request_whose_last_picture_would_wait_too_long_is_refused(
    classifier: Classifier, fitted: Fitted
) -> None:
    picture = fitted.pictures["thing 7"]
    async with held(classifier, Metrics(), picture_s=1, max_wait_s=3) as replica:
        first = asyncio.create_task(replica.client.post(INFER, json=body_of([picture])))
        await replica.engine.begun()
        assert_refused(await replica.client.post(INFER, json=body_of([picture] * 4)), 503, "4 pictures")
        replica.engine.release()
        assert (await first).status_code == 200


@pytest.mark.parametrize("how", ["header", "parameter"])
async def test_a_clients_time_limit_is_kept(classifier: Classifier, fitted: Fitted, how: str) -> None:
    body = body_of([fitted.pictures["thing 7"]], parameters={"timeout": 50_000} if how == "parameter" else {})
    headers = {"X-Deadline-Ms": "50"} if how == "header" else {}
    async with held(classifier, Metrics(), picture_s=0.001) as replica:
        assert_refused(await replica.client.post(INFER, json=body, headers=headers), 504, "0.05 s")


async def test_openapi_tells_of_the_protocol(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]
    named = [parameter for parameter in infer["parameters"] if parameter["name"] == "model"]
    assert named[0]["schema"]["enum"] == ["resnet50", "resnet50_uint8", "resnet50_fp32"]
    assert set(infer["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
    assert set(infer["responses"]) == {"200", "400", "404", "408", "413", "415", "422", "500", "503", "504"}
    for status, response in infer["responses"].items():
        if status != "200":
            assert response["content"]["application/json"]["schema"]["$ref"].endswith("/InferenceError")
    assert not re.search(r"\$defs", json.dumps(document))
