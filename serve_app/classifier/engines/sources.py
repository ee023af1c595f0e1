"""Where the files of a model are from: a path, a URL, or Keras' own ImageNet files."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from serve_app.classifier.model_cache import UnavailableError
from serve_app.classifier.settings import is_url

T = TypeVar("T")


def obtain_file(field: str, source: str, sha256: str | None) -> Path:
    """Return the file that `source` names, fetched if it is a URL. Raises SetupError if it cannot be fetched."""
    if not is_url(source):
        return Path(source)
    from serve_app.classifier.engines.download import fetch

    assert sha256 is not None  # ClassifierSettings asks for one with every URL
    return fetch(field, source, sha256)


def fetch_imagenet(field: str, get: Callable[[], T]) -> T:
    """Return what Keras fetches with `get`. Raises UnavailableError."""
    from serve_app.classifier.engines.download import describe_fault

    try:
        return get()
    except Exception as exc:  # Keras raises a bare Exception when it cannot fetch
        raise UnavailableError(f"{field}: the ImageNet {field} cannot be had: {describe_fault(exc)}") from exc
