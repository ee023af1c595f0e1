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
_REMEDY = "start the service again (a cluster: `ray up`), or write what it was started with"


def find_tls_change(tls: Tls | None, host: str, port: int, wait_s: float = RENEWED_WITHIN_S) -> Fault | None:
    """Return why a config with this `tls` changes nothing at the ingress there; None if it is as the config says.

    None also where nobody answers. What differs has `wait_s` to become the same, as a certificate that was renewed. Of
    a certificate that is not on this machine, only HTTPS itself is compared.
    """
    deadline_s = time.monotonic() + wait_s
    while (fault := _compare(tls, host, port)) and tls and time.monotonic() < deadline_s:
        time.sleep(_LOOK_EVERY_S)
    return fault


def _compare(tls: Tls | None, host: str, port: int) -> Fault | None:
    try:
        shown = _shown_certificate(host, port)
    except OSError:
        return None
    if not tls:
        return _unchanged("HTTPS, which the config lacks") if shown else None
    if not shown:
        return _unchanged("HTTP")
    own = _first_certificate(Path(tls.cert))
    return None if own in (None, shown) else _unchanged(f"HTTPS with another certificate than that of {tls.cert}")


def _unchanged(what: str) -> Fault:
    return Fault("tls", f"the ingress that runs speaks {what}; it learns `tls` only at its start", _REMEDY)


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


def _first_certificate(path: Path) -> bytes | None:
    """Return the service's own certificate (DER); None where the file cannot be read."""
    try:
        found = _PEM.search(path.read_text(encoding="utf-8"))
        return ssl.PEM_cert_to_DER_cert(found[0]) if found else None
    except (OSError, ValueError):
        return None
