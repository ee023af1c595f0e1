"""The address of Redis (REDIS_URL, off by default), checked as a whole, by the launcher before Ray starts, too."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.address import Address, AddressFault, parameters, read_strictly, unescaped
from serve_app.errors import Fault, SetupError
from serve_app.places import is_file

VARIABLE = "REDIS_URL"
DEFAULT_PORT = 6379

_EXAMPLES = "redis://user:password@host:6379/0, rediss://… with TLS, or unix:///path/of/socket?db=0"
_MOST_DB = 2**31 - 1


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is, and as whom to log in there."""

    host: str | None
    port: int
    socket: str | None
    db: int
    username: str | None
    password: str | None = field(repr=False)
    tls: Mapping[str, Any] | None
    """None: no TLS. Otherwise the certificate options by the names that redis-py has for them."""


def redis_url(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the address of Redis in REDIS_URL, or None, which means without Redis. Raises as `read_redis_url` does."""
    url = environment.get(VARIABLE, "").strip()
    if not url:
        return None
    read_redis_url(url)
    return url


def read_redis_url(url: str) -> RedisAddress:
    """Return the parts of `url`. Raises SetupError that names REDIS_URL and the remedy and shows no part of `url`."""
    try:
        return _read(read_strictly(url))
    except AddressFault as exc:
        raise SetupError(Fault(VARIABLE, str(exc), f"use {_EXAMPLES}")) from None


def _read(address: Address) -> RedisAddress:
    if address.scheme not in ("redis", "rediss", "unix"):
        raise AddressFault("it must begin with redis://, rediss:// or unix://")
    is_socket, is_tls = address.scheme == "unix", address.scheme == "rediss"
    given = parameters(address, {"db", *(_TLS if is_tls else ()), *(_LOGIN if is_socket else ())})
    if is_socket and (address.host or not address.path.strip("/")):
        raise AddressFault("it names no socket: after unix:// comes /, the path of the socket")
    if not is_socket and not address.host:
        raise AddressFault("it names no host")
    in_path = "" if is_socket else address.path.strip("/")
    if in_path and "db" in given:
        raise AddressFault("it names the database twice, after the host and as db=")
    for name in _LOGIN:
        if name in given and getattr(address, name) is not None:
            raise AddressFault(f"it has the {name} twice, before the @ and as a parameter")
    return RedisAddress(
        host=address.host,
        port=address.port or DEFAULT_PORT,
        socket=unescaped(address.path) if is_socket else None,
        db=_whole_number(in_path or given.get("db", "0")),
        username=given.get("username", address.username),
        password=given.get("password", address.password),
        tls={name: read(given[name]) for name, read in _TLS.items() if name in given} if is_tls else None,
    )


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(_MOST_DB)) and int(text) <= _MOST_DB):
        raise AddressFault("the database after the host (/0) or in db= is not a number")
    return int(text)


def _cert_reqs(text: str) -> str:
    if text not in ("none", "optional", "required"):
        raise AddressFault("ssl_cert_reqs must be none, optional or required")
    return text


def _is_true(text: str) -> bool:
    if text not in ("true", "false"):
        raise AddressFault("ssl_check_hostname must be true or false")
    return text == "true"


def _file(text: str) -> str:
    if not is_file(text):
        raise AddressFault("one of ssl_ca_certs, ssl_certfile and ssl_keyfile names no file on this machine")
    return text


_LOGIN = ("username", "password")
_TLS: Mapping[str, Callable[[str], object]] = {
    "ssl_cert_reqs": _cert_reqs,
    "ssl_check_hostname": _is_true,
    "ssl_ca_certs": _file,
    "ssl_certfile": _file,
    "ssl_keyfile": _file,
}
