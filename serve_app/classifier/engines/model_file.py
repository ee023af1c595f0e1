"""What a model file from elsewhere may be: looked through before any framework opens it.

A Keras file names the classes that its reader builds, and some of them run code or read other files: Lambda holds
Python bytecode, TFSMLayer and TorchModuleWrapper other programs, StringLookup a path. Keras' safe mode covers a part of
that, and .h5 files not at all (CVE-2025-9905). So only layers that compute are let through, by name.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serve_app.classifier.settings import ONNX_SUFFIX
from serve_app.errors import SetupError

MAX_MODEL_BYTES = 2_000_000_000
"""Of a model file, unpacked. ONNX has the same bound: that of one protobuf message."""

MAX_CONFIG_BYTES = 32_000_000
"""Of an architecture, as JSON; that of NASNetLarge has 0.5 MB."""

KERAS_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
"""Of a .keras archive; others, such as assets/ and pickled .npz weights, belong to layers that are refused."""

_MODELS = {"Functional", "Sequential", "Model"}
_LAYERS = {
    "Activation", "AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D", "Add", "Attention", "Average",
    "AveragePooling2D", "BatchNormalization", "CenterCrop", "Concatenate", "Conv1D", "Conv2D", "Conv2DTranspose",
    "Cropping2D", "Dense", "DepthwiseConv2D", "Dot", "Dropout", "ELU", "EinsumDense", "Embedding", "Flatten",
    "GaussianDropout", "GaussianNoise", "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling2D",
    "GroupNormalization", "GroupQueryAttention", "Identity", "InputLayer", "LayerNormalization", "LayerScale",
    "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "MultiHeadAttention", "Multiply", "Normalization", "PReLU",
    "Permute", "RMSNormalization", "RandomBrightness", "RandomContrast", "RandomCrop", "RandomFlip", "RandomRotation",
    "RandomTranslation", "RandomZoom", "ReLU", "RepeatVector", "Rescaling", "Reshape", "Resizing", "SeparableConv2D",
    "Softmax", "SpatialDropout2D", "StochasticDepth", "Subtract", "UnitNormalization", "UpSampling2D",
    "ZeroPadding2D",
}  # fmt: skip
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


def check_model_file(path: Path) -> None:
    """Return if the file may be given to its framework. Raises SetupError with what it has that may not be."""
    readers = {".keras": _read_archive, ".h5": _read_hdf5}
    try:
        _check_size(path)
        if path.suffix != ONNX_SUFFIX:
            _check_config(path, readers[path.suffix](path))
    except SetupError:
        raise
    except OSError as exc:
        raise SetupError(f"model: {path} cannot be read: {exc.strerror or _first_line(exc)}; correct the path") from exc
    except Exception as exc:  # readers of damaged files raise anything
        raise SetupError(
            f"model: {path} is not a readable {path.suffix} file: {_first_line(exc)}; save the model again"
        ) from exc


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise SetupError(f"model: {path} has {size:,} bytes; the most is {MAX_MODEL_BYTES:,}")


def _read_hdf5(path: Path) -> Any:
    """Return the architecture in a whole model of Keras 2's format."""
    import h5py

    try:
        with h5py.File(path) as file:
            found = file.attrs.get_id("model_config") if "model_config" in file.attrs else None
            if found is None:
                raise SetupError(
                    f"model: {path} has weights only, no architecture; save the whole model, or name the network with "
                    "`model` and the file with `weights`"
                )
            if found.get_storage_size() > MAX_CONFIG_BYTES:
                raise SetupError(_too_large(path))
            return _parse(path, file.attrs["model_config"])
    except OSError as exc:
        raise SetupError(
            f"model: {path} is not a readable HDF5 file: {_first_line(exc)}; save the model again"
        ) from exc


def _read_archive(path: Path) -> Any:
    """Return the architecture in an archive of Keras 3."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if further := sorted(set(names) - KERAS_MEMBERS):
            raise SetupError(
                f"model: {path} contains {further[0]}, which no accepted layer needs; save the model without it"
            )
        if len(names) != len(set(names)):
            raise SetupError(f"model: {path} contains a file twice; save the model again")
        if (unpacked := sum(member.file_size for member in members)) > MAX_MODEL_BYTES:
            raise SetupError(f"model: {path} unpacks to {unpacked:,} bytes; the most is {MAX_MODEL_BYTES:,}")
        with archive.open("config.json") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise SetupError(_too_large(path))
    config = _parse(path, text)
    # How the model was trained: not read, since it is not compiled. That of a nested model would be.
    return {**config, "compile_config": None} if isinstance(config, dict) else config


def _too_large(path: Path) -> str:
    return f"model: the architecture in {path} has more than {MAX_CONFIG_BYTES:,} bytes; use a smaller network"


def _parse(path: Path, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as exc:
        raise SetupError(
            f"model: the architecture in {path} is not readable JSON: {_first_line(exc)}; save the model again"
        ) from exc


def _check_config(path: Path, config: Any) -> None:
    for part in _parts(config):
        name, module = part["class_name"], part.get("module")
        if not _is_harmless(name, module, part.get("registered_name")):
            shown = name if isinstance(name, str) else type(name).__name__
            raise SetupError(
                f"model: {path} contains {shown!r}"
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
    if module is None:
        return name in _MODELS | _LAYERS | _PARTS | _OLD_PARTS
    assert isinstance(module, str)
    if name == "function":
        return module in _FUNCTIONS
    is_keras = module == "keras" or module.startswith("keras.")
    return is_keras and (name in _MODELS | _LAYERS | _PARTS or _is_part(name, module))


def _is_part(name: str, module: str) -> bool:
    # A class: functions of these modules, which are no parts of a network, begin with a small letter.
    return name[:1].isupper() and any(f"{module}.".startswith(f"{known}.") for known in _PART_MODULES)


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]
