"""The protocol over HTTP: /v2 below the classifier's API, with the errors that the protocol has."""

import json
import math
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from serve_app.classifier.api import (
    SERVER_TIMING_DOC,
    CacheControl,
    DeadlineMs,
    cache_use,
)
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.timing import Stopwatch
from serve_app.classifier.upload import BINARY, BodyBounds, read_body, refuse_encoded
from serve_app.entrance.guard import account_of
from serve_app.errors import (
    DeadlineExceeded,
    EncodedUpload,
    ImageTooLarge,
    MalformedInference,
    MalformedUpload,
    NotFound,
    NotReady,
    Overloaded,
    ServiceError,
    UnreadableImage,
    UnsupportedImage,
    UploadTooLarge,
    UploadTooSlow,
)
from serve_app.open_inference.inference import Answer, Inference, off_the_loop
from serve_app.open_inference.models import VERSION, ModelMetadata, ServedModel, ServerMetadata
from serve_app.open_inference.request import (
    JSON_LENGTH_HEADER,
    InferBody,
    Wanted,
    parse_request,
    parsed_json_bytes,
    schema_of,
    split_body,
)
from serve_app.open_inference.tensors import Output
from serve_app.uploads import HeldUpload, free_all
from serve_app.web import discard_body, documented, shape_errors

PATH = "/v2"

ModelId = Annotated[str, Path(description="A name that GET /v2/models lists.")]


class InferenceError(BaseModel):
    """The body of every answer of the protocol that is not a success."""

    error: str = Field(description="What is wrong and what would mend it, for people.")


class Live(BaseModel):
    """The replica answers."""

    live: bool = True


class ServerReady(BaseModel):
    """Requests can be answered."""

    ready: bool = True


class ModelReady(BaseModel):
    """The model can answer."""

    name: str
    ready: bool = True


class ModelNames(BaseModel):
    """All models of this application."""

    models: list[str]


class IndexEntry(BaseModel):
    """A model in Triton's repository index."""

    name: str
    version: str = VERSION
    state: str = "READY"


class OutputTensor(BaseModel):
    """An output of the model."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = Field(None, description="`binary_data_size` where it is raw behind the JSON.")
    data: list[Any] | None = Field(None, description="Values, flat; absent where it is raw.")


class InferAnswer(BaseModel):
    """The JSON of an answer."""

    id: str | None = None
    model_name: str
    model_version: str
    parameters: dict[str, Any]
    outputs: list[OutputTensor]


INFER_ERRORS: tuple[type[ServiceError], ...] = (
    MalformedInference, MalformedUpload, UnreadableImage, NotFound, UploadTooSlow, UploadTooLarge, ImageTooLarge,
    UnsupportedImage, EncodedUpload, NotReady, Overloaded, DeadlineExceeded,
)  # fmt: skip
_JSON_LENGTH_DOC = {
    JSON_LENGTH_HEADER: {"description": "How many bytes of the body are JSON.", "schema": {"type": "integer"}}
}
_INFER_ANSWERS: dict[str, Any] = {
    "headers": {**SERVER_TIMING_DOC, **_JSON_LENGTH_DOC},
    "content": {"application/octet-stream": {"schema": BINARY}},
}


INFER_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": schema_of(InferBody)},
            "application/octet-stream": {"schema": BINARY},
        },
    }
}


def error_shape(_code: str, detail: str, _request_id: str) -> dict[str, str]:
    """Return the protocol's error body; the request's id is in a header."""
    return InferenceError(error=detail).model_dump()


def _errors(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    return documented(*errors, body=InferenceError)


def add_inference_routes(api: FastAPI, inference: Inference) -> None:
    """Add the routes to the classifier's API, whose errors below PATH then are those of the protocol."""
    shape_errors(api, PATH, error_shape)
    routes = _Routes(inference)
    api.get(PATH, summary="Who answers", responses=_errors())(routes.server)
    api.get(f"{PATH}/", include_in_schema=False)(routes.server)
    api.get(f"{PATH}/health/live", summary="Does this replica answer?", responses=_errors())(routes.live)
    api.get(f"{PATH}/health/ready", summary="Can requests be answered?", responses=_errors(NotReady))(routes.ready)
    api.get(f"{PATH}/models", summary="All models", responses=_errors())(routes.names)
    api.post(f"{PATH}/repository/index", summary="All models, as Triton lists them", responses=_errors())(routes.index)
    for version, is_shown in (("", True), ("/versions/{version}", False)):
        path = f"{PATH}/models/{{model}}{version}"
        missing, unready = _errors(NotFound), _errors(NotFound, NotReady)
        api.get(path, summary="A model's inputs and outputs", responses=missing, include_in_schema=is_shown)(
            routes.metadata
        )
        api.get(f"{path}/ready", summary="Is it ready?", responses=unready, include_in_schema=is_shown)(
            routes.model_ready
        )
        api.get(f"{path}/config", summary="As Triton tells it", responses=missing, include_in_schema=is_shown)(
            routes.configuration
        )
        api.post(
            f"{path}/infer",
            summary="Classify pictures",
            response_model=InferAnswer,
            openapi_extra=INFER_BODY,
            responses={200: _INFER_ANSWERS, **_errors(*INFER_ERRORS)},
            include_in_schema=is_shown,
        )(routes.infer)
    _list_models(api, inference.models.names)


def _list_models(api: FastAPI, names: list[str]) -> None:
    """Have OpenAPI list what {model} may be: programs that make requests from it would reach none otherwise."""
    describe = api.openapi

    def describe_with_models() -> dict[str, Any]:
        document = describe()
        operations = (operation for item in document["paths"].values() for operation in item.values())
        parameters = (parameter for operation in operations for parameter in operation.get("parameters", []))
        for parameter in parameters:
            if (parameter["in"], parameter["name"]) == ("path", "model"):
                parameter["schema"]["enum"] = names
        return document

    api.openapi = describe_with_models  # type: ignore[method-assign]


class _Routes:
    """The answers of one replica."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._classifier = inference.classifier

    async def server(self) -> ServerMetadata:
        return ServerMetadata()

    async def live(self) -> Live:
        return Live()

    async def ready(self) -> ServerReady:
        self._classifier.check_ready()
        return ServerReady()

    async def names(self) -> ModelNames:
        return ModelNames(models=self._inference.models.names)

    async def index(self) -> list[IndexEntry]:
        return [IndexEntry(name=name) for name in self._inference.models.names]

    async def metadata(self, model: ModelId, request: Request) -> ModelMetadata:
        return self._inference.models.describe(self._find(model, request))

    async def model_ready(self, model: ModelId, request: Request) -> ModelReady:
        found = self._find(model, request)
        self._classifier.check_ready()
        return ModelReady(name=found.name)

    async def configuration(self, model: ModelId, request: Request) -> dict[str, Any]:
        return self._inference.models.configure(self._find(model, request))

    async def infer(
        self, model: ModelId, request: Request, deadline_ms: DeadlineMs = None, cache_control: CacheControl = None
    ) -> Response:
        """Send JSON, with raw tensors behind it if the header Inference-Header-Content-Length says so."""
        stopwatch = Stopwatch()
        deadline_s = min(self._inference.settings.deadline_s, (deadline_ms or math.inf) / 1000)
        try:
            found = self._find(model, request)
            wanted, uploads = await _receive(self._inference, found, request, deadline_s)
        except (NotFound, Overloaded, UploadTooLarge):
            await discard_body(request, request_bounds(self._inference.settings).drain)
            raise
        try:
            stopwatch.charge("upload")
            within_s = min(deadline_s, wanted.within_s or math.inf)
            answer = await self._inference.infer(wanted, uploads, within_s, cache_use(cache_control))
        finally:
            free_all(uploads)
        response = _response(self._inference, found, wanted, answer)
        self._inference.observe(stopwatch, answer)
        response.headers["Server-Timing"] = stopwatch.server_timing()
        return response

    def _find(self, model: str, request: Request) -> ServedModel:
        return self._inference.models.find(model, request.path_params.get("version", ""))


def request_bounds(settings: ClassifierSettings) -> BodyBounds:
    """Return how large a request may be: its pictures must find memory beside it."""
    return BodyBounds(settings.max_held_bytes // 2, settings.upload_timeout_s, remedy="send fewer or smaller pictures")


async def _receive(
    inference: Inference, model: ServedModel, request: Request, deadline_s: float
) -> tuple[Wanted, list[HeldUpload]]:
    """Return what is wanted, and the pictures, to be freed by the caller."""
    admission, account = inference.classifier.admission, account_of(request)
    admission.check(deadline_s, account=account)
    upload = HeldUpload(admission.uploads, account)
    try:
        body = await read_body(request, upload, request_bounds(inference.settings))
        text, raw = split_body(body, request.headers.get(JSON_LENGTH_HEADER))
        if not text[:100].lstrip().startswith(b"{"):
            refuse_encoded(request.headers)
        inference.hold(upload, await off_the_loop(len(text), [upload], parsed_json_bytes, text))
        wanted, tensor = await off_the_loop(len(text), [upload], parse_request, model, text, raw)
        return wanted, await inference.take_apart(tensor, len(body), [upload])
    finally:
        upload.free()


def _response(inference: Inference, model: ServedModel, wanted: Wanted, answer: Answer) -> Response:
    """Return the answer: JSON, and behind it the outputs that are wanted raw."""
    raw = {output.name: output.raw() for output in answer.outputs if wanted.outputs[output.name]}
    network = inference.classifier.model
    told = {
        **({"id": wanted.id} if wanted.id else {}),
        "model_name": model.name,
        "model_version": VERSION,
        "parameters": {"engine": network.engine, "precision": network.precision, "weights": network.weights},
        "outputs": [_described(output, raw.get(output.name)) for output in answer.outputs],
    }
    if not raw:
        return JSONResponse(told)
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(
        b"".join((text, *raw.values())),
        media_type="application/octet-stream",
        headers={JSON_LENGTH_HEADER: str(len(text))},
    )


def _described(output: Output, raw: bytes | None) -> dict[str, Any]:
    """Return an output as JSON has it; its data are flat, as perf_analyzer wants them."""
    head = {"name": output.name, "datatype": output.datatype, "shape": list(output.values.shape)}
    if raw is not None:
        return {**head, "parameters": {"binary_data_size": len(raw)}}
    return {**head, "data": output.values.flatten().tolist()}
