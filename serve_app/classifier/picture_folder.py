"""Pictures of a user in a folder, as the service would decode them. Called by `choice` and `calibration`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.families import Geometry
from serve_app.classifier.images import decode_image
from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import Fault, ServiceError

Pictures = NDArray[np.uint8]


def find_pictures(folder: Path, most: int) -> list[Path]:
    """Return up to `most` files below `folder`, evenly spread over their names."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    places = np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)
    return [files[place] for place in places]


def describe_files(folder: Path, most: int) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of each file of `find_pictures`: they change with what is in it."""
    return [(str(file), (known := file.stat()).st_size, known.st_mtime_ns) for file in find_pictures(folder, most)]


def decode_pictures(
    folder: Path, most: int, settings: ClassifierSettings, geometry: Geometry
) -> Iterator[tuple[Path, Pictures]]:
    """Yield each picture among the files of `find_pictures`, with its file; a folder may contain other files."""
    for file in find_pictures(folder, most):
        try:
            data = file.read_bytes()
            yield file, decode_image(data, settings.max_pixels, geometry, draft=settings.reduced_decoding)
        except (OSError, ServiceError):
            continue


def no_pictures(key: str, folder: Path) -> Fault:
    """Return the fault of a folder without pictures."""
    return Fault(key, f"{folder} is no folder of pictures", "name a folder that has some")
