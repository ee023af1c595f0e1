"""The weights of the named networks: where Keras fetches ImageNet's, and by what a file of weights is recognised.

Data only, so that a start needs no Keras to look at a file. A test compares it with Keras.
"""

from dataclasses import dataclass

_BASE = "https://storage.googleapis.com/tensorflow/keras-applications/"
_OTHER_BASE = "https://storage.googleapis.com/keras-applications"


@dataclass(frozen=True)
class FamilyWeights:
    """Of one network of `families.FAMILIES`, with as many classes as ImageNet has."""

    path: str
    """Of the file with ImageNet's weights, below one of the two addresses above: below the second with a / before."""
    kernels: int
    """How many of its weights have four axes: those of its convolutions."""
    head: tuple[int, ...]
    """Shape of the weights of the last layer, without the last axis, which has the classes."""
    beside: tuple[int, ...] = ()
    """The last axis of each other weight whose shape begins like that."""
    file: str = ""
    """What Keras calls its copy of the file, if that is not the end of `path`."""
    md5: str = ""
    """Of the file, where Keras scales pixels a second time for it: after Normalization, in a layer without weights that
    its function adds for `weights="imagenet"` only."""

    @property
    def has_second_scaling(self) -> bool:
        """Tell whether the network for ImageNet's weights has a scaling layer that the one without weights lacks."""
        return bool(self.md5)

    @property
    def url(self) -> str:
        """Return the address from which Keras fetches ImageNet's weights."""
        return (_OTHER_BASE if self.path.startswith("/") else _BASE) + self.path

    @property
    def file_name(self) -> str:
        """Return the name of Keras' copy in KERAS_HOME/models."""
        return self.file or self.path.rpartition("/")[2]


FAMILY_WEIGHTS: dict[str, FamilyWeights] = {
    "resnet50": FamilyWeights("resnet/resnet50_weights_tf_dim_ordering_tf_kernels.h5", 53, (2048,)),
    "resnet101": FamilyWeights("resnet/resnet101_weights_tf_dim_ordering_tf_kernels.h5", 104, (2048,)),
    "resnet152": FamilyWeights("resnet/resnet152_weights_tf_dim_ordering_tf_kernels.h5", 155, (2048,)),
    "vgg16": FamilyWeights("vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5", 13, (4096,), beside=(4096,)),
    "vgg19": FamilyWeights("vgg19/vgg19_weights_tf_dim_ordering_tf_kernels.h5", 16, (4096,), beside=(4096,)),
    "resnet50_v2": FamilyWeights("resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels.h5", 53, (2048,)),
    "resnet101_v2": FamilyWeights("resnet/resnet101v2_weights_tf_dim_ordering_tf_kernels.h5", 104, (2048,)),
    "resnet152_v2": FamilyWeights("resnet/resnet152v2_weights_tf_dim_ordering_tf_kernels.h5", 155, (2048,)),
    "mobilenet": FamilyWeights("mobilenet/mobilenet_1_0_224_tf.h5", 28, (1, 1, 1024), beside=(1024,)),
    "mobilenet_v2": FamilyWeights(
        "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5", 52, (1280,)
    ),
    "inception_v3": FamilyWeights("inception_v3/inception_v3_weights_tf_dim_ordering_tf_kernels.h5", 94, (2048,)),
    "inception_resnet_v2": FamilyWeights(
        "inception_resnet_v2/inception_resnet_v2_weights_tf_dim_ordering_tf_kernels.h5", 244, (1536,)
    ),
    "xception": FamilyWeights("xception/xception_weights_tf_dim_ordering_tf_kernels.h5", 74, (2048,)),
    "nasnet_mobile": FamilyWeights("nasnet/NASNet-mobile.h5", 356, (1056,), file="nasnet_mobile.h5"),
    "nasnet_large": FamilyWeights("nasnet/NASNet-large.h5", 488, (4032,), file="nasnet_large.h5"),
    "densenet121": FamilyWeights("densenet/densenet121_weights_tf_dim_ordering_tf_kernels.h5", 120, (1024,)),
    "densenet169": FamilyWeights("densenet/densenet169_weights_tf_dim_ordering_tf_kernels.h5", 168, (1664,)),
    "densenet201": FamilyWeights("densenet/densenet201_weights_tf_dim_ordering_tf_kernels.h5", 200, (1920,)),
    "mobilenet_v3_small": FamilyWeights("mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float.h5", 54, (1, 1, 1024)),
    "mobilenet_v3_large": FamilyWeights("mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float.h5", 64, (1, 1, 1280)),
    "convnext_tiny": FamilyWeights("convnext/convnext_tiny.h5", 22, (768,), beside=(192, 192, 192, 3072, 3072, 3072)),
    "convnext_small": FamilyWeights("convnext/convnext_small.h5", 40, (768,), beside=(192, 192, 192, 3072, 3072, 3072)),
    "convnext_base": FamilyWeights("convnext/convnext_base.h5", 40, (1024,), beside=(256, 256, 256, 4096, 4096, 4096)),
    "convnext_large": FamilyWeights(
        "convnext/convnext_large.h5", 40, (1536,), beside=(384, 384, 384, 6144, 6144, 6144)
    ),
    "convnext_xlarge": FamilyWeights(
        "convnext/convnext_xlarge.h5", 40, (2048,), beside=(512, 512, 512, 8192, 8192, 8192)
    ),
    "efficientnet_b0": FamilyWeights("/efficientnetb0.h5", 81, (1280,), md5="902e53a9f72be733fc0bcb005b3ebbac"),
    "efficientnet_b1": FamilyWeights("/efficientnetb1.h5", 115, (1280,), md5="1d254153d4ab51201f1646940f018540"),
    "efficientnet_b2": FamilyWeights("/efficientnetb2.h5", 115, (1408,), md5="b15cce36ff4dcbd00b6dd88e7857a6ad"),
    "efficientnet_b3": FamilyWeights("/efficientnetb3.h5", 130, (1536,), md5="ffd1fdc53d0ce67064dc6a9c7960ede0"),
    "efficientnet_b4": FamilyWeights("/efficientnetb4.h5", 160, (1792,), md5="18c95ad55216b8f92d7e70b3a046e2fc"),
    "efficientnet_b5": FamilyWeights("/efficientnetb5.h5", 194, (2048,), md5="ace28f2a6363774853a83a0b21b9421a"),
    "efficientnet_b6": FamilyWeights("/efficientnetb6.h5", 224, (2304,), md5="165f6e37dce68623721b423839de8be5"),
    "efficientnet_b7": FamilyWeights("/efficientnetb7.h5", 273, (2560,), md5="8c03f828fec3ef71311cd463b6759d99"),
    "efficientnet_v2_b0": FamilyWeights("efficientnet_v2/efficientnetv2-b0.h5", 91, (1280,)),
    "efficientnet_v2_b1": FamilyWeights("efficientnet_v2/efficientnetv2-b1.h5", 111, (1280,)),
    "efficientnet_v2_b2": FamilyWeights("efficientnet_v2/efficientnetv2-b2.h5", 116, (1408,)),
    "efficientnet_v2_b3": FamilyWeights("efficientnet_v2/efficientnetv2-b3.h5", 136, (1536,)),
    "efficientnet_v2_s": FamilyWeights("efficientnet_v2/efficientnetv2-s.h5", 170, (1280,)),
    "efficientnet_v2_m": FamilyWeights("efficientnet_v2/efficientnetv2-m.h5", 245, (1280,)),
    "efficientnet_v2_l": FamilyWeights("efficientnet_v2/efficientnetv2-l.h5", 339, (1280,)),
}
"""By the name that a config gives."""
