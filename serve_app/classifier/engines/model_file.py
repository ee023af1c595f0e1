"""What a model file from elsewhere may be: looked through before any framework opens it.

A Keras file names the classes that its reader builds, and some of them run code or read other files: Lambda holds
Python bytecode, TFSMLayer and TorchModuleWrapper other programs, StringLookup a path. Keras' safe mode covers a part of
that, and .h5 files not at all (CVE-2025-9905). So only layers that compute are let through, by name.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve_app.errors import SetupError

MAX_MODEL_BYTES = 2_000_000_000
"""Of a model file, unpacked. ONNX has the same bound: that of one protobuf message."""

KERAS_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
"""Of a .keras archive; others, such as assets/ and pickled .npz weights, belong to layers that are refused."""

_MODELS = {"Functional", "Sequential", "Model"}
_LAYERS = {
    "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "CenterCrop", "Concatenate", "Conv2D",
    "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dot", "Dropout", "ELU", "Flatten",
    "GaussianDropout", "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization",
    "GroupQueryAttention", "Identity", "InputLayer", "LayerNormalization", "LayerScale", "LeakyReLU",
    "MaxPooling2D", "Maximum", "Minimum", "MultiHeadAttention", "Multiply", "Normalization", "PReLU", "Permute",
    "RMSNormalization", "RandomBrightness", "RandomContrast", "RandomCrop", "RandomFlip", "RandomRotation",
    "RandomTranslation", "RandomZoom", "ReLU", "RepeatVector", "Rescaling", "Reshape", "Resizing",
    "SeparableConv2D", "Softmax", "SpatialDropout2D", "StochasticDepth", "Subtract", "UnitNormalization",
    "UpSampling2D", "ZeroPadding2D",
}  # fmt: skip
_PARTS = {"DTypePolicy", "Policy", "__tensor__", "__numpy__", "__keras_tensor__", "__tuple__"}
_PART_MODULES = (
    "keras.initializers", "keras.regularizers", "keras.constraints", "keras.activations",
    "keras.src.initializers", "keras.src.regularizers", "keras.src.constraints", "keras.src.activations",
    "keras.losses", "keras.metrics", "keras.optimizers", "keras.src.ops.numpy", "keras.src.ops.nn",
)  # fmt: skip
_FUNCTIONS = ("keras.activations", "keras.src.activations")
# Keras 2 wrote these without a module; Keras 3 reads them by name.
_OLD_PARTS = (
    "Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Orthogonal",
    "Identity", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform",
    "L1", "L2", "L1L2", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm",
)  # fmt: skip


def check_model_file(path: Path) -> None:
    """Return if the file may be given to its framework. Raises SetupError with what it has that may not be."""
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise SetupError(f"model: {path} has {size:,} bytes; a model file may have {MAX_MODEL_BYTES:,}")
        if path.suffix.lower() in (".keras", ".h5"):
            _check_config(path, _read_config(path))
    except OSError as exc:
        raise SetupError(f"model: {path} cannot be read: {exc.strerror or exc}") from exc


def _read_config(path: Path) -> Any:
    """Return the architecture in a Keras file."""
    if path.suffix.lower() == ".keras":
        return _read_archive(path)
    import h5py

    try:
        with h5py.File(path) as file:
            text = file.attrs.get("model_config")
    except (OSError, KeyError, RuntimeError, ValueError) as exc:
        raise SetupError(f"model: {path} is not a readable HDF5 file: {_first_line(exc)}") from exc
    if text is None:
        raise SetupError(
            f"model: {path} has weights only, no architecture; name the network with model: and give the file as "
            "weights:, or save the whole model"
        )
    return _parse(path, text)


def _read_archive(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: member.file_size for member in archive.infolist()}
            if further := sorted(set(members) - KERAS_MEMBERS):
                raise SetupError(f"model: {path} contains {further[0]}, which no layer that is served here needs")
            if (unpacked := sum(members.values())) > MAX_MODEL_BYTES:
                raise SetupError(f"model: {path} unpacks to {unpacked:,} bytes; the most is {MAX_MODEL_BYTES:,}")
            config = _parse(path, archive.read("config.json"))
            # How the model was trained: not read, since it is not compiled. That of a nested model would be.
            return {**config, "compile_config": None} if isinstance(config, dict) else config
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError, RuntimeError, zlib.error) as exc:
        raise SetupError(f"model: {path} is not a readable .keras file: {_first_line(exc)}") from exc


def _parse(path: Path, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise SetupError(f"model: the architecture in {path} is not readable JSON: {_first_line(exc)}") from exc


def _check_config(path: Path, config: Any) -> None:
    for part in _parts(config):
        name, module = part["class_name"], part.get("module")
        if not _is_harmless(name, module, part.get("registered_name")):
            shown = name if isinstance(name, str) else type(name).__name__
            raise SetupError(
                f"model: {path} contains {shown!r}"
                + (f" of {module}" if isinstance(module, str) and not module.startswith("keras") else "")
                + ", which may run code or is unknown here; only Keras' own layers that compute are served"
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
    if not isinstance(name, str) or not (module is None or isinstance(module, str)):
        return False
    if isinstance(registered, str) and ">" in registered and not registered.startswith("keras"):
        return False
    if name == "function":
        return module in _FUNCTIONS
    if module is not None and module != "keras" and not module.startswith("keras."):
        return False
    if name in _MODELS | _LAYERS | _PARTS:
        return True
    return name in _OLD_PARTS if module is None else module.startswith(_PART_MODULES)


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]
