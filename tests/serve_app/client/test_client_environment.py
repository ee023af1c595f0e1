"""Proxies and certificates of the environment: of no account for files and this machine, else told in one line."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.client.service import _trusted
from tests.known_service import KnownService, known_service
from tests.serve_app.client.conftest import Client

PLANTED = "pl4nted"
UNUSABLE = {
    "socks": {"ALL_PROXY": f"socks5://user:{PLANTED}@127.0.0.1:9"},
    "unknown": {"http_proxy": f"gopher://user:{PLANTED}@127.0.0.1:9"},
    "no certificates": {"SSL_CERT_FILE": "/nope"},
    "no certificate in the file": {"SSL_CERT_FILE": __file__},
}
WORDS = {
    "socks": "ALL_PROXY: a SOCKS proxy needs the package socksio: pip install socksio",
    "unknown": "http_proxy: is not the address of an http, https or socks5 proxy",
    "no certificates": "SSL_CERT_FILE=/nope: certificates cannot be read: No such file or directory",
    "no certificate in the file": f"SSL_CERT_FILE={__file__}: certificates cannot be read",
}


@pytest.fixture
def known() -> Iterator[KnownService]:
    with known_service() as running:
        yield running


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(b"label:file:")


def spoil(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the environment faulty, and nothing else of it matter."""
    for name in [*os.environ]:
        if "proxy" in name.lower():
            monkeypatch.delenv(name)
    for name, value in UNUSABLE[fault].items():
        monkeypatch.setenv(name, value)
    _trusted.cache_clear()


@pytest.mark.parametrize("fault", UNUSABLE)
def test_files_go_to_this_machine_whatever_the_environment_says(
    known: KnownService, client: Client, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(fault, monkeypatch)
    code, out, err = client(known.url, "a.jpg", "--format", "csv")
    assert code == 0, err
    assert "a.jpg,file," in out


@pytest.mark.parametrize("fault", UNUSABLE)
def test_where_it_matters_the_variable_is_named_without_its_password(
    known: KnownService, client: Client, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(fault, monkeypatch)
    known.pages["/pages/x"] = Response(b"label:x:")
    for server, what in ((known.url, f"{known.url}/pages/x"), ("https://192.0.2.1", "a.jpg")):
        code, out, err = client(server, what)
        assert code == 2
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith(f"error: {WORDS[fault]}")
        assert PLANTED not in out + err


class Silent(Response):
    """Never answers."""

    async def __call__(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


def test_give_up_after_bounds_downloads(known: KnownService, client: Client) -> None:
    known.pages["/pages/silent"] = Silent()
    code, out, err = client(known.url, f"{known.url}/pages/silent", "--give-up-after", "2", "--format", "csv")
    assert (code, "no_answer" in out) == (1, True), err
    assert "no answer within 2 s" in out


def test_retries_bound_downloads_too(known: KnownService, client: Client) -> None:
    known.pages["/pages/busy"] = Response(status_code=503, headers={"Retry-After": "0"})
    for retries, requests in (("0", 1), ("1", 3)):
        code, _, err = client(known.url, f"{known.url}/pages/busy", "--retries", retries)
        assert (code, len(known.requests("GET", "/pages/busy"))) == (1, requests), err
