"""The answer about one picture as clients see it, of a request or in a job. Imports no Pillow."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, Field

from serve_app.cache.classification import KEPT_CLASSES, Classification

TopK = Annotated[int, Query(ge=1, le=KEPT_CLASSES, description="How many classes to return, best first.")]


class ClassScore(BaseModel):
    """One class and its probability."""

    label: str
    class_id: int = Field(description="Index of the class in the network's output, from 0.")
    score: float = Field(ge=0, le=1)


class ModelName(BaseModel):
    """What computed an answer."""

    name: str
    engine: Literal["tensorflow", "openvino", "onnxruntime", "jax"]
    precision: Literal["float32", "bfloat16", "int8"]
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


def describe_classification(found: Classification, top_k: int, labels: Sequence[str], model: ModelName) -> Prediction:
    """Return the `top_k` best classes with their `labels`, signed with the `model`."""
    scores = [
        ClassScore(label=labels[class_id], class_id=class_id, score=score) for class_id, score in found.best[:top_k]
    ]
    return Prediction(
        prediction=scores[0].label,
        score=scores[0].score,
        predictions=scores,
        model=model,
        image_sha256=found.image_sha256,
        cached=found.cached,
    )
