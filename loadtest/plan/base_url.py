"""The URL of a service in plans, `fuzz` and Locust: with or without a slash at its end, and a path."""

from urllib.parse import urlsplit, urlunsplit


def read_base_url(text: str) -> str:
    """Return the URL before which paths such as `/user/` are put: without a slash at its end.

    Raises ValueError for any other URL than http or https, and for one with an @, which it does not quote: a password
    that is not escaped may hold a slash.
    """
    if "@" in text:
        raise ValueError("must have no user and password: plans, run folders and reports are shared")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        is_address = False
    if not is_address or parts.query or parts.fragment or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is no URL such as http://127.0.0.1:8000 (http or https; a path may follow)")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of an http or https URL."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)
