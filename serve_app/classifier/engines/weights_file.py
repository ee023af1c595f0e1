"""Looks into a file of Keras weights without TensorFlow: a start learns in a second what Keras says in a minute."""

import zipfile
from collections import Counter
from pathlib import Path

import h5py

from serve_app.classifier.family_weights import FAMILY_WEIGHTS

KERNEL_AXES = 4
_WEIGHTS_OF_A_MODEL = "model.weights.h5"
"""In a .keras file, which is a ZIP."""


def count_classes(path: Path, model: str) -> int:
    """Return for how many classes a file, .h5 or .keras, has weights of the network `model`, a name in FAMILIES.

    Raises ValueError that says why they cannot be its weights.
    """
    known = FAMILY_WEIGHTS[model]
    shapes = _read_shapes(path)
    kernels = sum(len(shape) == KERNEL_AXES for shape in shapes)
    if kernels != known.kernels:
        raise ValueError(f"it belongs to another network: {kernels} convolution kernels instead of {known.kernels}")
    alike = Counter(shape[-1] for shape in shapes if shape and shape[:-1] == known.head)
    found = list((alike - Counter(known.beside)).elements())
    if len(found) != 1:
        raise ValueError("it lacks the last layer of this network (saved with include_top=False?)")
    return found[0]


def _read_shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of all weights in a file but the optimizer's. Raises ValueError if it holds none."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as model, model.open(_WEIGHTS_OF_A_MODEL) as weights, h5py.File(weights) as file:
                return _shapes_in(file)
        with h5py.File(path) as file:
            return _shapes_in(file)
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as exc:
        raise ValueError("it is not a complete file of Keras weights (truncated, or of another format?)") from exc


def _shapes_in(file: h5py.File) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []

    def note(name: str, found: object) -> None:
        if isinstance(found, h5py.Dataset) and not name.startswith("optimizer"):
            shapes.append(found.shape)

    file.visititems(note)
    return shapes
