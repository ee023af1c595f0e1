"""The HTTP API of the classifier: POST /predict, GET /, /labels and /ready, below the application's root path."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import FastAPI, Header, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from serve_app.classifier.answer import ModelName, Prediction, TopK
from serve_app.classifier.calibration import Calibrated
from serve_app.classifier.choice import Choice
from serve_app.classifier.classifier import CacheUse, Classifier
from serve_app.classifier.fingerprint import fingerprint_model
from serve_app.classifier.images import FORMATS
from serve_app.classifier.timing import STAGES, Stopwatch
from serve_app.classifier.upload import BINARY, BodyBounds, document_upload, read_upload
from serve_app.entrance.guard import account_of
from serve_app.errors import (
    DeadlineExceeded,
    EncodedUpload,
    ImageTooLarge,
    MalformedUpload,
    NotReady,
    Overloaded,
    ServiceError,
    UnreadableImage,
    UnsupportedImage,
    UploadTooLarge,
    UploadTooSlow,
)
from serve_app.metrics import STAGE_MS
from serve_app.uploads import HeldUpload
from serve_app.web import add_ready_route, build_api, discard_body, documented

DEADLINE_HEADER = "X-Deadline-Ms"
MOST_DEADLINE_MS = 600_000

DeadlineMs = Annotated[
    int | None,
    Header(
        alias=DEADLINE_HEADER,
        ge=1,
        le=MOST_DEADLINE_MS,
        description="Longest time from upload to answer, milliseconds; only less than `deadline_s` counts.",
    ),
]

CacheControl = Annotated[
    list[str] | None,
    Header(
        alias="Cache-Control",
        description="`no-store`: neither look the picture up nor keep its prediction; `no-cache`: do not look it up.",
    ),
    WithJsonSchema({"type": "string"}),
]
"""Every line of the header: several are one list (RFC 9110, section 5.3)."""

PREDICT_ERRORS: tuple[type[ServiceError], ...] = (
    MalformedUpload, UnreadableImage, UploadTooSlow, UploadTooLarge, ImageTooLarge, UnsupportedImage, EncodedUpload,
    NotReady, Overloaded, DeadlineExceeded,
)  # fmt: skip
PREDICT_BODY = document_upload(BINARY, "image/*")
SERVER_TIMING_DOC = {
    "Server-Timing": {
        "description": f"Milliseconds by stage: {', '.join(STAGES)}. They add up to the whole.",
        "schema": {"type": "string"},
    }
}


class ModelInfo(ModelName):
    """What is served, and within which bounds."""

    weights_sha256: str | None = Field(description="SHA-256 of the weights file, if they came from one.")
    fingerprint: str = Field(description="The same for two services that find the same classes in a picture.")
    device: str = Field(description="What the engine computes on: `cpu`, or the name of a GPU.")
    tf32: bool = Field(description="Whether `float32` is multiplied as TF32, with 10 bits of mantissa, as GPUs do.")
    calibrated: Calibrated | None = Field(description="How `precision: int8` was made, and how far it agrees.")
    choice: Choice | None = Field(description="What `engine: auto` or `precision: auto` was decided by.")
    cache: Literal["redis", "memory", "off"] = Field(description="Where predictions are kept.")
    labels: str = Field(description="imagenet, a file's name, or `placeholder`.")
    classes: int
    input: str
    preprocessing: str = Field(description="How pixels become the network's input.")
    formats: list[str]
    threads: int
    max_batch: int
    max_upload_bytes: int
    max_pixels: int
    upload_timeout_s: float
    deadline_s: float


class ModelLabels(BaseModel):
    """The names of the classes."""

    labels: list[str] = Field(description="One for each class, by `class_id`; two classes may have the same name.")


def read_deadline_s(given: str | None) -> float | None:
    """Return the client's own time limit in seconds from what DEADLINE_HEADER says; None where that is not allowed."""
    if given is None or not (given.isascii() and given.isdecimal() and len(given) <= len(str(MOST_DEADLINE_MS))):
        return None
    return int(given) / 1000 if 1 <= int(given) <= MOST_DEADLINE_MS else None


def build_model_api(classifier: Classifier) -> FastAPI:
    """Return the classifier's API around a warm `classifier`."""
    api = build_api("Image classifier", f"{classifier.model.name} behind Ray Serve: send a picture, get its classes.")
    settings, manifest = classifier.settings, classifier.prepared.manifest
    info = ModelInfo(
        **classifier.model.model_dump(),
        weights_sha256=manifest.weights_sha256,
        fingerprint=fingerprint_model(settings, classifier.prepared),
        device=classifier.device,
        tf32=classifier.has_tf32,
        calibrated=manifest.calibrated,
        choice=classifier.prepared.choice,
        cache=classifier.cache_kind,
        labels=manifest.labels_from,
        classes=len(manifest.labels),
        input=f"RGB, shorter side scaled to {manifest.resize}, central {manifest.crop}×{manifest.crop}",
        preprocessing=manifest.preprocessing,
        formats=list(FORMATS),
        threads=settings.thread_count,
        max_batch=settings.max_batch,
        max_upload_bytes=settings.max_upload_bytes,
        max_pixels=settings.max_pixels,
        upload_timeout_s=settings.upload_timeout_s,
        deadline_s=settings.deadline_s,
    )
    admission = classifier.admission

    async def receive(request: Request, upload: HeldUpload, within_s: float, top_k: int) -> int:
        """Return how many classes to answer."""
        try:
            admission.check(within_s, account=upload.account)
            upload.data, top_k = await read_upload(request, upload, settings, top_k)
            return top_k
        except (Overloaded, UploadTooLarge):
            upload.free()
            await discard_body(request, BodyBounds.of(settings).drain)
            raise

    @api.get("", include_in_schema=False)  # /model without its slash
    @api.get("/", summary="What is served", responses=documented())
    async def index() -> ModelInfo:
        return info

    @api.get("/labels", summary="The names of the classes", responses=documented())
    async def labels() -> ModelLabels:
        return ModelLabels(labels=manifest.labels)

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
        upload = HeldUpload(admission.uploads, account_of(request))
        try:
            top_k = await receive(request, upload, deadline_s, top_k)
            stopwatch.charge("upload")
            found = await classifier.classify(upload, deadline_s, cache_use(cache_control))
        finally:
            upload.free()
        for stage, until in found.marks:
            stopwatch.charge(stage, until)
        answer = classifier.describe(found, top_k)
        stopwatch.charge("answer")
        for stage, spent_s in stopwatch.spent_s.items():
            admission.metrics.observe(STAGE_MS, 1000 * spent_s, stage)
        response.headers["Server-Timing"] = stopwatch.server_timing()
        return answer

    async def check_ready() -> None:
        classifier.check_ready()

    add_ready_route(api, check_ready, NotReady)
    return api


def cache_use(cache_control: Sequence[str] | None) -> CacheUse:
    """Return what the directives in a request's lines of Cache-Control leave to the cache (RFC 9111, section 5.2.1)."""
    directives = {directive.strip().lower() for line in cache_control or () for directive in line.split(",")}
    if "no-store" in directives:
        return "none"
    return "keep" if "no-cache" in directives else "full"
