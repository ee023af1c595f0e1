"""Looks into a file of Keras weights without TensorFlow: a start learns in a second what Keras says in a minute."""

import hashlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import h5py

from serve_app.classifier.family_weights import FAMILY_WEIGHTS

T = TypeVar("T")

KERNEL_AXES = 4
WEIGHTS_OF_A_MODEL = "model.weights.h5"
"""In a .keras file, which is a ZIP."""


class ElsewhereError(ValueError):
    """A part of the file is in another file."""


def count_classes(path: Path, model: str) -> int:
    """Return for how many classes a file, .h5 or .keras, has weights of the network `model`, a name in FAMILIES.

    Raises ValueError that says why they cannot be its weights; ElsewhereError if a part of them is in another file.
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


def has_second_scaling(path: Path, model: str) -> bool:
    """Tell whether weights are for the network `model` with the layer of FamilyWeights.md5.

    Keras lists layers without weights, too. Only its own file of ImageNet's weights is older than that layer.
    Raises ValueError if the file does not tell.
    """
    known = FAMILY_WEIGHTS[model]
    if not known.has_second_scaling:
        return False
    scalings = _read(path, _count_scalings)
    if scalings == 2:  # noqa: PLR2004
        return True
    with path.open("rb") as file:
        if hashlib.file_digest(file, "md5").hexdigest() == known.md5:
            return True
    if scalings != 1:
        raise ValueError(
            "it does not list the scaling layers of its network, which are not the same in all of this kind (a whole "
            "network tells them: save it as .keras, and name that file as `model:`)"
        )
    return False


def _count_scalings(file: h5py.File) -> int:
    layers = next((file[name] for name in ("layers", "model_weights") if name in file), file)
    return sum(re.fullmatch(r"rescaling(_\d+)?", name) is not None for name in layers)


def _read_shapes(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of all weights in a file but the optimizer's. Raises ValueError if it cannot be read."""
    return _read(path, _shapes_in)


def _read(path: Path, look: Callable[[h5py.File], T]) -> T:
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as model, model.open(WEIGHTS_OF_A_MODEL) as weights, h5py.File(weights) as file:
                return look(file)
        with h5py.File(path) as file:
            return look(file)
    except ElsewhereError:
        raise
    except Exception as exc:  # readers of damaged files raise anything
        raise ValueError("it is not a complete file of Keras weights (truncated, or of another format?)") from exc


def _shapes_in(file: h5py.File) -> list[tuple[int, ...]]:
    found = ((name, dataset) for name, dataset in datasets_in(file) if not name.startswith("optimizer"))
    return [dataset.shape for _, dataset in found if dataset.shape is not None]  # None: one that holds nothing


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
