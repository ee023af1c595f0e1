"""Stops a service under load: what was accepted is answered, what comes then is refused. Called by the launcher."""

import time
from collections.abc import Callable
from pathlib import Path

from serve_app.entrance.haproxy_admin import close_ingress, count_in_ingress
from serve_app.entrance.under_way import count_under_way, tell_stopping

_POLL_S = 0.05


def answer_what_is_under_way(folder: Path, *, within_s: float, say: Callable[[str], None]) -> None:
    """Have new requests refused, and return when the accepted ones are answered, or `within_s` is over.

    New connections are refused; a request on an old one gets 503 `stopping`, and the connection ends.
    """
    deadline = time.monotonic() + within_s
    close_ingress(folder)
    tell_stopping(folder)
    if left := _count(folder):
        say(f"answering {left} request(s), for {within_s:g} s at most; once more ends at once")
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = _count(folder)
    if left:
        say(f"{left} request(s) were not answered within {within_s:g} s")


def _count(folder: Path) -> int:
    """Return how many requests are in the service: those in HAProxy are in its replicas too, but for some moments."""
    return max(count_in_ingress(folder), count_under_way(folder))
