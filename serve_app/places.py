"""Where the service keeps files between starts. Called by the users store and the classifier's model cache."""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

APP = "serve-app"


def data_dir() -> Path:
    """Return the folder for the demo database: SERVE_APP_DATA_DIR, or the user's data folder."""
    return Path(os.environ.get("SERVE_APP_DATA_DIR") or user_data_path(APP, appauthor=False))


def cache_dir() -> Path:
    """Return the folder for prepared models and downloads: SERVE_APP_CACHE_DIR, or the user's cache folder."""
    return Path(os.environ.get("SERVE_APP_CACHE_DIR") or user_cache_path(APP, appauthor=False))
