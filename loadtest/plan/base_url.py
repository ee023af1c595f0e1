"""The address of a service as plans, `fuzz` and Locust are given it: with or without a slash at its end, and a path."""

from urllib.parse import urlsplit, urlunsplit


def read_base_url(text: str) -> str:
    """Return the URL before which paths such as `/user/` are put: without a slash at its end.

    Raises ValueError for what is no http or https URL, and for one with an @ anywhere, of which it quotes nothing: a
    password that is not escaped may hold a slash.
    """
    if "@" in text:
        raise ValueError("must have no user and password: plans, run folders and reports are shown around")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port
        is_address = False
    if not is_address or parts.query or parts.fragment or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} is no URL such as http://127.0.0.1:8000 (http or https; a path may follow)")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
