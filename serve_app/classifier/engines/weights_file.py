"""Looks into a file of Keras weights without TensorFlow: a start learns in a second what Keras says in a minute."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py

FEATURES = 2048
CONVOLUTIONS = 53
"""Of a ResNet50; each has one kernel."""
MATRIX_AXES, KERNEL_AXES = 2, 4
WEIGHTS_OF_A_MODEL = "model.weights.h5"
"""In a .keras file, which is a ZIP."""


class ElsewhereError(ValueError):
    """A part of the file is in another file."""


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
    """Return the shapes of all weights in a file but the optimizer's.

    Raises ValueError if it is no such file, and ElsewhereError if a part of it is in another one.
    """
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as model, model.open(WEIGHTS_OF_A_MODEL) as weights, h5py.File(weights) as file:
                return _shapes_in(file)
        with h5py.File(path) as file:
            return _shapes_in(file)
    except (OSError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile) as exc:
        raise ValueError("it is no whole file of Keras weights (truncated, or of another kind?)") from exc


def _shapes_in(file: h5py.File) -> list[tuple[int, ...]]:
    found = ((name, dataset) for name, dataset in datasets_in(file) if not name.startswith("optimizer"))
    return [dataset.shape for _, dataset in found]


def datasets_in(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every array of a file by its name. Raises ElsewhereError for one whose data is in another file.

    A link, an array or a virtual array may name a file of the machine that reads it, and HDF5 would open that.
    """
    left, seen = [("", file["/"])], set()
    while left:
        name, found = left.pop()
        if (place := h5py.h5o.get_info(found.id).addr) in seen:
            continue  # a group may contain itself
        seen.add(place)
        if isinstance(found, h5py.Group):
            left += [(f"{name}/{key}".lstrip("/"), part) for key, part in _parts_of(found, name)]
        elif isinstance(found, h5py.Dataset):
            if elsewhere := _file_of(found):
                raise ElsewhereError(f"{name!r} takes its data from another file: {elsewhere!r}")
            yield name, found


def _parts_of(group: h5py.Group, name: str) -> Iterator[tuple[str, object]]:
    for key in group:
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ElsewhereError(f"{f'{name}/{key}'.lstrip('/')!r} is a link to another file: {link.filename!r}")
        if isinstance(link, h5py.HardLink):  # what a soft link names is found where it is
            yield key, group[key]


def _file_of(dataset: h5py.Dataset) -> str | None:
    """Return the file that has a part of an array, if it is another one."""
    files = [name for name, *_ in dataset.external or ()]
    if dataset.is_virtual:
        files += [source.file_name for source in dataset.virtual_sources() if source.file_name != "."]
    return files[0] if files else None
