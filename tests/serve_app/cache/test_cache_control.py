"""Cache-Control of a request: over HTTP, in the Open Inference Protocol and over gRPC."""

from collections.abc import Awaitable, Callable

import httpx
import pytest

from serve_app.classifier.classifier import Classifier
from serve_app.entrance.guard import Guard
from serve_app.entrance.under_way import UnderWay
from serve_app.metrics import CACHE_LOOKUPS
from serve_app.open_inference.grpc_messages import message_class
from serve_app.open_inference.grpc_service import GrpcInference
from serve_app.open_inference.inference import Inference
from tests.counted import Counted
from tests.hostile import encode
from tests.picture_files import four_corners
from tests.serve_app.open_inference.test_grpc_service import Told, pictures
from tests.small_classifier import client_of, small_classifier

PICTURE = encode(four_corners(), "JPEG")
Lines = list[tuple[str, str]]


async def predict(classifier: Classifier, lines: Lines) -> None:
    async with client_of(classifier) as client:
        assert (await client.post("/predict", content=PICTURE, headers=lines)).status_code == httpx.codes.OK


async def infer(classifier: Classifier, lines: Lines) -> None:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [7] * 12}
    async with client_of(classifier) as client:
        response = await client.post("/v2/models/resnet50_uint8/infer", json={"inputs": [tensor]}, headers=lines)
        assert response.status_code == httpx.codes.OK, response.text


async def call(classifier: Classifier, lines: Lines) -> None:
    message = message_class("ModelInferRequest")(**pictures(PICTURE)).SerializeToString()
    answers = GrpcInference(Inference(classifier), Guard(None), UnderWay())
    assert (await answers.answer("ModelInfer", message, Told(lines))).outputs


@pytest.mark.parametrize("ask", [predict, infer, call])
async def test_several_lines_are_one_list(ask: Callable[[Classifier, Lines], Awaitable[None]]) -> None:
    """RFC 9110, section 5.3."""
    metrics = Counted()
    async with small_classifier(metrics, cache={"store": "memory"}) as classifier:
        assert classifier._cache is not None
        for first, second in (
            ("max-age=0", "no-store"),
            ("no-store", "max-age=0"),
            ("no-cache", "max-age=0, no-store"),
        ):
            await ask(classifier, [("cache-control", first), ("cache-control", second)])
        assert metrics.of(CACHE_LOOKUPS) == {"skipped": 3}
        await ask(classifier, [])
        assert metrics.of(CACHE_LOOKUPS) == {"skipped": 3, "miss": 1}
        await ask(classifier, [("cache-control", "max-age=0"), ("cache-control", "no-cache")])
        await ask(classifier, [("cache-control", "max-age=0"), ("cache-control", "max-stale")])
        assert metrics.of(CACHE_LOOKUPS) == {"skipped": 4, "miss": 1, "hit": 1}
