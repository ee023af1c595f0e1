"""The classifier's HTTP API with its real engine and fitted weights, through ASGI without Ray."""

import asyncio
import copy
import hashlib
import json
import re
import time

import httpx
import numpy as np
import pytest
from PIL import Image

from serve_app.classifier.classifier import Classifier
from serve_app.classifier.fingerprint import fingerprint_model
from serve_app.classifier.images import decode_image
from serve_app.classifier.timing import Stopwatch
from serve_app.metrics import Metrics
from tests.conftest import Fitted
from tests.held_engine import held, in_two_parts
from tests.serve_app.classifier.test_images import encode, smooth


def stages_ms(response: httpx.Response) -> dict[str, float]:
    return {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"])}


def assert_error(response: httpx.Response, status: int, code: str, *words: str) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"code", "detail", "request_id"}
    assert body["code"] == code
    assert body["request_id"]
    for word in words:
        assert word in body["detail"]


async def test_known_pictures_come_back_with_their_names_and_the_scores_of_the_bare_keras_model(
    model_client: httpx.AsyncClient, fitted: Fitted
) -> None:
    """Swapped channels, wrong scaling or mixed-up rows would give other names: half the pictures are colour twins."""

    async def ask(label: str, data: bytes, row: np.ndarray) -> None:
        for response in (
            await model_client.post("/predict", files={"file": data}),
            await model_client.post("/predict?top_k=10", content=data),
        ):
            answer = response.json()
            assert answer["prediction"] == label == answer["predictions"][0]["label"]
            assert answer["score"] == answer["predictions"][0]["score"] > 0.9
            assert answer["image_sha256"] == hashlib.sha256(data).hexdigest()
            for found in answer["predictions"]:
                assert found["score"] == pytest.approx(row[found["class_id"]], abs=5e-3)

    known = zip(fitted.pictures.items(), fitted.expected, strict=True)
    await asyncio.gather(*(ask(label, data, row) for (label, data), row in known))


async def test_an_answer_has_the_documented_shape(model_client: httpx.AsyncClient, fitted: Fitted) -> None:
    response = await model_client.post("/predict", files={"file": fitted.pictures["thing 7"]})
    answer = response.json()
    assert list(answer) == ["prediction", "score", "predictions", "model", "image_sha256", "cached"]
    assert len(answer["predictions"]) == 5
    scores = [found["score"] for found in answer["predictions"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["predictions"][0] == {"label": "thing 7", "class_id": 7, "score": answer["score"]}
    assert answer["model"] == {
        "name": "resnet50",
        "engine": "tensorflow",
        "precision": "float32",
        "weights": "fitted.weights.h5",
    }


async def test_labels_are_the_names_of_all_classes_by_their_index(
    model_client: httpx.AsyncClient, fitted: Fitted
) -> None:
    answer = await model_client.get("/labels")
    assert answer.status_code == 200
    assert answer.json() == {"labels": json.loads(fitted.labels.read_text())}
    described = (await model_client.get("/openapi.json")).json()["paths"]["/labels"]["get"]
    assert described["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/ModelLabels"
    }


@pytest.mark.parametrize("top_k", [1, 10])
async def test_top_k_is_how_many_classes_come_back(model_client: httpx.AsyncClient, fitted: Fitted, top_k: int) -> None:
    response = await model_client.post(f"/predict?top_k={top_k}", content=fitted.pictures["thing 7"])
    assert len(response.json()["predictions"]) == top_k


@pytest.mark.parametrize("top_k", ["0", "11", "-1", "x", "", "1.5", "9" * 40])
async def test_another_top_k_is_refused_by_name(model_client: httpx.AsyncClient, fitted: Fitted, top_k: str) -> None:
    response = await model_client.post(f"/predict?top_k={top_k}", content=fitted.pictures["thing 7"])
    assert_error(response, 422, "invalid_parameter", "top_k")


def test_every_moment_is_charged_to_exactly_one_stage() -> None:
    before_s = time.perf_counter()
    stopwatch = Stopwatch()
    after_s = time.perf_counter()
    stopwatch.charge("upload")
    stopwatch.charge("decode", until=time.perf_counter())
    stopwatch.charge("answer", until=after_s + 1)
    assert list(stopwatch.spent_s) == ["upload", "decode", "answer"]
    assert after_s + 1 - after_s <= sum(stopwatch.spent_s.values()) + 1e-9
    assert sum(stopwatch.spent_s.values()) <= after_s + 1 - before_s + 1e-9


async def test_server_timing_shows_where_a_request_waited(classifier: Classifier, fitted: Fitted) -> None:
    """What each stage must have taken, from outside; together they are not longer than the client waited."""
    data, half_sent, go_on = fitted.pictures["thing 7"], asyncio.Event(), asyncio.Event()
    async with held(classifier, Metrics()) as replica:
        began_s = time.perf_counter()
        first = asyncio.create_task(replica.client.post("/predict", content=data))
        await replica.engine.begun()
        second = asyncio.create_task(replica.client.post("/predict", content=in_two_parts(data, half_sent, go_on)))
        await half_sent.wait()
        upload_s = await pause()
        go_on.set()
        while replica.waiting == 0:  # noqa: ASYNC110 nothing tells of it
            await asyncio.sleep(0.005)
        queue_s = await pause()
        replica.engine.release()
        spent_ms = [stages_ms(await answer) for answer in (first, second)]
        waited_ms = 1000 * (time.perf_counter() - began_s)
    for each_ms in spent_ms:
        assert list(each_ms) == ["upload", "cache", "decode", "queue", "inference", "answer"]
        assert each_ms["decode"] > 0
        assert min(each_ms.values()) >= 0
        assert sum(each_ms.values()) <= waited_ms
    assert spent_ms[0]["inference"] >= 1000 * queue_s
    assert spent_ms[1]["upload"] >= 1000 * upload_s
    assert spent_ms[1]["queue"] >= 1000 * queue_s
    assert spent_ms[1]["inference"] > 0


async def pause() -> float:
    """Let some time pass and return how much it was, seconds."""
    began_s = time.perf_counter()
    await asyncio.sleep(0.05)
    return time.perf_counter() - began_s


async def test_one_bad_picture_among_eight_fails_alone(model_client: httpx.AsyncClient, fitted: Fitted) -> None:
    pictures = fitted.pictures
    bad = pictures["thing 433"][:2000]
    responses = await asyncio.gather(
        *(
            model_client.post("/predict", content=bad if name == "thing 433" else data)
            for name, data in pictures.items()
        )
    )
    for name, response in zip(pictures, responses, strict=True):
        if name == "thing 433":
            assert_error(response, 400, "unreadable_image", "JPEG", "truncated")
        else:
            assert response.json()["prediction"] == name


BAD_UPLOADS = {
    "nothing": ({"content": b""}, 400, "malformed_upload", "empty"),
    "an empty file": ({"files": {"file": b""}}, 400, "malformed_upload", "empty"),
    "another field": ({"files": {"image": b"x"}}, 400, "malformed_upload", "`file`"),
    "text in the field": ({"files": {"a": (None, "b")}, "data": {"file": "hello"}}, 400, "malformed_upload", "`file`"),
    "two files": ({"files": [("file", b"x"), ("file", b"y")]}, 400, "malformed_upload", "Too many files"),
    "no boundary": (
        {"content": b"--x", "headers": {"content-type": "multipart/form-data"}},
        400, "malformed_upload", "boundary",
    ),
    "another boundary": (
        {"content": b"--x\r\n\r\n", "headers": {"content-type": "multipart/form-data; boundary=y"}},
        400, "malformed_upload", "multipart",
    ),
    "text": ({"content": b"hello"}, 415, "unsupported_image", "JPEG, PNG"),
    "a lying type": (
        {"content": b"%PDF-1.7", "headers": {"content-type": "image/jpeg"}},
        415, "unsupported_image", "JPEG, PNG",
    ),
    "too many bytes": ({"content": b"x" * 2_000_001}, 413, "upload_too_large", "2,000,000"),
    "too many bytes in a form": ({"files": {"file": b"x" * 2_000_001}}, 413, "upload_too_large", "2,000,000"),
    "too many pixels": (
        {"content": encode(Image.new("L", (1001, 1000)), "PNG")},
        413, "image_too_large", "1001×1000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_UPLOADS)
async def test_a_bad_upload_is_a_clear_4xx(model_client: httpx.AsyncClient, name: str) -> None:
    request, status, code, word = BAD_UPLOADS[name]
    assert_error(await model_client.post("/predict", **request), status, code, word)  # type: ignore[arg-type]


async def test_the_body_is_taken_for_what_it_is_whatever_its_type_says(
    model_client: httpx.AsyncClient, fitted: Fitted
) -> None:
    for content_type in ("image/png", "application/x-www-form-urlencoded", "text/plain", "nonsense"):
        response = await model_client.post(
            "/predict", content=fitted.pictures["thing 7"], headers={"content-type": content_type}
        )
        assert response.json()["prediction"] == "thing 7"


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
async def test_every_listed_format_is_classified(model_client: httpx.AsyncClient, image_format: str) -> None:
    response = await model_client.post("/predict", files={"file": encode(smooth(300, 300), image_format)})
    assert response.status_code == 200
    assert image_format in (await model_client.get("/")).json()["formats"]


async def test_a_wrong_path_or_method_has_the_error_shape(model_client: httpx.AsyncClient) -> None:
    assert_error(await model_client.get("/nothing"), 404, "not_found", "/model/nothing")
    response = await model_client.get("/predict")
    assert_error(response, 405, "method_not_allowed", "GET")
    assert response.headers["allow"] == "POST"


async def test_the_clients_request_id_is_in_the_error(model_client: httpx.AsyncClient) -> None:
    response = await model_client.post("/predict", headers={"x-request-id": "abc-123"})
    assert response.json()["request_id"] == "abc-123"


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_unless_the_config_says_otherwise(classifier: Classifier) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), "JPEG")
    decoded = {}
    for is_reduced in (True, False):
        changed = copy.copy(classifier)
        changed.settings = classifier.settings.model_copy(
            update={"reduced_decoding": is_reduced, "max_pixels": 2_000_000}
        )
        decoded[is_reduced] = changed._decode_and_hash(data).picture
        assert (decoded[is_reduced] == decode_image(data, 2_000_000, draft=is_reduced)).all()
    assert (decoded[True] != decoded[False]).any()


async def test_what_is_served_is_told(model_client: httpx.AsyncClient, classifier: Classifier, fitted: Fitted) -> None:
    info = (await model_client.get("/")).json()
    assert info["weights"] == "fitted.weights.h5"
    assert (info["device"], info["tf32"]) == ("cpu", False)
    assert info["fingerprint"] == fingerprint_model(classifier.settings, classifier.prepared)
    assert info["weights_sha256"] == hashlib.sha256(fitted.weights.read_bytes()).hexdigest()
    assert info["labels"] == "labels.json"
    assert info["classes"] == 1000
    assert info["max_pixels"] == 10**6


async def test_a_warm_replica_is_ready(model_client: httpx.AsyncClient) -> None:
    assert (await model_client.get("/ready")).json() == {"ready": True}


async def test_the_documentation_needs_no_internet(model_client: httpx.AsyncClient) -> None:
    for page in ("/docs", "/redoc"):
        html = (await model_client.get(page)).text
        sources = re.findall(r'(?:src|href)="([^"]+)"', html)
        assert sources
        for source in sources:
            assert source.startswith("/model/")
            assert (await model_client.get(source.removeprefix("/model"))).status_code == 200


async def test_openapi_documents_both_uploads_and_every_error(model_client: httpx.AsyncClient) -> None:
    predict = (await model_client.get("/openapi.json")).json()["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    assert set(predict["responses"]) == {"200", "400", "408", "413", "415", "422", "500", "503", "504"}
    for status, response in predict["responses"].items():
        schema = response["content"]["application/json"]["schema"]["$ref"]
        assert schema.endswith("Prediction" if status == "200" else "ErrorBody")
    assert "Server-Timing" in predict["responses"]["200"]["headers"]
