"""Fetches weights and labels with Keras' own downloader, and says what went wrong in words of ours.

Keras' words quote the whole URL, and those of the libraries below it quote what they take for host and port.
"""

import os
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.error import ContentTooShortError, HTTPError

from serve_app.address import Address, read_address
from serve_app.classifier.engines.checks import chain_of
from serve_app.classifier.engines.keras_backend import import_keras
from serve_app.classifier.model_cache import UnavailableError
from serve_app.classifier.settings import file_name, is_url, shown
from serve_app.deadline import answer_within
from serve_app.errors import SetupError
from serve_app.places import cache_dir

T = TypeVar("T")

_SUBFOLDER = "downloads"
_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (ContentTooShortError, "the download broke off"),
    (socket.gaierror, "the host name cannot be resolved"),
    (TimeoutError, "no answer in time"),
    (ssl.SSLError, "the TLS connection failed"),
)


def fetch(field: str, url: str, sha256: str) -> Path:
    """Return the file at `url`, from the cache if it is there. Raises SetupError, without user, password and query."""
    import_keras()  # here, for who only asks whether a URL answers need not wait
    import keras

    address = read_address(url)
    try:
        with _logged_in(address):
            path = keras.utils.get_file(
                fname=_target(url, sha256).name,
                origin=address.without_login(),
                file_hash=sha256,
                hash_algorithm="sha256",
                cache_dir=cache_dir(),
                cache_subdir=_SUBFOLDER,
            )
    except Exception as exc:  # a bare Exception when it cannot be fetched, a ValueError for a wrong checksum
        reason = describe_fault(exc)
        raise SetupError(
            f"{field}: {shown(url)} cannot be fetched, or its SHA-256 is not {sha256}: {reason}; correct the URL or "
            f"{field}_sha256"
        ) from exc
    return Path(path)


def obtain_file(field: str, source: str, sha256: str | None) -> Path:
    """Return the file that `source` names, fetched if it is a URL. Raises SetupError if it cannot be fetched."""
    if not is_url(source):
        return Path(source)
    assert sha256 is not None  # ClassifierSettings asks for one with every URL
    return fetch(field, source, sha256)


def fetch_imagenet(field: str, get: Callable[[], T]) -> T:
    """Return what Keras fetches with `get`. Raises UnavailableError."""
    try:
        return get()
    except SetupError:
        raise
    except Exception as exc:  # Keras raises a bare Exception when it cannot fetch
        raise UnavailableError(f"{field}: the ImageNet {field} cannot be downloaded: {describe_fault(exc)}") from exc


def find_fault(url: str, timeout_s: float) -> str | None:
    """Return why a URL cannot be fetched, or None if its server begins to send it within `timeout_s`."""
    address = read_address(url)
    opener = urllib.request.build_opener(*_login_handlers(address))
    try:
        # No HEAD: a signed URL is good for one method only.
        answer_within(timeout_s, lambda: opener.open(address.without_login(), timeout=timeout_s).close())
    except (OSError, HTTPException, ValueError) as exc:
        return describe_fault(exc)
    return None


def is_fetched(url: str, sha256: str) -> bool:
    """Tell whether `fetch` has the file at `url` already."""
    return _target(url, sha256).is_file()


def _target(url: str, sha256: str) -> Path:
    return cache_dir() / _SUBFOLDER / f"{sha256[:16]}-{file_name(url)}"


def describe_fault(fault: BaseException) -> str:
    """Return why something could not be fetched, without a word of the libraries that tried it."""
    causes = list(chain_of(fault))
    for cause in causes:
        if isinstance(cause, HTTPError):
            cause.close()  # it is the answer, too, and its connection
            return f"the server answered {cause.code}"
        for kind, words in _WORDS:
            if isinstance(cause, kind):
                return words
    numbers = [cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno is not None]
    return os.strerror(numbers[0]) if numbers else type(fault).__name__


@contextmanager
def _logged_in(address: Address) -> Iterator[None]:
    """Send user and password with each request to this server, and to no other one that it redirects to."""
    if not (handlers := _login_handlers(address)):
        yield
        return
    urllib.request.install_opener(urllib.request.build_opener(*handlers))
    try:
        yield
    finally:
        urllib.request.install_opener(urllib.request.build_opener())


def _login_handlers(address: Address) -> list[urllib.request.BaseHandler]:
    if address.username is None and address.password is None:
        return []
    logins = urllib.request.HTTPPasswordMgrWithPriorAuth()
    user, password = address.username or "", address.password or ""
    logins.add_password(None, f"{address.scheme}://{address.place}/", user, password, is_authenticated=True)
    return [urllib.request.HTTPBasicAuthHandler(logins)]
