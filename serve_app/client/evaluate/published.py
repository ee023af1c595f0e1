"""The published accuracy of known weights: those of keras.applications.

Measured on the 50,000 validation pictures of ImageNet (ILSVRC 2012). Networks that are not listed here have no figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "https://keras.io/api/applications/"
"""Its table "Available models"."""
SOURCE_OF_MOBILENET_V3 = "https://keras.io/api/applications/mobilenet/"
"""Its table of MobileNetV3, which has no top-5."""


@dataclass(frozen=True)
class Published:
    """Top-1 and top-5 in percent for an input of `side` × `side` pixels, which `preprocessing` makes of them."""

    top1: float
    top5: float | None
    side: int
    preprocessing: str
    """Named as in a config."""
    source: str = SOURCE

    def describe(self) -> str:
        """Return the figures with what they were measured with, in one line."""
        top5 = f", {self.top5} % top-5" if self.top5 is not None else ""
        return (
            f"{self.top1} % top-1{top5} for ImageNet's 50,000 validation pictures, input {self.side}×{self.side}, "
            f"preprocessing {self.preprocessing} ({self.source})"
        )


BY_NAME: Mapping[str, Published] = {
    "xception": Published(79.0, 94.5, 299, "scale_minus1_1"),
    "vgg16": Published(71.3, 90.1, 224, "resnet50"),
    "vgg19": Published(71.3, 90.0, 224, "resnet50"),
    "resnet50": Published(74.9, 92.1, 224, "resnet50"),
    "resnet50_v2": Published(76.0, 93.0, 224, "scale_minus1_1"),
    "resnet101": Published(76.4, 92.8, 224, "resnet50"),
    "resnet101_v2": Published(77.2, 93.8, 224, "scale_minus1_1"),
    "resnet152": Published(76.6, 93.1, 224, "resnet50"),
    "resnet152_v2": Published(78.0, 94.2, 224, "scale_minus1_1"),
    "inception_v3": Published(77.9, 93.7, 299, "scale_minus1_1"),
    "inception_resnet_v2": Published(80.3, 95.3, 299, "scale_minus1_1"),
    "mobilenet": Published(70.4, 89.5, 224, "scale_minus1_1"),
    "mobilenet_v2": Published(71.3, 90.1, 224, "scale_minus1_1"),
    "mobilenet_v3_small": Published(68.1, None, 224, "none", SOURCE_OF_MOBILENET_V3),
    "mobilenet_v3_large": Published(75.6, None, 224, "none", SOURCE_OF_MOBILENET_V3),
    "densenet121": Published(75.0, 92.3, 224, "torchvision"),
    "densenet169": Published(76.2, 93.2, 224, "torchvision"),
    "densenet201": Published(77.3, 93.6, 224, "torchvision"),
    "nasnet_mobile": Published(74.4, 91.9, 224, "scale_minus1_1"),
    "nasnet_large": Published(82.5, 96.0, 331, "scale_minus1_1"),
    "efficientnet_b0": Published(77.1, 93.3, 224, "none"),
    "efficientnet_b1": Published(79.1, 94.4, 240, "none"),
    "efficientnet_b2": Published(80.1, 94.9, 260, "none"),
    "efficientnet_b3": Published(81.6, 95.7, 300, "none"),
    "efficientnet_b4": Published(82.9, 96.4, 380, "none"),
    "efficientnet_b5": Published(83.6, 96.7, 456, "none"),
    "efficientnet_b6": Published(84.0, 96.8, 528, "none"),
    "efficientnet_b7": Published(84.3, 97.0, 600, "none"),
    "efficientnet_v2_b0": Published(78.7, 94.3, 224, "none"),
    "efficientnet_v2_b1": Published(79.8, 95.0, 240, "none"),
    "efficientnet_v2_b2": Published(80.5, 95.1, 260, "none"),
    "efficientnet_v2_b3": Published(82.0, 95.8, 300, "none"),
    "efficientnet_v2_s": Published(83.9, 96.7, 384, "none"),
    "efficientnet_v2_m": Published(85.3, 97.4, 480, "none"),
    "efficientnet_v2_l": Published(85.7, 97.5, 480, "none"),
    "convnext_tiny": Published(81.3, None, 224, "none"),
    "convnext_small": Published(82.3, None, 224, "none"),
    "convnext_base": Published(85.3, None, 224, "none"),
    "convnext_large": Published(86.3, None, 224, "none"),
    "convnext_xlarge": Published(86.7, None, 224, "none"),
}
"""By the name in `model:`. The side is that of Keras' function; `none`: the network scales pixels in its own layers."""


def find_published(model: Mapping[str, object]) -> Published | None:
    """Return the published accuracy of a service's model; None where its weights are not known."""
    return BY_NAME.get(str(model.get("name"))) if model.get("weights") == "imagenet" else None
