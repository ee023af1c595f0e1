"""Where the service keeps files between starts, and where its shipped configs are. Knows nothing of their content."""

import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from serve_app.errors import SetupError

APP = "serve-app"
DATA_VARIABLE = "SERVE_APP_DATA_DIR"
CACHE_VARIABLE = "SERVE_APP_CACHE_DIR"
CACHE_REMEDY = f"set {CACHE_VARIABLE} to a folder that you can write"
CONFIGS = Path(__file__).with_name("configs")
"""In a checkout a link to the folder at its top; in a wheel a copy of it."""


def data_dir() -> Path:
    """Return the folder for the demo database: SERVE_APP_DATA_DIR, or the user's data folder."""
    return Path(os.environ.get(DATA_VARIABLE) or user_data_path(APP, appauthor=False))


def cache_dir() -> Path:
    """Return the folder for prepared models and downloads: SERVE_APP_CACHE_DIR, or the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_path(APP, appauthor=False))


def is_file(path: str | Path) -> bool:
    """Tell whether a file is there. Path.is_file() raises before 3.14 for long names, and where nobody may look."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Tell whether a folder is there, likewise."""
    return os.path.isdir(path)  # noqa: PTH112


def without_zero_byte(path: str) -> str:
    """Return a path, or the URL of a file, as it is. Raises ValueError for one with a zero byte, which no file has."""
    if "\0" in path:
        raise ValueError("the name of a file has no zero byte; remove it")
    return path


def why_not_writable(folder: Path) -> str | None:
    """Return why no file can be made in a folder, which may have to be made first; None if one can. Leaves nothing."""
    nearest = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryDirectory(dir=nearest):
            return None
    except OSError as exc:
        return exc.strerror or str(exc)


def _why_not(path: Path) -> str:
    """Return why there is no file at `path`, or none that this user may look at."""
    try:
        path.stat()
    except FileNotFoundError:
        return "no such file"
    except OSError as exc:
        return exc.strerror or str(exc)
    return "not a file"


def find_config(given: str) -> Path:
    """Return the file that `given` names: a path, or a shipped config by its name or by its path in a checkout.

    Raises SetupError when it is neither.
    """
    path = Path(given)
    if is_file(path):
        return path
    shipped = {file.stem: file for file in sorted(CONFIGS.glob("*.yaml"))}
    name = given.removeprefix("configs/").removesuffix(".yaml")
    if name not in shipped:
        raise SetupError(
            f"{given} cannot be read: {_why_not(path)}, and none of the shipped configs ({', '.join(shipped)})"
        )
    return shipped[name]
