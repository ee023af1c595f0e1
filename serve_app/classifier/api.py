"""The HTTP API of the classifier: POST /predict, GET / and GET /ready, below the application's root path."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, Field

from serve_app.classifier.classifier import Classifier
from serve_app.classifier.images import FORMATS, SHORTER_SIDE_PIXELS, SIDE_PIXELS
from serve_app.classifier.timing import Stopwatch
from serve_app.classifier.upload import FIELD, read_upload
from serve_app.errors import (
    ImageTooLarge,
    InvalidParameter,
    MalformedUpload,
    NotReady,
    Overloaded,
    ServiceError,
    UnreadableImage,
    UnsupportedImage,
    UploadTooLarge,
)
from serve_app.web import add_ready_route, build_api, documented

TopK = Annotated[int, Query(ge=1, le=10, description="How many classes to return, best first.")]

PREDICT_ERRORS: tuple[type[ServiceError], ...] = (
    MalformedUpload, UnreadableImage, UploadTooLarge, ImageTooLarge, UnsupportedImage, InvalidParameter,
    NotReady, Overloaded,
)  # fmt: skip
PREDICT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {FIELD: {"type": "string", "format": "binary"}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
SERVER_TIMING_DOC = {
    "Server-Timing": {
        "description": "Milliseconds by stage: upload, decode, queue, inference, answer. They add up to the whole.",
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


class ModelInfo(ModelName):
    """What is served, and within which bounds."""

    weights_sha256: str | None = Field(description="SHA-256 of the weights file, if they came from one.")
    labels: str = Field(description="imagenet, a file's name, or `placeholder`.")
    classes: int
    input: str
    formats: list[str]
    threads: int
    max_batch: int
    max_upload_bytes: int
    max_pixels: int


def build_model_api(classifier: Classifier) -> FastAPI:
    """Return the classifier's API around a warm `classifier`."""
    api = build_api("Image classifier", "ResNet50 behind Ray Serve: send a picture, get its ImageNet classes.")
    settings, manifest = classifier.settings, classifier.prepared.manifest
    model = ModelName(
        name=manifest.name, engine=settings.engine, precision=settings.precision, weights=manifest.weights
    )
    info = ModelInfo(
        **model.model_dump(),
        weights_sha256=manifest.weights_sha256,
        labels=manifest.labels_from,
        classes=len(manifest.labels),
        input=f"RGB, shorter side scaled to {SHORTER_SIDE_PIXELS}, central {SIDE_PIXELS}×{SIDE_PIXELS}",
        formats=list(FORMATS),
        threads=settings.threads,
        max_batch=settings.max_batch,
        max_upload_bytes=settings.max_upload_bytes,
        max_pixels=settings.max_pixels,
    )

    async def receive(request: Request, stopwatch: Stopwatch) -> bytes:
        data = await read_upload(request, settings.max_upload_bytes)
        stopwatch.charge("upload")
        return data

    @api.get("/", summary="What is served", responses=documented())
    async def index() -> ModelInfo:
        return info

    @api.post(
        "/predict",
        summary="Classify a picture",
        openapi_extra=PREDICT_BODY,
        responses={200: {"headers": SERVER_TIMING_DOC}, **documented(*PREDICT_ERRORS)},
    )
    async def predict(request: Request, response: Response, top_k: TopK = 5) -> Prediction:
        """Send the picture as the form field `file`, or as the body itself."""
        stopwatch = Stopwatch()
        found = await classifier.classify(await receive(request, stopwatch), top_k, stopwatch)
        scores = [
            ClassScore(label=manifest.labels[class_id], class_id=class_id, score=score) for class_id, score in found.top
        ]
        stopwatch.charge("answer")
        response.headers["Server-Timing"] = stopwatch.server_timing()
        return Prediction(
            prediction=scores[0].label,
            score=scores[0].score,
            predictions=scores,
            model=model,
            image_sha256=found.image_sha256,
        )

    async def check_ready() -> None:
        classifier.check_ready()

    add_ready_route(api, check_ready, NotReady)
    return api
