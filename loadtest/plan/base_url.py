"""The URL of a service in plans, `fuzz` and Locust: with or without a slash at its end, and a path."""

import re
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

import idna

_LABEL = re.compile(r"(?!xn--)[a-z0-9_-]{1,63}", re.ASCII)
_MOST_CHARACTERS = 253
"""Of a host name in DNS."""


def read_base_url(text: str) -> str:
    """Return the URL before which paths such as `/user/` are put: without a slash at its end.

    Raises ValueError for any other URL than http or https, with the part that is wrong, and for one with an @, which it
    does not quote: a password that is not escaped may hold a slash.
    """
    if "@" in text:
        raise ValueError("must have no user and password: plans, run folders and reports are shared")
    fault = next(_find_faults(text), None)
    if fault is not None:
        raise ValueError(f"{text!r} is no URL such as http://127.0.0.1:8000/path: {fault}")
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of an http or https URL."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)


def _find_faults(text: str) -> Iterator[str]:
    if not text.isprintable() or " " in text:
        yield "remove spaces and control characters"
    try:
        parts = urlsplit(text)
    except ValueError as exc:  # of brackets
        yield f"correct the host ({exc})"
        return
    if parts.scheme not in {"http", "https"}:
        yield "it must begin with http:// or https://"
    if not _is_host(parts.hostname or ""):
        yield f"{parts.hostname or ''!r} is neither a host name nor an IP address"
    try:
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    if not is_port:
        yield "the port must be a number from 1 to 65535"
    if parts.query or parts.fragment:
        yield "remove everything from the ? or # on"


def _is_host(host: str) -> bool:
    """Return whether DNS can be asked for a host, or an IP address is written in full."""
    try:
        if ":" in host or re.fullmatch(r"[0-9.]+", host):
            return bool(ip_address(host))
        labels = host.removesuffix(".").split(".")
        name = ".".join(label if _LABEL.fullmatch(label) else idna.alabel(label).decode() for label in labels)
    except ValueError:  # UnicodeError is one
        return False
    return len(name) <= _MOST_CHARACTERS
