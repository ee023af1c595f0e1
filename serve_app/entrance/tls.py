"""HTTPS at HAProxy: `tls` in a config names certificate and key, which every HAProxy takes from the environment.

HAProxy wants both in one file, which is written beside its config; `renewed_certificate.lua` follows the two files.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve_app.errors import Fault, SetupError

CERT_VARIABLE = "SERVE_APP_TLS_CERT"
KEY_VARIABLE = "SERVE_APP_TLS_KEY"
_REMEDY = "name a PEM file of certificates, the service's own first, and the PEM file of its key, without passphrase"

_File = Annotated[str, StringConstraints(pattern=r"^(/|~/)"), AfterValidator(os.path.expanduser)]


class Tls(BaseModel):
    """`tls` at the top of a config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert: _File = Field(
        description="PEM file with the certificate and those that lead to its authority: an absolute path, or one that "
        "begins with ~/. Read again when it changes."
    )
    key: _File = Field(description="PEM file with the private key, without passphrase; likewise.")

    def environment(self) -> dict[str, str]:
        """Return the variables by which HAProxy is told."""
        return {CERT_VARIABLE: self.cert, KEY_VARIABLE: self.key}


def tls_in(config: Mapping[str, Any]) -> Tls | None:
    """Return `tls` of a config; None where it is missing, or not valid."""
    try:
        return Tls.model_validate(config["tls"]) if config.get("tls") is not None else None
    except ValidationError:
        return None


def tls_of(environment: Mapping[str, str]) -> Tls | None:
    """Return what the environment names. Raises SetupError when it names one of the two files only."""
    cert, key = environment.get(CERT_VARIABLE), environment.get(KEY_VARIABLE)
    if not cert and not key:
        return None
    if not cert or not key:
        missing, other = (KEY_VARIABLE, CERT_VARIABLE) if cert else (CERT_VARIABLE, KEY_VARIABLE)
        raise SetupError(Fault(missing, f"not set, while {other} is", "set both, or none"))
    return Tls(cert=cert, key=key)


def find_tls_fault(tls: Tls) -> Fault | None:
    """Return why the two files cannot be used together, or None."""
    for name, path in (("cert", tls.cert), ("key", tls.key)):
        try:
            Path(path).read_bytes()
        except OSError as exc:
            return Fault(f"tls.{name}", f"{path} cannot be read: {exc.strerror}", "correct the path, or its rights")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.cert, tls.key, password="")
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or exc
        return Fault("tls", f"{tls.cert} and {tls.key} are no certificate with its key ({reason})", _REMEDY)
    return None


def write_pem(tls: Tls, path: Path) -> None:
    """Write both into one file that only this user reads. What is there stays if the two do not fit by now.

    Raises SetupError if nothing is there, either.
    """
    if fault := find_tls_fault(tls):
        if path.is_file():  # they are being replaced just now; the renewal takes them when they fit
            return
        raise SetupError(fault)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(Path(tls.cert).read_bytes() + b"\n" + Path(tls.key).read_bytes())
    new.replace(path)
