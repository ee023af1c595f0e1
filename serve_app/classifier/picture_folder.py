"""Pictures of a user in a folder, as the service would decode them. Called by what makes a model, or looks for one."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.families import Geometry
from serve_app.classifier.images import decode_image
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import Fault, ServiceError

Pictures = NDArray[np.uint8]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
"""Of the files that are taken for pictures, in small or capital letters."""


class PictureFile(NamedTuple):
    """A file, and what changes with what is in it."""

    path: str
    size_bytes: int
    changed_ns: int


FindPictures = Callable[[Path, int], tuple[PictureFile, ...]]
"""`find_pictures`, or a cache of it: a folder of a million files takes seconds."""


def find_pictures(folder: Path, most: int) -> tuple[PictureFile, ...]:
    """Return up to `most` files below `folder` with one of SUFFIXES, evenly spread over their paths.

    Hidden files, hidden folders and links to folders are left out, and what this process may not read.
    """
    paths = sorted(_walk(folder))
    places = np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)
    return tuple(file for place in places if (file := _look_at(paths[place])) is not None)


def decode_pictures(
    files: Iterable[PictureFile], settings: ClassifierSettings, geometry: Geometry
) -> Iterator[tuple[Path, Pictures]]:
    """Yield each picture that a client could send, with its file; other files are left out."""
    for file in files:
        if file.size_bytes > settings.max_upload_bytes:
            continue
        path = Path(file.path)
        try:
            yield path, decode_image(path.read_bytes(), settings.max_pixels, geometry, draft=settings.reduced_decoding)
        except (OSError, ServiceError):
            continue


def no_pictures(key: str, folder: Path) -> Fault:
    """Return the fault of a folder without pictures."""
    remedy = f"name one with pictures whose names end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    return Fault(key, f"{folder} is no folder of pictures", remedy)


def _walk(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield f"{place}/{name}"


def _look_at(path: str) -> PictureFile | None:
    try:
        known = Path(path).stat()
    except OSError:
        return None
    return PictureFile(path, known.st_size, known.st_mtime_ns) if stat.S_ISREG(known.st_mode) else None
