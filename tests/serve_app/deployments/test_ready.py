"""What the launcher asks a model application for its ready block, while clients keep that busy."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.deployments.ready import _ask_model

FACTS = {"name": "resnet50"}


@contextmanager
def busy(refusals: int) -> Iterator[str]:
    """Run a server that refuses so many requests before it answers; yield its URL."""
    left = iter(range(refusals))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if next(left, None) is None else 429)
            self.end_headers()
            self.wfile.write(json.dumps(FACTS).encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_refusal_is_no_reason_to_stop_a_service_that_answers() -> None:
    with busy(refusals=2) as url:
        assert _ask_model(url, None, within_s=60) == FACTS
    with busy(refusals=1000) as url:
        assert _ask_model(url, None, within_s=0) is None
