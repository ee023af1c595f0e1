"""Looks into a file of Keras weights without TensorFlow: a start learns in a second what Keras says in a minute."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py

FEATURES = 2048
CONVOLUTIONS = 53
"""Of a ResNet50; each has one kernel."""
MATRIX_AXES, KERNEL_AXES = 2, 4
_WEIGHTS_OF_A_MODEL = "model.weights.h5"
"""In a .keras file, which is a ZIP."""


def look_into(path: Path) -> "ResNetWeights | str":
    """Return what a file, .h5 or .keras, holds of a ResNet50, or why it cannot be its weights."""
    try:
        shapes = read_shapes(path)
    except ValueError as exc:
        return str(exc)
    classes = {shape[1] for shape in shapes if len(shape) == MATRIX_AXES and shape[0] == FEATURES}
    convolutions = sum(len(shape) == KERNEL_AXES for shape in shapes)
    if convolutions != CONVOLUTIONS or len(classes) != 1:
        return f"it is of another network: it has {convolutions} convolutions, a ResNet50 has {CONVOLUTIONS}"
    return ResNetWeights(classes.pop())


@dataclass(frozen=True)
class ResNetWeights:
    """The weights of a ResNet50 for some number of classes."""

    classes: int


def read_shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of all weights in a file but the optimizer's. Raises ValueError if it holds none."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as model, model.open(_WEIGHTS_OF_A_MODEL) as weights, h5py.File(weights) as file:
                return _shapes_in(file)
        with h5py.File(path) as file:
            return _shapes_in(file)
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as exc:
        raise ValueError("it is no whole file of Keras weights (truncated, or of another kind?)") from exc


def _shapes_in(file: h5py.File) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []

    def note(name: str, found: object) -> None:
        if isinstance(found, h5py.Dataset) and not name.startswith("optimizer"):
            shapes.append(found.shape)

    file.visititems(note)
    return shapes
