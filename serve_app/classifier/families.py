"""The networks of keras.applications that `model:` knows by name, and how pixels become a network's input.

Data only: neither Keras nor an engine is imported here.
"""

import re
from dataclasses import dataclass
from typing import Literal

PreprocessingName = Literal["resnet50", "torchvision", "scale_0_1", "scale_minus1_1", "none"]


@dataclass(frozen=True)
class Preprocessing:
    """Input = (pixel − mean) ÷ scale, per channel of RGB pixels 0–255; `is_bgr` then reverses the channels."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    is_bgr: bool = False


PREPROCESSING: dict[PreprocessingName, Preprocessing] = {
    # The modes `caffe`, `torch` and `tf` of keras.applications.imagenet_utils.preprocess_input.
    "resnet50": Preprocessing(mean=(123.68, 116.779, 103.939), is_bgr=True),
    "torchvision": Preprocessing(mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375)),
    "scale_minus1_1": Preprocessing(mean=(127.5, 127.5, 127.5), scale=(127.5, 127.5, 127.5)),
    "scale_0_1": Preprocessing(scale=(255.0, 255.0, 255.0)),
    "none": Preprocessing(),
}


@dataclass(frozen=True)
class Geometry:
    """The shorter side to which a picture is scaled, and the side of its central square; pixels."""

    resize: int = 256
    crop: int = 224


RESNET50 = Geometry()


@dataclass(frozen=True)
class Family:
    """A network of keras.applications: the function that builds it, and what its ImageNet weights expect."""

    function: str
    preprocessing: PreprocessingName
    crop: int | None = None
    """Side of its input, pixels; None where Keras' function has a default of its own."""


_FUNCTIONS: dict[PreprocessingName, tuple[str, ...]] = {
    "resnet50": ("ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19"),
    "scale_minus1_1": (
        "ResNet50V2", "ResNet101V2", "ResNet152V2", "MobileNet", "MobileNetV2", "InceptionV3", "InceptionResNetV2",
        "Xception", "NASNetMobile", "NASNetLarge",
    ),
    "torchvision": ("DenseNet121", "DenseNet169", "DenseNet201"),
    # These take pixels 0–255: their first layers scale them.
    "none": (
        "MobileNetV3Small", "MobileNetV3Large", "ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge",
        "ConvNeXtXLarge", "EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3", "EfficientNetB4",
        "EfficientNetB5", "EfficientNetB6", "EfficientNetB7", "EfficientNetV2B0", "EfficientNetV2B1",
        "EfficientNetV2B2", "EfficientNetV2B3", "EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L",
    ),
}  # fmt: skip
_OPEN_INPUT = {"MobileNetV3Small": 224, "MobileNetV3Large": 224}


def _name(function: str) -> str:
    """Return a function's name in lower case, with an underscore before a version, a size and a kind: resnet50_v2."""
    spaced = re.sub(r"(?<=[a-z0-9])(V\d|B\d|Mobile|Large|Small|Tiny|Base|XLarge|[SML]$)", r"_\1", function)
    return re.sub(r"(?<=Inception)ResNet", "_resnet", spaced).lower()


FAMILIES: dict[str, Family] = {
    _name(function): Family(function, preprocessing, _OPEN_INPUT.get(function))
    for preprocessing, functions in _FUNCTIONS.items()
    for function in functions
}
"""By the name that a config gives."""
