"""Weights and labels from URLs with a login: it goes to that server only, and stands in no message and no log."""

import base64
import hashlib
import http.server
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from serve_app.classifier import model_cache
from serve_app.classifier.settings import ClassifierSettings, shown
from serve_app.errors import SetupError

USER, PASSWORD, TOKEN = "us3r", "pl4nted/@:#", "t0ken"
ESCAPED = "pl4nted%2F%40%3A%23"
NAMES = [f"name {number}" for number in range(1000)]
LABELS = json.dumps(NAMES).encode()
SHA256 = hashlib.sha256(LABELS).hexdigest()


class Server:
    """A web server on loopback that knows one login; it keeps what each request had for its Authorization."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.elsewhere = ""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.path, self.headers["Authorization"]))
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.http.server_port}"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0]
        right = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if path.startswith("/closed/") and request.headers["Authorization"] != right:
            request.send_error(HTTPStatus.UNAUTHORIZED, f"{PASSWORD} is wrong")
        elif path.startswith("/closed/moved/"):
            request.send_response(HTTPStatus.FOUND)
            request.send_header("Location", f"{self.elsewhere or '/closed/other'}/labels.json")
            request.end_headers()
        elif path.endswith("/labels.json"):
            half = path.startswith("/half/")
            request.send_response(HTTPStatus.OK)
            request.send_header("Content-Length", str(len(LABELS)))
            request.end_headers()
            request.wfile.write(LABELS[: len(LABELS) // 2] if half else LABELS)
            request.close_connection = True
        else:
            request.send_error(HTTPStatus.NOT_FOUND, f"no {path}")


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SERVE_APP_CACHE_DIR", str(tmp_path))  # nothing fetched earlier is found there
    with running() as started:
        yield started


def obtain(url: str, sha256: str = SHA256) -> list[str]:
    """Fetch the labels as a start does."""
    from serve_app.classifier.engines.labels import obtain_labels

    return obtain_labels(ClassifierSettings(labels=url, labels_sha256=sha256), classes=1000).names


def test_a_login_in_the_url_opens_a_server_that_asks_for_one(server: Server) -> None:
    assert obtain(f"http://{USER}:{ESCAPED}@{server.place}/closed/labels.json?key={TOKEN}") == NAMES
    [(path, authorization)] = server.seen
    assert path == f"/closed/labels.json?key={TOKEN}"
    assert authorization is not None


def test_the_login_does_not_follow_a_redirect_to_another_server(server: Server) -> None:
    with running() as other:
        server.elsewhere = f"http://{other.place}"
        assert obtain(f"http://{USER}:{ESCAPED}@{server.place}/closed/moved/labels.json") == NAMES
        assert other.seen == [("/labels.json", None)]


def test_the_login_is_sent_again_where_the_same_server_redirects_to(server: Server) -> None:
    for absolute in ("", f"http://{server.place}/closed/elsewhere"):
        server.elsewhere = absolute
        assert obtain(f"http://{USER}:{ESCAPED}@{server.place}/closed/moved/{len(absolute)}.json") == NAMES
        assert server.seen[-1][0] == f"{absolute.removeprefix(f'http://{server.place}') or '/closed/other'}/labels.json"
        assert server.seen[-1][1] is not None


def test_without_a_login_none_is_sent_even_after_one_was(server: Server, tmp_path: Path) -> None:
    obtain(f"http://{USER}:{ESCAPED}@{server.place}/closed/labels.json")
    for file in (tmp_path / "downloads").iterdir():
        file.unlink()
    assert obtain(f"http://{server.place}/labels.json") == NAMES
    assert server.seen[-1] == ("/labels.json", None)


@pytest.mark.parametrize(
    ("url", "sha256", "words"),
    [
        ("http://us3r:pl4nted@{place}/closed/labels.json?key=t0ken", SHA256, "the server answered 401"),
        ("http://us3r:pl4nted@{place}/nothing.json?key=t0ken", SHA256, "the server answered 404"),
        ("http://us3r:pl4nted@{place}/half/labels.json?key=t0ken", SHA256, "the download broke off"),
        ("http://us3r:pl4nted@{place}/labels.json?key=t0ken", "0" * 64, "SHA-256 is not 0000"),
        ("http://us3r:pl4nted@127.0.0.1:1/labels.json?key=t0ken", SHA256, "Connection refused"),
        ("http://us3r:pl4nted@host.invalid/labels.json?key=t0ken", SHA256, "the host name cannot be resolved"),
        ("http://us3r:pl4nted@{place}/labels%20.json?key=t0ken", SHA256, "the server answered 404"),
    ],
)
def test_a_download_that_fails_is_told_without_login_and_query(
    monkeypatch: pytest.MonkeyPatch, server: Server, url: str, sha256: str, words: str
) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    given = url.format(place=server.place)
    with pytest.raises(SetupError, match=words) as caught:
        obtain(given, sha256)
    told = str(caught.value)
    assert told.startswith(f"labels: {shown(given)} cannot be fetched")
    assert not [word for word in (USER, "pl4nted", TOKEN) if word in told]


def test_a_proxy_with_a_password_is_not_told_either(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    """The password is not escaped: urllib takes a part of it for the port, and says so."""
    monkeypatch.delenv("no_proxy", raising=False)
    for proxy in ("http://us3r:pl4nted/x@127.0.0.1:1", "http://us3r:pl4nted@127.0.0.1:1"):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setattr("urllib.request._opener", None)  # it has read the environment of before
        with pytest.raises(SetupError, match="cannot be fetched") as caught:
            obtain(f"http://{server.place}/labels.json")
        assert "pl4nted" not in str(caught.value)
    assert server.seen == []


@pytest.mark.usefixtures("fitted")  # of the tests that load TensorFlow in one process
def test_the_log_of_a_start_shows_neither_login_nor_query(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """The process that prepares the model ends with its reason, which is what the replica says."""
    address = f"http://{USER}:{ESCAPED}@{server.place}/closed"
    settings = ClassifierSettings(
        weights=f"{address}/w.h5?key={TOKEN}",
        weights_sha256=SHA256,
        labels=f"{address}/nothing.json?key={TOKEN}",
        labels_sha256=SHA256,
    )
    with caplog.at_level(logging.DEBUG), pytest.raises(SetupError, match="the server answered 404") as caught:
        model_cache.find_or_prepare(settings)
    assert f"preparing the model (weights: http://{server.place}/closed/w.h5)" in caplog.text
    text = caplog.text + repr(caught.value)
    assert not [word for word in (USER, "pl4nted", ESCAPED, TOKEN) if word in text]
