"""The published accuracy of known weights: those of keras.applications.

Source: https://keras.io/api/applications/ (table "Available models"), measured on the 50,000 validation pictures of
ImageNet (ILSVRC 2012), one central crop. Networks whose row is not listed here have no figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "https://keras.io/api/applications/"


@dataclass(frozen=True)
class Published:
    """Top-1 and top-5 in percent, on ImageNet's validation pictures, with input of `side` × `side` pixels."""

    top1: float
    top5: float
    side: int = 224


BY_NAME: Mapping[str, Published] = {
    "xception": Published(79.0, 94.5, 299),
    "vgg16": Published(71.3, 90.1),
    "vgg19": Published(71.3, 90.0),
    "resnet50": Published(74.9, 92.1),
    "resnet50_v2": Published(76.0, 93.0),
    "resnet101": Published(76.4, 92.8),
    "resnet101_v2": Published(77.2, 93.8),
    "resnet152": Published(76.6, 93.1),
    "resnet152_v2": Published(78.0, 94.2),
    "inception_v3": Published(77.9, 93.7, 299),
    "inception_resnet_v2": Published(80.3, 95.3, 299),
    "mobilenet": Published(70.4, 89.5),
    "mobilenet_v2": Published(71.3, 90.1),
    "densenet121": Published(75.0, 92.3),
}
"""By the name in `model:`."""


def find_published(model: Mapping[str, object]) -> Published | None:
    """Return the published accuracy of a service's model; None where its weights are not known."""
    return BY_NAME.get(str(model.get("name"))) if model.get("weights") == "imagenet" else None
