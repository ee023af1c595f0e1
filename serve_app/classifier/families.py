"""The networks of keras.applications that `model:` knows by name, and how pixels become a network's input.

Data only: neither Keras nor an engine is imported here.
"""

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
class Family:
    """A network of keras.applications: the function that builds it, and what its ImageNet weights expect."""

    function: str
    preprocessing: PreprocessingName
    crop: int | None = None
    """Side of its input, pixels; None where Keras' function has a default of its own."""


def _families(preprocessing: PreprocessingName, crop: int | None = None, **functions: str) -> dict[str, Family]:
    return {name: Family(function, preprocessing, crop) for name, function in functions.items()}


FAMILIES: dict[str, Family] = {
    **_families("resnet50", resnet50="ResNet50", resnet101="ResNet101", resnet152="ResNet152"),
    **_families("resnet50", vgg16="VGG16", vgg19="VGG19"),
    **_families("scale_minus1_1", resnet50_v2="ResNet50V2", resnet101_v2="ResNet101V2", resnet152_v2="ResNet152V2"),
    **_families("scale_minus1_1", mobilenet="MobileNet", mobilenet_v2="MobileNetV2"),
    **_families("scale_minus1_1", inception_v3="InceptionV3", inception_resnet_v2="InceptionResNetV2"),
    **_families("scale_minus1_1", xception="Xception", nasnet_mobile="NASNetMobile", nasnet_large="NASNetLarge"),
    **_families("torchvision", densenet121="DenseNet121", densenet169="DenseNet169", densenet201="DenseNet201"),
    # These take pixels 0–255: their first layers scale them.
    **_families("none", 224, mobilenet_v3_small="MobileNetV3Small", mobilenet_v3_large="MobileNetV3Large"),
    **_families("none", **{f"efficientnet_b{size}": f"EfficientNetB{size}" for size in range(8)}),
    **_families("none", **{f"efficientnet_v2_b{size}": f"EfficientNetV2B{size}" for size in range(4)}),
    **_families("none", **{f"efficientnet_v2_{size}": f"EfficientNetV2{size.upper()}" for size in "sml"}),
    **_families("none", convnext_tiny="ConvNeXtTiny", convnext_small="ConvNeXtSmall", convnext_base="ConvNeXtBase"),
    **_families("none", convnext_large="ConvNeXtLarge", convnext_xlarge="ConvNeXtXLarge"),
}
"""By the name that a config gives: that of the function, in lower case with an underscore before a version or size."""
