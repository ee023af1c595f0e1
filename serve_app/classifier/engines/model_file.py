"""What a model file from elsewhere may be: looked through before any framework opens it.

A Keras file names the classes that its reader builds, and some of them run code or read other files: Lambda holds
Python bytecode, TFSMLayer and TorchModuleWrapper other programs, StringLookup a path. Keras' safe mode covers a part of
that, and .h5 files not at all (CVE-2025-9905). So only layers that compute are let through, by name.
"""

import json
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from serve_app.classifier.engines.checks import first_line
from serve_app.classifier.engines.weights_file import WEIGHTS_OF_A_MODEL, ElsewhereError, datasets_in
from serve_app.classifier.settings import ONNX_SUFFIX
from serve_app.errors import SetupError

MAX_MODEL_BYTES = 2_000_000_000
"""Of a model file, unpacked. ONNX has the same bound: that of one protobuf message."""

MAX_CONFIG_BYTES = 32_000_000
"""Of an architecture, as JSON; that of NASNetLarge has 0.5 MB."""

KERAS_MEMBERS = {"metadata.json", "config.json", WEIGHTS_OF_A_MODEL}
"""Of a .keras archive; others, such as assets/ and pickled .npz weights, belong to layers that are refused."""

_MODELS = {"Functional", "Sequential", "Model"}
# Those of keras.layers that only compute; a test goes over all of them.
_LAYERS = {
    "Activation", "ActivityRegularization", "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D",
    "AdaptiveAveragePooling3D", "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D", "Add",
    "AdditiveAttention", "AlphaDropout", "Attention", "AugMix", "AutoContrast", "Average", "AveragePooling1D",
    "AveragePooling2D", "AveragePooling3D", "BatchNormalization", "Bidirectional", "CategoryEncoding", "CenterCrop",
    "Concatenate", "ContrastLimitedAdaptiveHistogramEqualization", "Conv1D", "Conv1DTranspose", "Conv2D",
    "Conv2DTranspose", "Conv3D", "Conv3DTranspose", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Cropping1D",
    "Cropping2D", "Cropping3D", "CutMix", "Dense", "DepthwiseConv1D", "DepthwiseConv2D", "Discretization", "Dot",
    "Dropout", "ELU", "EinsumDense", "Embedding", "Equalization", "Flatten", "GRU", "GRUCell", "GaussianDropout",
    "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D", "GlobalMaxPooling1D",
    "GlobalMaxPooling2D", "GlobalMaxPooling3D", "GroupNormalization", "GroupQueryAttention", "GroupedQueryAttention",
    "HashedCrossing", "Hashing", "Identity", "InputLayer", "LSTM", "LSTMCell", "LayerNormalization", "LeakyReLU",
    "Masking", "MaxNumBoundingBoxes", "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "Maximum", "MelSpectrogram",
    "Minimum", "MixUp", "MultiHeadAttention", "Multiply", "Normalization", "PReLU", "Permute", "Pipeline",
    "RMSNormalization", "RNN", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
    "RandomContrast", "RandomCrop", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur",
    "RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation",
    "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom", "ReLU", "RepeatVector",
    "Rescaling", "Reshape", "Resizing", "ReversibleEmbedding", "STFTSpectrogram", "SeparableConv1D", "SeparableConv2D",
    "SimpleRNN", "SimpleRNNCell", "Softmax", "Solarization", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D",
    "SpectralNormalization", "StackedRNNCells", "Subtract", "TimeDistributed", "UnitNormalization", "UpSampling1D",
    "UpSampling2D", "UpSampling3D", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D",
}  # fmt: skip
_LAYERS_OF_CONVNEXT = {"LayerScale", "StochasticDepth"}
_PARTS = {
    "DTypePolicy", "Policy", "__tensor__", "__numpy__", "__keras_tensor__", "__tuple__", "__slice__", "__ellipsis__",
}  # fmt: skip
_PART_MODULES = (
    "keras.initializers", "keras.regularizers", "keras.constraints", "keras.activations",
    "keras.src.initializers", "keras.src.regularizers", "keras.src.constraints", "keras.src.activations",
    "keras.losses", "keras.metrics", "keras.optimizers", "keras.src.ops.numpy", "keras.src.ops.nn",
)  # fmt: skip
_FUNCTIONS = ("keras.activations", "keras.src.activations")
# Keras 2 wrote these without a module; Keras 3 reads them by name.
_OLD_PARTS = {
    "Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal",
    "Identity", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform",
    "L1", "L2", "L1L2", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm",
}  # fmt: skip


def check_model_file(path: Path, name: str | None = None) -> None:
    """Return if the file may be given to its framework. Raises SetupError with what it has that may not be.

    `name` is what errors call it, its path by default.
    """
    name = name or str(path)
    readers = {".keras": _read_archive, ".h5": _read_hdf5}
    try:
        _check_size(path, name)
        if path.suffix != ONNX_SUFFIX:
            _check_config(name, readers[path.suffix](path, name))
    except SetupError:
        raise
    except ElsewhereError as exc:
        raise SetupError(f"model: {name}: {exc}; save the model in one file") from exc
    except OSError as exc:
        raise SetupError(f"model: {name} cannot be read: {exc.strerror or first_line(exc)}; correct the path") from exc
    except Exception as exc:  # readers of damaged files raise anything
        raise SetupError(
            f"model: {name} is not a readable {path.suffix} file: {first_line(exc)}; save the model again"
        ) from exc


def _check_size(path: Path, name: str) -> None:
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise SetupError(f"model: {name} has {size:,} bytes; the most is {MAX_MODEL_BYTES:,}")


def _read_hdf5(path: Path, name: str) -> Any:
    """Return the architecture in a whole model of Keras 2's format."""
    try:
        with h5py.File(path) as file:
            deque(datasets_in(file), maxlen=0)
            found = file.attrs.get_id("model_config") if "model_config" in file.attrs else None
            if found is None:
                raise SetupError(
                    f"model: {name} has weights only, no architecture; save the whole model, or name the network with "
                    "`model` and the file with `weights`"
                )
            if found.get_storage_size() > MAX_CONFIG_BYTES:
                raise SetupError(_too_large(name))
            return _parse(name, file.attrs["model_config"])
    except OSError as exc:
        raise SetupError(f"model: {name} is not a readable HDF5 file: {first_line(exc)}; save the model again") from exc


def _read_archive(path: Path, name: str) -> Any:
    """Return the architecture in an archive of Keras 3."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if further := sorted(set(names) - KERAS_MEMBERS):
            raise SetupError(
                f"model: {name} contains {further[0]}, which no accepted layer needs; save the model without it"
            )
        if len(names) != len(set(names)):
            raise SetupError(f"model: {name} contains a file twice; save the model again")
        if (unpacked := sum(member.file_size for member in members)) > MAX_MODEL_BYTES:
            raise SetupError(f"model: {name} unpacks to {unpacked:,} bytes; the most is {MAX_MODEL_BYTES:,}")
        if WEIGHTS_OF_A_MODEL in names:
            with archive.open(WEIGHTS_OF_A_MODEL) as weights, h5py.File(weights) as arrays:
                deque(datasets_in(arrays), maxlen=0)
        with archive.open("config.json") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise SetupError(_too_large(name))
    config = _parse(name, text)
    # How the model was trained: not read, since it is not compiled. That of a nested model would be.
    return {**config, "compile_config": None} if isinstance(config, dict) else config


def _too_large(name: str) -> str:
    return f"model: the architecture in {name} has more than {MAX_CONFIG_BYTES:,} bytes; use a smaller network"


def _parse(name: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as exc:
        raise SetupError(
            f"model: the architecture in {name} is not readable JSON: {first_line(exc)}; save the model again"
        ) from exc


def _check_config(name: str, config: Any) -> None:
    for part in _parts(config):
        kind, module = part["class_name"], part.get("module")
        if not _is_harmless(kind, module, part.get("registered_name")):
            shown = kind if isinstance(kind, str) else type(kind).__name__
            raise SetupError(
                f"model: {name} contains {shown!r}"
                + (f" of {module}" if isinstance(module, str) and not module.startswith("keras") else "")
                + ", which is not accepted; use only Keras' own layers that compute and do nothing else"
            )


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a config that says by which class it is read."""
    left = [config]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _is_harmless(name: object, module: object, registered: object) -> bool:
    is_text = isinstance(name, str) and (module is None or isinstance(module, str))
    is_foreign = isinstance(registered, str) and ">" in registered and not registered.startswith("keras")
    if not is_text or is_foreign:
        return False
    assert isinstance(name, str)
    known = _MODELS | _LAYERS | _LAYERS_OF_CONVNEXT | _PARTS
    if module is None:
        return name in known | _OLD_PARTS
    assert isinstance(module, str)
    if name == "function":
        return module in _FUNCTIONS
    is_keras = module == "keras" or module.startswith("keras.")
    return is_keras and (name in known or _is_part(name, module))


def _is_part(name: str, module: str) -> bool:
    # A class: functions of these modules, which are no parts of a network, begin with a small letter.
    return name[:1].isupper() and any(f"{module}.".startswith(f"{known}.") for known in _PART_MODULES)
