"""Looks into a file of Keras weights without TensorFlow: a start learns in a second what Keras says in a minute."""

import zipfile
from pathlib import Path

import h5py

from serve_app.classifier.labels import CLASSES

FEATURES = 2048
CONVOLUTIONS = 53
"""Of a ResNet50; each has one kernel."""
MATRIX_AXES, KERNEL_AXES = 2, 4
_WEIGHTS_OF_A_MODEL = "model.weights.h5"
"""In a .keras file, which is a ZIP."""


def find_misfit(path: Path) -> str | None:
    """Return why a file, .h5 or .keras, cannot be the weights of a ResNet50 with CLASSES classes, or None."""
    try:
        shapes = _read_shapes(path)
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile):
        return "it is no whole file of Keras weights (truncated, or of another kind?)"
    classes = {shape[1] for shape in shapes if len(shape) == MATRIX_AXES and shape[0] == FEATURES}
    convolutions = sum(len(shape) == KERNEL_AXES for shape in shapes)
    if convolutions != CONVOLUTIONS or not classes:
        return f"it is of another network: it has {convolutions} convolutions, a ResNet50 has {CONVOLUTIONS}"
    if CLASSES not in classes:
        return f"it has {min(classes)} classes; this network has {CLASSES}"
    return None


def _read_shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of all weights but the optimizer's. Raises OSError, KeyError, RuntimeError and BadZipFile."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as model, model.open(_WEIGHTS_OF_A_MODEL) as weights, h5py.File(weights) as file:
            return _shapes_in(file)
    with h5py.File(path) as file:
        return _shapes_in(file)


def _shapes_in(file: h5py.File) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []

    def note(name: str, found: object) -> None:
        if isinstance(found, h5py.Dataset) and not name.startswith("optimizer"):
            shapes.append(found.shape)

    file.visititems(note)
    return shapes
