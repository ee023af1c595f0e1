"""`redeploy` tells a `tls` that changes nothing at the ingress that runs."""

import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from serve_app.deployments.ingress_tls import find_tls_change
from serve_app.entrance.tls import Tls
from tests.certificates import write_certificate
from tests.ports import free_port

HERE = "127.0.0.1"


@contextmanager
def ingress(tls: Tls | None) -> Iterator[int]:
    """Yield the port of a server that speaks HTTPS with `tls`, or else HTTP."""
    with HTTPServer((HERE, 0), BaseHTTPRequestHandler) as server:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert, tls.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=socketserver.BaseServer.serve_forever, args=(server, 0.01)).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def made(folder: Path) -> Tls:
    folder.mkdir()
    tls = Tls(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))
    write_certificate(Path(tls.cert), Path(tls.key))
    return tls


def test_a_tls_that_was_added_removed_or_changed_is_told(tmp_path: Path) -> None:
    tls = made(tmp_path / "one")
    with ingress(None) as port:
        assert find_tls_change(None, HERE, port) is None
        added = find_tls_change(tls, HERE, port)
    assert "speaks HTTP;" in str(added)
    assert "`ray up`" in str(added)
    with ingress(tls) as port:
        assert find_tls_change(tls, HERE, port) is None
        assert "HTTPS, which the config lacks" in str(find_tls_change(None, HERE, port))
        assert "another certificate" in str(find_tls_change(made(tmp_path / "two"), HERE, port, wait_s=0))
        assert find_tls_change(Tls(cert="/on/another/machine", key="/there"), HERE, port) is None


def test_where_nobody_listens_nothing_is_told(tmp_path: Path) -> None:
    assert find_tls_change(made(tmp_path / "one"), HERE, free_port()) is None
