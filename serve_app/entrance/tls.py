"""HTTPS at HAProxy: `tls` in a config names certificate and key, which every HAProxy takes from the environment.

HAProxy wants both in one file, which is written beside its config; `renewed_certificate.lua` follows the two files.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve_app.errors import Fault, SetupError, SetupFaults
from serve_app.places import without_zero_byte
from serve_app.spelling import nearest

CERT_VARIABLE = "SERVE_APP_TLS_CERT"
KEY_VARIABLE = "SERVE_APP_TLS_KEY"
_REMEDY = "name a PEM file of certificates, the service's own first, and the PEM file of its key, without passphrase"

_File = Annotated[
    str, StringConstraints(pattern=r"^(/|~/)"), AfterValidator(without_zero_byte), AfterValidator(os.path.expanduser)
]


class Tls(BaseModel):
    """`tls` at the top of a config."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cert: _File = Field(
        description="PEM file with the certificate and those that lead to its authority: an absolute path, or one that "
        "begins with ~/. Read again when it changes."
    )
    key: _File = Field(description="PEM file with the private key, without passphrase; likewise.")


def tls_environment(tls: Tls | None) -> dict[str, str]:
    """Return the variables by which HAProxy is told; without `tls` both are empty, whatever was set before."""
    return {CERT_VARIABLE: tls.cert if tls else "", KEY_VARIABLE: tls.key if tls else ""}


def read_tls(config: Mapping[str, Any]) -> Tls | None:
    """Return `tls` of a config that nobody has checked; None where it has none. Raises SetupFaults."""
    if misspelled := [key for key in config if key != "tls" and nearest(str(key), ["tls"])]:
        raise SetupFaults(Fault(str(key), "no such key", "did you mean tls?") for key in misspelled)
    if config.get("tls") is None:
        return None
    try:
        return Tls.model_validate(config["tls"])
    except ValidationError as exc:
        raise SetupFaults(_fault_of(error["loc"], error["msg"]) for error in exc.errors()) from None


def _fault_of(location: tuple[int | str, ...], message: str) -> Fault:
    return Fault(".".join(map(str, ("tls", *location))), message, "write {cert: /path, key: /path}, or with ~/ paths")


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
    try:
        _read_both(tls)
        _check_pair(tls, tls.cert, tls.key)
    except SetupError as exc:
        return exc.fault
    return None


def write_pem(tls: Tls, path: Path) -> None:
    """Write both into one file that only this user reads. What is there stays if the two do not fit by now.

    Raises SetupError if nothing is there, either.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        both = _read_both(tls)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(both)
        _check_pair(tls, new, new)  # not the two files, which may be others by now
        new.replace(path)
    except SetupError:
        if not path.is_file():  # else they are being replaced just now; the renewal takes them when they fit
            raise
    finally:
        new.unlink(missing_ok=True)


def _read_both(tls: Tls) -> bytes:
    """Return what the two files hold. Raises SetupError."""
    both = []
    for name, path in (("cert", tls.cert), ("key", tls.key)):
        try:
            both.append(Path(path).read_bytes())
        except OSError as exc:
            fault = Fault(f"tls.{name}", f"{path} cannot be read: {exc.strerror}", "correct the path, or its rights")
            raise SetupError(fault) from exc
    return b"\n".join(both)


def _check_pair(tls: Tls, cert: str | Path, key: str | Path) -> None:
    """Return if the two files are a certificate with its key. Raises SetupError, which names those of `tls`."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "reason", None) or exc
        what = f"{tls.cert} and {tls.key} are no certificate with its key ({reason})"
        raise SetupError(Fault("tls", what, _REMEDY)) from exc
