"""The protocol over gRPC, on a real gRPC server without Ray: Serve's ingress hands requests on as this one does."""

import asyncio
import json
import pickle
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serve_app.classifier.classifier import Classifier
from serve_app.entrance.guard import Guard
from serve_app.entrance.keys import ApiKeys, KeySource
from serve_app.entrance.under_way import VARIABLE, UnderWay, count_under_way, tell_stopping
from serve_app.metrics import Metrics
from serve_app.open_inference.grpc_messages import METHODS, SERVICE, message_class
from serve_app.open_inference.grpc_service import OPEN_METHODS, GrpcInference, add_inference_service
from serve_app.open_inference.inference import Inference
from tests.conftest import Fitted
from tests.counted import Counted
from tests.held_engine import held
from tests.patience import until
from tests.serve_app.open_inference.test_tensors import raw

KEY = "a-key-of-these-tests"


class Servicer:
    """Hands each method to the answers of a replica."""

    def __init__(self, inference: GrpcInference) -> None:
        for name in METHODS:
            setattr(self, name, self._method(inference, name))

    def _method(self, inference: GrpcInference, name: str) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            return await inference.answer(name, request, context)

        return answer


class Client:
    """Calls the methods by their names."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def ask(
        self, method: str, *, key: str = KEY, metadata: tuple[tuple[str, str], ...] = (), **fields: Any
    ) -> Any:
        request = message_class(f"{method}Request")(**fields)
        return await self.send(method, request.SerializeToString(), key=key, metadata=metadata)

    async def send(
        self, method: str, request: bytes, *, key: str = KEY, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Any:
        """Send bytes for a message."""
        call = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            response_deserializer=message_class(f"{method}Response").FromString,
        )
        return await call(request, metadata=(("x-api-key", key), *metadata))

    async def refused(self, method: str, request: bytes | None = None, **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (self.ask(method, **fields) if request is None else self.send(method, request, **fields))
        return caught.value


@pytest.fixture(scope="module")
async def client(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    guard = Guard(ApiKeys(KeySource(keys_file=str(keys))))
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    add_inference_service(Servicer(GrpcInference(Inference(classifier), guard, UnderWay())), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Client(channel)
    await server.stop(None)


def pictures(*files: bytes, **more: Any) -> dict[str, Any]:
    tensor = {"name": "pictures", "datatype": "BYTES", "shape": [len(files)]}
    return {"model_name": "resnet50", "inputs": [tensor], "raw_input_contents": [raw(*files)], **more}


async def test_pictures_are_answered_in_their_order(client: Client, fitted: Fitted) -> None:
    parameters = {"top_k": message_class("InferParameter")(int64_param=1)}
    answer = await client.ask("ModelInfer", **pictures(*fitted.pictures.values(), id="seven", parameters=parameters))
    assert (answer.model_name, answer.model_version, answer.id) == ("resnet50", "1", "seven")
    assert answer.parameters["weights"].string_param == "fitted.weights.h5"
    assert [(output.name, output.datatype) for output in answer.outputs] == [
        ("labels", "BYTES"), ("class_ids", "INT32"), ("probabilities", "FP32"),
    ]  # fmt: skip
    assert answer.raw_output_contents[0] == raw(*(label.encode() for label in fitted.pictures))
    scores = np.frombuffer(answer.raw_output_contents[2], "<f4")
    assert scores == pytest.approx(fitted.expected.max(axis=1), abs=5e-3)


async def test_typed_contents_are_answered_in_kind(client: Client, fitted: Fitted) -> None:
    tensor = {
        "name": "pictures",
        "datatype": "BYTES",
        "shape": [1],
        "contents": {"bytes_contents": [fitted.pictures["thing 7"]]},
    }
    answer = await client.ask("ModelInfer", model_name="resnet50", inputs=[tensor], outputs=[{"name": "labels"}])
    assert not answer.raw_output_contents
    assert answer.outputs[0].contents.bytes_contents[0] == b"thing 7"
    grey = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "contents": {"uint_contents": [9, 9, 9]}}
    answer = await client.ask("ModelInfer", model_name="resnet50_uint8", inputs=[grey])
    assert len(answer.outputs[2].contents.fp32_contents) == 5


async def test_what_is_there_is_told(client: Client) -> None:
    assert (await client.ask("ServerLive", key="")).live
    assert (await client.ask("ServerReady", key="")).ready
    assert (await client.ask("ModelReady", name="resnet50")).ready
    assert "binary_tensor_data" in (await client.ask("ServerMetadata")).extensions
    metadata = await client.ask("ModelMetadata", name="resnet50_fp32", version="1")
    assert (metadata.inputs[0].name, metadata.inputs[0].datatype, list(metadata.inputs[0].shape)) == (
        "pixels", "FP32", [-1, -1, -1, 3],
    )  # fmt: skip
    config = (await client.ask("ModelConfig", name="resnet50")).config
    assert (config.max_batch_size, config.input[0].name, config.HasField("dynamic_batching")) == (64, "pictures", True)
    index = await client.ask("RepositoryIndex")
    assert [model.name for model in index.models] == ["resnet50", "resnet50_uint8", "resnet50_fp32"]


@pytest.mark.parametrize(
    "method", [name for name in METHODS if not name.startswith("ServerL") and name != "ServerReady"]
)
async def test_without_a_key_nothing_is_told(client: Client, method: str) -> None:
    for key in ("", KEY[:-1], KEY.upper()):
        refused = await client.refused(method, key=key)
        assert refused.code() == grpc.StatusCode.UNAUTHENTICATED
        assert "API key" in (refused.details() or "")


TENSOR = {"name": "pictures", "datatype": "BYTES", "shape": [1]}
PIXELS = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3]}
HOSTILE: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "no model": ({}, grpc.StatusCode.NOT_FOUND, "no model"),
    "no input": ({"model_name": "resnet50"}, grpc.StatusCode.INVALID_ARGUMENT, "one input"),
    "no contents": ({"model_name": "resnet50", "inputs": [TENSOR]}, grpc.StatusCode.INVALID_ARGUMENT, "0 elements"),
    "a length that lies": (
        {"model_name": "resnet50", "inputs": [TENSOR], "raw_input_contents": [b"\xff\xff\xff\xffx"]},
        grpc.StatusCode.INVALID_ARGUMENT, "leads beyond",
    ),
    "more raw contents than inputs": (
        {"model_name": "resnet50", "inputs": [TENSOR], "raw_input_contents": [b"", b""]},
        grpc.StatusCode.INVALID_ARGUMENT, "2 tensors",
    ),
    "a negative shape": (
        {"model_name": "resnet50", "inputs": [{**TENSOR, "shape": [-1]}]}, grpc.StatusCode.INVALID_ARGUMENT, "shape",
    ),
    "10⁹ pictures": (
        {"model_name": "resnet50", "inputs": [{**TENSOR, "shape": [10**9]}]}, grpc.StatusCode.INVALID_ARGUMENT, "64",
    ),
    "another datatype": (
        {"model_name": "resnet50", "inputs": [{**TENSOR, "datatype": "X"}]}, grpc.StatusCode.INVALID_ARGUMENT, "BYTES",
    ),
    "NaN": (
        {
            "model_name": "resnet50_fp32",
            "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 1, 1, 3]}],
            "raw_input_contents": [np.array([1, 2, np.nan], "<f4").tobytes()],
        },
        grpc.StatusCode.INVALID_ARGUMENT, "NaN",
    ),
    "a timeout of 20 digits": (
        pictures(b"", parameters={"timeout": message_class("InferParameter")(uint64_param=2**64 - 1)}),
        grpc.StatusCode.INVALID_ARGUMENT, "JPEG",
    ),
    "a deadline of 400 digits": (
        pictures(b"", metadata=(("x-deadline-ms", "1" * 400),)), grpc.StatusCode.INVALID_ARGUMENT, "milliseconds",
    ),
    "a deadline of many zeros and digits": (
        pictures(b"", metadata=(("x-deadline-ms", "000000001" + "1" * 400),)),
        grpc.StatusCode.INVALID_ARGUMENT, "milliseconds",
    ),
    "two inputs": (
        {"model_name": "resnet50", "inputs": [TENSOR] * 2}, grpc.StatusCode.INVALID_ARGUMENT, "takes one input",
    ),
    "four outputs": (
        pictures(b"", outputs=[{"name": "labels"}] * 4), grpc.StatusCode.INVALID_ARGUMENT, "names 4; there are 3",
    ),
    "a long id": (pictures(b"", id="x" * 1001), grpc.StatusCode.INVALID_ARGUMENT, "id: may have"),
    "more values than the shape": (
        {
            "model_name": "resnet50_uint8",
            "inputs": [{**PIXELS, "contents": {"uint_contents": [1] * 4}}],
        },
        grpc.StatusCode.INVALID_ARGUMENT, "rectangle",
    ),
    "a million values": (
        {
            "model_name": "resnet50_uint8",
            "inputs": [{**PIXELS, "contents": {"uint_contents": [1] * 1_000_001}}],
        },
        grpc.StatusCode.INVALID_ARGUMENT, "1,000,001 values",
    ),
    "no picture": (pictures(b"hello"), grpc.StatusCode.INVALID_ARGUMENT, "JPEG"),
    "an unknown output": (pictures(b"", outputs=[{"name": "x"}]), grpc.StatusCode.INVALID_ARGUMENT, "labels"),
    "a deadline of text": (
        pictures(b"", metadata=(("x-deadline-ms", "soon"),)), grpc.StatusCode.INVALID_ARGUMENT, "milliseconds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_request_gets_a_status_that_names_the_fault(client: Client, name: str) -> None:
    fields, code, words = HOSTILE[name]
    refused = await client.refused("ModelInfer", **fields)
    assert (refused.code(), words in (refused.details() or "")) == (code, True), refused.details()


async def test_a_client_that_cannot_wait_gets_its_status(
    client: Client, classifier: Classifier, fitted: Fitted
) -> None:
    """Its picture counts until no thread decodes it any more."""
    hurried = pictures(fitted.pictures["thing 7"], metadata=(("x-deadline-ms", "1"),))
    assert (await client.refused("ModelInfer", **hurried)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: not classifier.admission.uploads._held_bytes, "the end of the decoding")


def test_the_numbers_of_all_fields_are_the_protocols() -> None:
    """Recorded from tritonclient's generated messages; a number that differs would be another field to every client."""
    known = json.loads((Path(__file__).parent / "recorded" / "messages.json").read_text())
    for name, fields in known.items():
        descriptor = message_class(name).DESCRIPTOR
        for field in descriptor.fields:
            assert fields[field.name] == field.number, f"{name}.{field.name}"


async def test_a_service_that_is_being_stopped_takes_no_more_calls(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    answers = GrpcInference(Inference(classifier), Guard(None), UnderWay())
    assert (await answers.answer("ServerReady", b"", Told())).ready
    tell_stopping(tmp_path)
    told = Told()
    assert not (await answers.answer("ServerReady", b"", told)).ready
    assert (told.code, told.trailing) == (grpc.StatusCode.UNAVAILABLE, [("retry-after", "5")])
    assert count_under_way(tmp_path) == 0


RAW = {
    "no message": (b"\xff" * 100, "no ModelInferRequest"),
    "a length beyond the end": (b"\x2a\x7f", "no ModelInferRequest"),
    "a group": (b"\x2b\x2c", "no ModelInferRequest"),
    "half a number": (b"\x2d\x00", "no ModelInferRequest"),
    "text that is no UTF-8": (b"\x0a\x01\xff", "no ModelInferRequest"),
    "a million inputs": (b"\x2a\x00" * 1_000_000, "10,000 fields"),
    "a million parameters": (b"\x22\x00" * 1_000_000, "10,000 fields"),
    "many empty pictures": (
        message_class("ModelInferRequest")(
            inputs=[{"contents": {"bytes_contents": [b""] * 20_000}}]
        ).SerializeToString(),
        "10,000 fields",
    ),
    "ten million values and one": (
        message_class("ModelInferRequest")(
            inputs=[{"contents": {"bool_contents": [True] * 10_000_001}}]
        ).SerializeToString(),
        "1,000,000 values",
    ),
}


@pytest.mark.parametrize("name", RAW)
async def test_bytes_that_would_be_large_in_memory_are_refused_before_they_are_parsed(
    client: Client, classifier: Classifier, name: str
) -> None:
    request, words = RAW[name]
    refused = await client.refused("ModelInfer", request)
    assert (refused.code(), words in (refused.details() or "")) == (grpc.StatusCode.INVALID_ARGUMENT, True), refused
    assert classifier.admission.uploads._held_bytes == 0


async def test_without_a_key_no_message_is_parsed(client: Client) -> None:
    for method in METHODS:
        if method in OPEN_METHODS:
            assert await client.send(method, b"\xff", key="")
        else:
            assert (await client.refused(method, b"\xff", key="")).code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_message_is_accounted_for_until_its_call_ends(classifier: Classifier, fitted: Fitted) -> None:
    message = message_class("ModelInferRequest")(**pictures(fitted.pictures["thing 7"]))
    request = message.SerializeToString()
    async with held(classifier, Metrics()) as replica:
        answers = GrpcInference(Inference(replica.classifier), Guard(None), UnderWay())
        call = asyncio.create_task(answers.answer("ModelInfer", request, Told()))
        await replica.engine.begun()
        uploads = replica.classifier.admission.uploads
        assert uploads._held_bytes == len(request)
        replica.engine.release()
        assert len((await call).outputs) == 3
        assert uploads._held_bytes == 0


async def test_a_message_that_could_never_find_memory_is_refused_as_too_large(classifier: Classifier) -> None:
    async with held(classifier, Metrics(), max_upload_bytes=100_000, max_held_bytes=1_500_000) as replica:
        told = Told()
        answers = GrpcInference(Inference(replica.classifier), Guard(None), UnderWay())
        await answers.answer("ModelInfer", bytes(500_001), told)
    assert (told.code, "500,000 bytes" in told.details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_a_call_beyond_the_share_of_its_key_is_told_when_to_come_back(
    classifier: Classifier, fitted: Fitted, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(f"flood: {KEY}\nlight: {KEY}-2\n")
    guard = Guard(ApiKeys(KeySource(keys_file=str(tmp_path / "keys"))))
    message = message_class("ModelInferRequest")(**pictures(fitted.pictures["thing 7"])).SerializeToString()
    async with held(classifier, Counted(), picture_s=10, max_queue=4) as replica:
        answers = GrpcInference(Inference(replica.classifier), guard, UnderWay())

        def call(key: str) -> tuple[Told, asyncio.Task[Any]]:
            told = Told([("x-api-key", key)])
            return told, asyncio.create_task(answers.answer("ModelInfer", message, told))

        taken = [call(KEY), call(KEY), call(f"{KEY}-2"), call(f"{KEY}-2")]
        await until(lambda: replica.classifier.admission.wait_s == 40, "four places")
        full, answer = call(KEY)
        await answer
        assert (full.code, full.trailing) == (grpc.StatusCode.UNAVAILABLE, [("retry-after", "40")])
        taken.pop()[1].cancel()
        await until(lambda: replica.classifier.admission.wait_s == 30, "a place that is free again")
        refused, answer = call(KEY)
        await answer
        assert (refused.code, refused.trailing) == (grpc.StatusCode.RESOURCE_EXHAUSTED, [("retry-after", "30")])
        assert "API key flood" in refused.details
        replica.engine.release()
        assert [len((await answer).outputs) for _, answer in taken] == [3, 3, 3]


async def test_cache_control_is_read_from_the_metadata(classifier: Classifier, fitted: Fitted) -> None:
    message = message_class("ModelInferRequest")(**pictures(fitted.pictures["thing 7"]))
    async with held(classifier, Metrics(), cache={"store": "memory"}) as replica:
        replica.engine.release()
        answers = GrpcInference(Inference(replica.classifier), Guard(None), UnderWay())
        for metadata in ([], [], [("cache-control", "no-store")]):
            assert (await answers.answer("ModelInfer", message.SerializeToString(), Told(metadata))).outputs
        assert replica.engine.pictures == 2


class Told:
    """A context of a call that keeps what it is told."""

    def __init__(self, metadata: Sequence[tuple[str, str | bytes]] = ()) -> None:
        self._metadata = metadata
        self.code: grpc.StatusCode | None = None
        self.details = ""
        self.trailing: list[tuple[str, str]] = []

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [*self._metadata]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        self.trailing = trailing_metadata


def test_messages_can_be_pickled_as_serves_own_proxy_does() -> None:
    request = message_class("ModelInferRequest")(**pictures(b"x", id="seven"))
    assert pickle.loads(pickle.dumps(request)) == request
