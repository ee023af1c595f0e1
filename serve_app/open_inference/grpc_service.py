"""The protocol over gRPC, by Serve's gRPC ingress: what it needs to know of the service, and the answers.

API keys are checked here, from the metadata: a replica's gRPC port binds every interface.
"""

import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import grpc
from starlette.datastructures import Headers

from serve_app.classifier.api import DEADLINE_HEADER
from serve_app.classifier.timing import Stopwatch
from serve_app.entrance.guard import Guard
from serve_app.entrance.under_way import UnderWay
from serve_app.errors import MalformedInference, ServiceError, Stopping
from serve_app.open_inference.grpc_messages import DATA_TYPES, METHODS, SERVICE, message_class
from serve_app.open_inference.inference import Answer, Inference, free_all
from serve_app.open_inference.models import OUTPUTS, SERVER, VERSION, ServedModel, ServerMetadata, TensorInfo
from serve_app.open_inference.request import (
    DEFAULT_TOP_K,
    MAX_DIMENSIONS,
    Wanted,
    check_tensor,
    output_names,
    read_timeout,
    read_top_k,
)
from serve_app.open_inference.tensors import Output, Tensor
from serve_app.uploads import HeldUpload

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
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_MOST_DETAIL_CHARACTERS = 1000
_NO_ARRIVAL: dict[str, Any] = {"headers": []}
"""A request of which HAProxy does not tell when it came: none is taken once the service is to stop."""
_MOST_DEADLINE_MS = 600_000


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
    """Register the methods of the protocol; named in the config under `grpc_options.grpc_servicer_functions`."""
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            request_deserializer=message_class(f"{name}Request").FromString,
            response_serializer=message_class(f"{name}Response").SerializeToString,
        )
        for name in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class GrpcInference:
    """The answers of one replica."""

    def __init__(self, inference: Inference, guard: Guard, under_way: UnderWay) -> None:
        """`under_way` counts the calls of this process, for a stop under load."""
        self._inference = inference
        self._under_way = under_way
        self._models = inference.models
        self._guard = guard
        self._answers: dict[str, Callable[[Any, Headers], Coroutine[None, None, Any]]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
            "ModelConfig": self._model_config,
            "RepositoryIndex": self._repository_index,
        }

    async def answer(self, method: str, request: Any, context: Context) -> Any:
        """Return the answer to a request; what is refused has its status in `context`, and an empty answer."""
        metadata = Headers({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        try:
            with self._under_way.one_more():
                if not self._under_way.is_accepted(_NO_ARRIVAL):
                    raise Stopping("this service is being stopped; call again, the one that comes after it")
                if method not in OPEN_METHODS:
                    self._guard.check(metadata)
                return await self._answers[method](request, metadata)
        except ServiceError as exc:
            context.set_code(_CODES.get(exc.status, grpc.StatusCode.INTERNAL))
            context.set_details(exc.detail[:_MOST_DETAIL_CHARACTERS])
            if exc.retry_after_s is not None:
                context.set_trailing_metadata([(RETRY_AFTER, str(exc.retry_after_s))])
            return message_class(f"{method}Response")()

    async def _server_live(self, _request: Any, _metadata: Headers) -> Any:
        return message_class("ServerLiveResponse")(live=True)

    async def _server_ready(self, _request: Any, _metadata: Headers) -> Any:
        self._inference.classifier.check_ready()
        return message_class("ServerReadyResponse")(ready=True)

    async def _model_ready(self, request: Any, _metadata: Headers) -> Any:
        self._models.find(request.name, request.version)
        self._inference.classifier.check_ready()
        return message_class("ModelReadyResponse")(ready=True)

    async def _server_metadata(self, _request: Any, _metadata: Headers) -> Any:
        told = ServerMetadata()
        return message_class("ServerMetadataResponse")(name=SERVER, version=told.version, extensions=told.extensions)

    async def _model_metadata(self, request: Any, _metadata: Headers) -> Any:
        told = self._models.describe(self._models.find(request.name, request.version))
        return message_class("ModelMetadataResponse")(**told.model_dump())

    async def _model_config(self, request: Any, _metadata: Headers) -> Any:
        model = self._models.find(request.name, request.version)
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

    async def _repository_index(self, _request: Any, _metadata: Headers) -> Any:
        models = [{"name": name, "version": VERSION, "state": "READY"} for name in self._models.names]
        return message_class("RepositoryIndexResponse")(models=models)

    async def _model_infer(self, request: Any, metadata: Headers) -> Any:
        stopwatch = Stopwatch()
        model = self._models.find(request.model_name, request.model_version)
        deadline_s = min(self._inference.settings.deadline_s, _deadline_s(metadata))
        self._inference.classifier.admission.check(deadline_s)
        wanted = _wanted(request)
        size_bytes = request.ByteSize()
        upload = HeldUpload(self._inference.classifier.admission.uploads)
        try:
            upload.add(size_bytes)
            uploads = await self._inference.take_apart(_tensor(model, request), size_bytes)
        finally:
            upload.free()
        try:
            stopwatch.charge("upload")
            answer = await self._inference.infer(wanted, uploads, min(deadline_s, wanted.within_s or math.inf))
        finally:
            free_all(uploads)
        response = self._response(request, wanted, answer)
        self._inference.observe(stopwatch, answer)
        return response

    def _response(self, request: Any, wanted: Wanted, answer: Answer) -> Any:
        network = self._inference.classifier.model
        told = {"engine": network.engine, "precision": network.precision, "weights": network.weights}
        response = message_class("ModelInferResponse")(
            model_name=request.model_name,
            model_version=VERSION,
            id=wanted.id,
            parameters={key: message_class("InferParameter")(string_param=value) for key, value in told.items()},
        )
        for output in answer.outputs:
            tensor = response.outputs.add(name=output.name, datatype=output.datatype, shape=output.values.shape)
            if request.raw_input_contents:
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
    if not (given.isascii() and given.isdecimal() and 1 <= int(given[:9]) <= _MOST_DEADLINE_MS):
        raise MalformedInference(
            f"metadata {DEADLINE_HEADER.lower()}: must be from 1 to {_MOST_DEADLINE_MS} milliseconds"
        )
    return int(given) / 1000


def _parameters(given: Any) -> dict[str, Any]:
    """Return the parameters of a message as Python values."""
    return {key: getattr(value, value.WhichOneof("parameter_choice") or "", None) for key, value in given.items()}


def _wanted(request: Any) -> Wanted:
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
    """Return the request's one tensor, from its raw or its typed contents. Raises MalformedInference."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise MalformedInference(f"raw_input_contents has {len(raw)} tensors; inputs has {len(request.inputs)}")
    tensors = []
    for index, given in enumerate(request.inputs):
        if len(given.shape) > MAX_DIMENSIONS or any(size < 0 for size in given.shape):
            raise MalformedInference(
                f"the input {given.name[:100]}: its shape must have up to {MAX_DIMENSIONS} sizes, 0 or more"
            )
        data = raw[index] if raw else list(getattr(given.contents, _CONTENTS.get(given.datatype, "bytes_contents")))
        tensors.append(Tensor(given.name, given.datatype, tuple(given.shape), data, _parameters(given.parameters)))
    return check_tensor(model, tensors)
