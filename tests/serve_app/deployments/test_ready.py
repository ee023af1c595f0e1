"""What the launcher asks applications: whether they are ready, and a model for the ready block while it is busy."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from serve_app.deployments.ready import _ask_model, why_not_answering

FACTS = {"name": "resnet50"}


@contextmanager
def answering(answer: Callable[[], tuple[int, str]]) -> Iterator[str]:
    """Run a server that gives each request the status and the body that `answer` returns; yield its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def busy(refusals: int) -> Iterator[str]:
    """Run a server that refuses so many requests before it answers; yield its URL."""
    left = iter(range(refusals))
    with answering(lambda: (200 if next(left, None) is None else 429, json.dumps(FACTS))) as url:
        yield url


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (200, "{}", None),
        (503, '{"detail": "the users table is empty"}', "status 503: the users table is empty"),
        (503, "<html>", "status 503: Service Unavailable"),
        (503, "[]", "status 503: Service Unavailable"),
    ],
)
def test_what_a_start_waits_for_is_told_in_the_words_of_the_answer(status: int, body: str, why: str | None) -> None:
    with answering(lambda: (status, body)) as url:
        assert why_not_answering(url) == why
    assert "refused" in str(why_not_answering(url))


def test_a_refusal_is_no_reason_to_stop_a_service_that_answers() -> None:
    with busy(refusals=2) as url:
        assert _ask_model(url, None, within_s=60) == FACTS
    with busy(refusals=1000) as url:
        assert _ask_model(url, None, within_s=0) is None
