"""What an ingress speaks beside what a config says: HAProxy learns `tls` only when Ray starts. For `redeploy`."""

import re
import socket
import ssl
import time
from pathlib import Path

from serve_app.entrance.tls import Tls
from serve_app.errors import Fault

_ANSWER_S = 3.0
RENEWED_WITHIN_S = 5.0
"""HAProxy looks at the files every 2 s."""
_LOOK_EVERY_S = 0.5
_PEM = re.compile(rf"{ssl.PEM_HEADER}.+?{ssl.PEM_FOOTER}", re.DOTALL)
START_AGAIN = "start the service again (a cluster: `ray up`), or write what it was started with"


def find_tls_change(tls: Tls | None, host: str, port: int, wait_s: float = RENEWED_WITHIN_S) -> Fault | None:
    """Return why a config with this `tls` changes nothing at the ingress there; None if it is as the config says.

    None also where nobody answers. A certificate that differs has `wait_s` to become the same: it may have been
    renewed just now. Of one that is not on this machine, only HTTPS itself is compared.
    """
    deadline_s = time.monotonic() + wait_s
    try:
        shown, own = _shown_certificate(host, port), _own_certificate(tls)
        while shown and own and shown != own and time.monotonic() < deadline_s:
            time.sleep(_LOOK_EVERY_S)
            shown, own = _shown_certificate(host, port), _own_certificate(tls)
    except OSError:
        return None
    if bool(shown) != bool(tls):
        return _unchanged("HTTPS, which the config lacks" if shown else "HTTP")
    return _unchanged("HTTPS with another certificate than that of tls.cert") if own and shown != own else None


def _unchanged(what: str) -> Fault:
    return Fault("tls", f"the ingress that runs speaks {what}; it learns `tls` only at its start", START_AGAIN)


def _shown_certificate(host: str, port: int) -> bytes:
    """Return the certificate (DER) that a new connection gets; b"" without TLS. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), timeout=_ANSWER_S) as connection:
        try:
            with context.wrap_socket(connection) as secure:
                return secure.getpeercert(binary_form=True) or b""
        except ssl.SSLEOFError:  # it is about to end
            raise
        except ssl.SSLError:  # the answer is HTTP
            return b""


def _own_certificate(tls: Tls | None) -> bytes:
    """Return the service's own certificate (DER) of the config; b"" where it has none that can be read here."""
    try:
        found = _PEM.search(Path(tls.cert).read_text(encoding="utf-8")) if tls else None
        return ssl.PEM_cert_to_DER_cert(found[0]) if found else b""
    except (OSError, ValueError):
        return b""
