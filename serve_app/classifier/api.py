"""The HTTP API of the classifier: POST /predict, GET / and GET /ready, below the application's root path."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request, Response
from pydantic import BaseModel, Field

from serve_app.cache.store import KEPT_CLASSES
from serve_app.classifier.admission import HeldUpload, Lease
from serve_app.classifier.classifier import CacheUse, Classification, Classifier
from serve_app.classifier.images import FORMATS, SHORTER_SIDE_PIXELS, SIDE_PIXELS
from serve_app.classifier.timing import STAGES, Stopwatch
from serve_app.classifier.upload import FIELD, BodyBounds, discard_upload, read_upload
from serve_app.errors import (
    DeadlineExceeded,
    EncodedUpload,
    ImageTooLarge,
    InvalidParameter,
    MalformedUpload,
    NotReady,
    Overloaded,
    ServiceError,
    UnreadableImage,
    UnsupportedImage,
    UploadTooLarge,
    UploadTooSlow,
)
from serve_app.web import add_ready_route, build_api, documented

DEADLINE_HEADER = "X-Deadline-Ms"
TopK = Annotated[int, Query(ge=1, le=KEPT_CLASSES, description="How many classes to return, best first.")]

DeadlineMs = Annotated[
    int | None,
    Header(
        alias=DEADLINE_HEADER,
        ge=1,
        le=600_000,
        description="Longest time from upload to answer, milliseconds; only less than `deadline_s` counts.",
    ),
]

CacheControl = Annotated[
    str | None,
    Header(
        alias="Cache-Control",
        description="`no-store`: neither look the picture up nor keep its prediction; `no-cache`: do not look it up.",
    ),
]

PREDICT_ERRORS: tuple[type[ServiceError], ...] = (
    MalformedUpload, UnreadableImage, UploadTooSlow, UploadTooLarge, ImageTooLarge, UnsupportedImage, EncodedUpload,
    InvalidParameter, NotReady, Overloaded, DeadlineExceeded,
)  # fmt: skip
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}


def document_upload(field: dict[str, Any], *types: str) -> dict[str, Any]:
    """Return the OpenAPI of a body that is a form whose field `file` has this schema, or one of the media `types`."""
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: field}}
    content = {"multipart/form-data": {"schema": form}, **{media: {"schema": BINARY} for media in types}}
    return {"requestBody": {"required": True, "content": content}}


PREDICT_BODY = document_upload(BINARY, "image/*")
SERVER_TIMING_DOC = {
    "Server-Timing": {
        "description": f"Milliseconds by stage: {', '.join(STAGES)}. They add up to the whole.",
        "schema": {"type": "string"},
    }
}


class ClassScore(BaseModel):
    """One class and its probability."""

    label: str
    class_id: int = Field(description="Index of the class in the network's output, 0–999.")
    score: float = Field(ge=0, le=1)


class ModelName(BaseModel):
    """What computed an answer."""

    name: str
    engine: Literal["tensorflow", "openvino"]
    precision: Literal["float32", "bfloat16"]
    weights: str = Field(description="imagenet, a file's name, or `random`: then the prediction means nothing.")


class Prediction(BaseModel):
    """The classes that the network finds in a picture."""

    prediction: str = Field(description="The label of the best class.")
    score: float = Field(ge=0, le=1, description="The probability of the best class.")
    predictions: list[ClassScore] = Field(description="The `top_k` best classes, best first.")
    model: ModelName
    image_sha256: str = Field(description="SHA-256 of the picture's bytes as received.")
    cached: bool = Field(
        description="Whether the same bytes were classified for another request, before or at the same time."
    )


class ModelInfo(ModelName):
    """What is served, and within which bounds."""

    weights_sha256: str | None = Field(description="SHA-256 of the weights file, if they came from one.")
    cache: Literal["redis", "memory", "off"] = Field(description="Where predictions are kept.")
    labels: str = Field(description="imagenet, a file's name, or `placeholder`.")
    classes: int
    input: str
    formats: list[str]
    threads: int
    max_batch: int
    max_upload_bytes: int
    max_pixels: int
    upload_timeout_s: float
    deadline_s: float


def name_model(classifier: Classifier) -> ModelName:
    """Return what every answer of `classifier` is signed with."""
    settings, manifest = classifier.settings, classifier.prepared.manifest
    return ModelName(name=manifest.name, engine=settings.engine, precision=settings.precision, weights=manifest.weights)


def describe_classification(found: Classification, labels: Sequence[str], model: ModelName) -> Prediction:
    """Return the public form of what the network said."""
    scores = [ClassScore(label=labels[class_id], class_id=class_id, score=score) for class_id, score in found.top]
    return Prediction(
        prediction=scores[0].label,
        score=scores[0].score,
        predictions=scores,
        model=model,
        image_sha256=found.image_sha256,
        cached=found.cached,
    )


def build_model_api(classifier: Classifier) -> FastAPI:
    """Return the classifier's API around a warm `classifier`."""
    api = build_api("Image classifier", "ResNet50 behind Ray Serve: send a picture, get its ImageNet classes.")
    settings, manifest, model = classifier.settings, classifier.prepared.manifest, name_model(classifier)
    info = ModelInfo(
        **model.model_dump(),
        weights_sha256=manifest.weights_sha256,
        cache=classifier.cache_kind,
        labels=manifest.labels_from,
        classes=len(manifest.labels),
        input=f"RGB, shorter side scaled to {SHORTER_SIDE_PIXELS}, central {SIDE_PIXELS}×{SIDE_PIXELS}",
        formats=list(FORMATS),
        threads=settings.threads,
        max_batch=settings.max_batch,
        max_upload_bytes=settings.max_upload_bytes,
        max_pixels=settings.max_pixels,
        upload_timeout_s=settings.upload_timeout_s,
        deadline_s=settings.deadline_s,
    )
    admission = classifier.admission

    async def receive(request: Request, lease: Lease, stopwatch: Stopwatch, within_s: float) -> HeldUpload:
        try:
            admission.check(within_s)
            data = await read_upload(request, lease, settings)
        except Overloaded:
            lease.end()
            await discard_upload(request, BodyBounds.of(settings))
            raise
        stopwatch.charge("upload")
        return HeldUpload(data, lease)

    @api.get("", include_in_schema=False)  # /model without its slash
    @api.get("/", summary="What is served", responses=documented())
    async def index() -> ModelInfo:
        return info

    @api.post(
        "/predict",
        summary="Classify a picture",
        openapi_extra=PREDICT_BODY,
        responses={200: {"headers": SERVER_TIMING_DOC}, **documented(*PREDICT_ERRORS)},
    )
    async def predict(
        request: Request,
        response: Response,
        top_k: TopK = 5,
        deadline_ms: DeadlineMs = None,
        cache_control: CacheControl = None,
    ) -> Prediction:
        """Send the picture as the form field `file`, or as the body itself."""
        stopwatch = Stopwatch()
        deadline_s = min(settings.deadline_s, (deadline_ms or math.inf) / 1000)
        lease = admission.lease()
        try:
            upload = await receive(request, lease, stopwatch, deadline_s)
            found = await classifier.classify(upload, top_k, stopwatch, deadline_s, _cache_use(cache_control))
        finally:
            lease.end()
        answer = describe_classification(found, manifest.labels, model)
        stopwatch.charge("answer")
        admission.metrics.observe_stages(stopwatch.spent_s)
        response.headers["Server-Timing"] = stopwatch.server_timing()
        return answer

    async def check_ready() -> None:
        classifier.check_ready()

    add_ready_route(api, check_ready, NotReady)
    return api


def _cache_use(cache_control: str | None) -> CacheUse:
    """Return what the request's directives leave to the cache (RFC 9111, section 5.2.1)."""
    directives = {directive.strip().lower() for directive in (cache_control or "").split(",")}
    if "no-store" in directives:
        return "none"
    return "keep" if "no-cache" in directives else "full"
