"""The protocol over gRPC, by Serve's gRPC ingress: what it needs to know of the service, and the answers.

API keys are checked here, from the metadata: a replica's gRPC port binds every interface.
"""

import math
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from starlette.datastructures import Headers

from serve_app.classifier.api import DEADLINE_HEADER, MOST_DEADLINE_MS, cache_use, read_deadline_s
from serve_app.classifier.timing import Stopwatch
from serve_app.entrance.guard import Guard
from serve_app.entrance.under_way import UnderWay
from serve_app.errors import MalformedInference, ServiceError, Stopping, UploadTooLarge
from serve_app.open_inference.grpc_messages import DATA_TYPES, METHODS, SERVICE, message_class
from serve_app.open_inference.grpc_wire import parse_message, parsed_bytes
from serve_app.open_inference.inference import Answer, Inference, off_the_loop
from serve_app.open_inference.models import OUTPUTS, SERVER, VERSION, ServedModel, ServerMetadata, TensorInfo
from serve_app.open_inference.request import (
    DEFAULT_TOP_K,
    MAX_DIMENSIONS,
    MAX_JSON_VALUES,
    MOST_ID_CHARACTERS,
    Wanted,
    check_tensor,
    output_names,
    read_timeout,
    read_top_k,
)
from serve_app.open_inference.tensors import Output, Tensor
from serve_app.shares import EVERYONE, Account
from serve_app.uploads import HeldUpload, free_all

OPEN_METHODS = ("ServerLive", "ServerReady")
"""Need no API key."""
RETRY_AFTER = "retry-after"
"""In the trailing metadata of a refusal, seconds."""
_CONTENTS = {"BYTES": "bytes_contents", "UINT8": "uint_contents", "INT32": "int_contents", "FP32": "fp32_contents"}
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_MOST_DETAIL_CHARACTERS = 1000
_VALUE_BYTES = 64
"""What a value of typed contents takes in memory while pictures are made of it."""
_NO_ARRIVAL: dict[str, Any] = {"headers": []}
"""A request of which HAProxy does not tell when it came: none is taken once the service is to stop."""


class Context(Protocol):
    """What is used of Serve's gRPC context."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Return what the client sent beside the request."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status of the answer."""

    def set_details(self, details: str) -> None:
        """Set the words of the status."""

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """Set what is sent beside the answer."""


def add_inference_service(servicer: Any, server: Any) -> None:
    """Register the methods of the protocol; named in the config under `grpc_options.grpc_servicer_functions`.

    They get the bytes of a message: gRPC would parse it before the key is checked.
    """
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            response_serializer=message_class(f"{name}Response").SerializeToString,
        )
        for name in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


@dataclass(frozen=True)
class _Call:
    """One call: its message, what the client sent beside it, and the account of its bytes, with whose they are."""

    message: bytes
    metadata: Headers
    upload: HeldUpload


class GrpcInference:
    """The answers of one replica."""

    def __init__(self, inference: Inference, guard: Guard, under_way: UnderWay) -> None:
        """`under_way` counts the calls of this process, for a stop under load."""
        self._inference = inference
        self._under_way = under_way
        self._models = inference.models
        self._guard = guard
        self._answers: dict[str, Callable[[_Call], Coroutine[None, None, Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "RepositoryIndex": self._repository_index,
        }

    async def answer(self, method: str, request: bytes, context: Context) -> Any:
        """Return the answer to the bytes of a request; a refusal has its status in `context`, and an empty answer.

        The bytes are in memory, and accounted for, until the call ends.
        """
        given = ((key, value) for key, value in context.invocation_metadata() if isinstance(value, str))
        metadata = Headers(raw=[(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in given])
        try:
            with self._under_way.one_more():
                if not self._under_way.is_accepted(_NO_ARRIVAL):
                    raise Stopping("this service is being stopped; call again, the one that comes after it")
                if method in OPEN_METHODS:
                    return await self._answers[method](_Call(request, metadata, self._upload(EVERYONE)))
                account = self._guard.identify(metadata)
                with self._guard.open_request(account):
                    return await self._answer_held(method, _Call(request, metadata, self._upload(account)))
        except ServiceError as exc:
            context.set_code(_CODES.get(exc.status, grpc.StatusCode.INTERNAL))
            context.set_details(exc.detail[:_MOST_DETAIL_CHARACTERS])
            if exc.retry_after_s is not None:
                context.set_trailing_metadata([(RETRY_AFTER, str(exc.retry_after_s))])
            return message_class(f"{method}Response")()

    async def _answer_held(self, method: str, call: _Call) -> Any:
        """Return the answer, while the message is accounted for."""
        self._check_size(call.message)
        try:
            call.upload.add(len(call.message))
            return await self._answers[method](call)
        finally:
            call.upload.free()

    def _upload(self, account: Account) -> HeldUpload:
        return HeldUpload(self._inference.classifier.admission.uploads, account)

    def _check_size(self, request: bytes) -> None:
        # It is there three times for a moment: as bytes, parsed, and as files. Pixels are there once more, see `hold`.
        most_bytes = self._inference.settings.max_held_bytes // 3
        if len(request) > most_bytes:
            raise UploadTooLarge(
                f"the message is larger than {most_bytes:,} bytes, a third of max_held_bytes; send fewer or smaller "
                "pictures"
            )

    async def _parse(self, name: str, call: _Call, parsed: HeldUpload) -> Any:
        """Return the message of the class `name`, for which `parsed` accounts beside the call's own upload."""
        size, held = len(call.message), [call.upload, parsed]
        needed = await off_the_loop(size, held, parsed_bytes, name, call.message)
        self._inference.hold(parsed, needed, [call.upload])
        return await off_the_loop(size, held, parse_message, name, call.message)

    async def _find(self, name: str, call: _Call) -> ServedModel:
        """Return the model that a message of the class `name` is about."""
        parsed = call.upload.beside()
        try:
            message = await self._parse(name, call, parsed)
            return self._models.find(message.name, message.version)
        finally:
            parsed.free()

    async def _server_live(self, _call: _Call) -> Any:
        return message_class("ServerLiveResponse")(live=True)

    async def _server_ready(self, _call: _Call) -> Any:
        self._inference.classifier.check_ready()
        return message_class("ServerReadyResponse")(ready=True)

    async def _model_ready(self, call: _Call) -> Any:
        await self._find("ModelReadyRequest", call)
        self._inference.classifier.check_ready()
        return message_class("ModelReadyResponse")(ready=True)

    async def _server_metadata(self, _call: _Call) -> Any:
        told = ServerMetadata()
        return message_class("ServerMetadataResponse")(name=SERVER, version=told.version, extensions=told.extensions)

    async def _model_metadata(self, call: _Call) -> Any:
        told = self._models.describe(await self._find("ModelMetadataRequest", call))
        return message_class("ModelMetadataResponse")(**told.model_dump())

    async def _model_config(self, call: _Call) -> Any:
        model = await self._find("ModelConfigRequest", call)
        told = self._models.describe(model)
        config = message_class("ModelConfig")(
            name=model.name,
            platform=told.platform,
            backend=told.platform,
            max_batch_size=self._models.most_pictures,
            input=[_configured(model.input)],
            output=[_configured(output) for output in OUTPUTS],
            dynamic_batching={},
        )
        return message_class("ModelConfigResponse")(config=config)

    async def _repository_index(self, _call: _Call) -> Any:
        models = [{"name": name, "version": VERSION, "state": "READY"} for name in self._models.names]
        return message_class("RepositoryIndexResponse")(models=models)

    async def _model_infer(self, call: _Call) -> Any:
        stopwatch = Stopwatch()
        deadline_s = min(self._inference.settings.deadline_s, _deadline_s(call.metadata))
        self._inference.classifier.admission.check(deadline_s, account=call.upload.account)
        model, wanted, uploads = await self._receive(call)
        try:
            stopwatch.charge("upload")
            within_s = min(deadline_s, wanted.within_s or math.inf)
            answer = await self._inference.infer(
                wanted, uploads, within_s, cache_use(call.metadata.getlist("cache-control"))
            )
        finally:
            free_all(uploads)
        response = self._response(model, wanted, answer)
        self._inference.observe(stopwatch, answer)
        return response

    async def _receive(self, call: _Call) -> tuple[ServedModel, Wanted, list[HeldUpload]]:
        """Return what is wanted of which model, and the pictures, to be freed by the caller."""
        parsed = call.upload.beside()
        try:
            message = await self._parse("ModelInferRequest", call, parsed)
            model = self._models.find(message.model_name, message.model_version)
            wanted, tensor = _wanted(message), _tensor(model, message)
            if not isinstance(tensor.data, bytes):
                self._inference.hold(parsed, _VALUE_BYTES * len(tensor.data), [call.upload])
            held = [call.upload, parsed]
            return model, wanted, await self._inference.take_apart(tensor, len(call.message), held)
        finally:
            parsed.free()

    def _response(self, model: ServedModel, wanted: Wanted, answer: Answer) -> Any:
        network = self._inference.classifier.model
        told = {"engine": network.engine, "precision": network.precision, "weights": network.weights}
        response = message_class("ModelInferResponse")(
            model_name=model.name,
            model_version=VERSION,
            id=wanted.id,
            parameters={key: message_class("InferParameter")(string_param=value) for key, value in told.items()},
        )
        for output in answer.outputs:
            tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=output.values.shape)
            if wanted.outputs[output.name]:
                response.raw_output_contents.append(output.raw())
            else:
                getattr(tensor.contents, _CONTENTS[output.datatype]).extend(_values(output))
        return response


def _configured(tensor: TensorInfo) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": DATA_TYPES[tensor.datatype], "dims": tensor.shape[1:] or [1]}


def _values(output: Output) -> list[Any]:
    values = output.values.flatten().tolist()
    return [value.encode() for value in values] if output.datatype == "BYTES" else values


def _deadline_s(metadata: Headers) -> float:
    given = metadata.get(DEADLINE_HEADER)
    if given is None:
        return math.inf
    deadline_s = read_deadline_s(given)
    if deadline_s is None:
        raise MalformedInference(
            f"metadata {DEADLINE_HEADER.lower()}: must be from 1 to {MOST_DEADLINE_MS} milliseconds"
        )
    return deadline_s


def _parameters(given: Any) -> dict[str, Any]:
    """Return the parameters of a message as Python values."""
    return {key: getattr(value, value.WhichOneof("parameter_choice") or "", None) for key, value in given.items()}


def _wanted(request: Any) -> Wanted:
    if len(request.id) > MOST_ID_CHARACTERS:
        raise MalformedInference(f"id: may have up to {MOST_ID_CHARACTERS} characters")
    if len(request.outputs) > len(OUTPUTS):
        raise MalformedInference(f"outputs: names {len(request.outputs)}; there are {len(OUTPUTS)}")
    parameters = _parameters(request.parameters)
    return Wanted(
        id=request.id,
        top_k=read_top_k(parameters.get("top_k", DEFAULT_TOP_K)),
        within_s=read_timeout(parameters.get("timeout")),
        outputs=dict.fromkeys(
            output_names([output.name for output in request.outputs]), bool(request.raw_input_contents)
        ),
    )


def _tensor(model: ServedModel, request: Any) -> Tensor:
    """Return the request's one tensor, of its raw or its typed contents. Raises MalformedInference, UploadTooLarge."""
    raw = request.raw_input_contents
    if len(request.inputs) != 1:
        raise MalformedInference(f"inputs: the model {model.name} takes one input, named {model.input.name}")
    if len(raw) > 1:
        raise MalformedInference(f"raw_input_contents has {len(raw)} tensors; inputs has 1")
    (given,) = request.inputs
    if len(given.shape) > MAX_DIMENSIONS or any(size < 0 for size in given.shape):
        raise MalformedInference(
            f"the input {given.name[:100]}: its shape must have up to {MAX_DIMENSIONS} sizes, 0 or more"
        )
    data = raw[0] if raw else getattr(given.contents, _CONTENTS.get(given.datatype, "bytes_contents"))
    if not raw and len(data) > MAX_JSON_VALUES:
        raise UploadTooLarge(
            f"contents has {len(data):,} values; up to {MAX_JSON_VALUES:,} are read; use raw_input_contents"
        )
    tensor = Tensor(given.name, given.datatype, tuple(given.shape), data, _parameters(given.parameters))
    return check_tensor(model, [tensor])
