"""Reads addresses that may hold a password: REDIS_URL, DATABASE_URL, the URLs of weights and labels.

The libraries behind them read what is not escaped each in its own way, and quote the rest in their errors. So an
address is taken apart here, once, and no message has any part of one in it: nobody knows where a password ends that is
not escaped.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import unquote

ESCAPES = "write / ? # @ & % in a password as %2F %3F %23 %40 %26 %25"
MOST_PORT = 65_535

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_PARTS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)")
_HOST = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[\w.-]*))(?::(?P<port>.*))?")
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_LONGEST = 8192


class AddressFault(ValueError):
    """An address cannot be used. The message is a fixed text, without any part of it."""


@dataclass(frozen=True)
class Address:
    """scheme://username:password@host:port/path?query: username and password unescaped, path and query as written."""

    scheme: str
    username: str | None
    password: str | None = field(repr=False)
    host: str | None
    port: int | None
    path: str
    query: str = field(repr=False)

    @property
    def place(self) -> str:
        """Host and port as an address has them."""
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host or ""
        return host if self.port is None else f"{host}:{self.port}"

    def without_login(self) -> str:
        """Return the address without username and password."""
        return f"{self.scheme}://{self.place}{self.path}" + (f"?{self.query}" if self.query else "")


def read_address(text: str) -> Address:
    """Return the parts of `text`, of which only host, port and path may be shown. Raises AddressFault.

    It must hold at most one @ before its path, and none after it where that could be the end of a password.
    """
    if len(text) > _LONGEST or _CONTROL.search(text):
        raise AddressFault(f"it has control characters, is not UTF-8, or is longer than {_LONGEST:,} characters")
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise AddressFault("it does not begin with a scheme and ://")
    rest = parts["rest"]
    if "#" in rest:
        raise AddressFault(f"it has a #; {ESCAPES}")
    user, at, place = parts["authority"].rpartition("@")
    has_port = ":" in place.rpartition("]")[2]
    if "@" in user or (not at and has_port and "@" in parts["path"] + rest):
        raise AddressFault(f"it has an @ too many; {ESCAPES}")
    username, colon, password = user.partition(":")
    host, port = _host_and_port(place)
    return Address(
        scheme=parts["scheme"].lower(),
        username=unescaped(username) if username else None,
        password=unescaped(password) if colon else None,
        host=host,
        port=port,
        path=parts["path"],
        query=rest.removeprefix("?"),
    )


def read_strictly(text: str) -> Address:
    """Return the same, with no @ after the host at all: what is no web address has no use for one."""
    address = read_address(text)
    if "@" in address.path + address.query:
        raise AddressFault(f"it has an @ after the host; {ESCAPES}")
    return address


def parameters(address: Address, known: Collection[str]) -> dict[str, str]:
    """Return the parameters of the query, unescaped. Raises AddressFault when one is not `known` or stands twice."""
    found: dict[str, str] = {}
    for part in address.query.split("&") if address.query else ():
        name, equals, value = part.partition("=")
        if name not in known:
            raise AddressFault(
                f"it has {_unknown(name if equals else '', address)}; known are {', '.join(sorted(known)) or 'none'}"
            )
        if name in found:
            raise AddressFault(f"its parameter {name} stands twice")
        found[name] = unescaped(value)
    return found


def read_port(text: str) -> int:
    """Return a port. Raises AddressFault."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST_PORT)) and 1 <= int(text) <= MOST_PORT):
        raise AddressFault(f"its port is not a number from 1 to {MOST_PORT}; {ESCAPES}")
    return int(text)


def unescaped(text: str) -> str:
    """Return `text` without its %-escapes. Raises AddressFault when they are not UTF-8."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise AddressFault("its escapes (%…) are not UTF-8") from None


def is_host(name: str) -> bool:
    """Tell whether Python can look a host's name up, which may be empty: its parts have 1 to 63 characters each."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def _host_and_port(place: str) -> tuple[str | None, int | None]:
    parts = _HOST.fullmatch(place)
    is_usable = parts is not None and (_is_ipv6(parts["v6"]) if parts["v6"] is not None else is_host(parts["name"]))
    if parts is None or not is_usable:
        raise AddressFault(f"its host is no host name, IPv4 address or [IPv6 address]; {ESCAPES}")
    port = parts["port"]
    return parts["v6"] or parts["name"] or None, read_port(port) if port is not None else None


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6  # noqa: PLR2004
    except ValueError:
        return False


def _unknown(name: str, address: Address) -> str:
    # What follows a password in the query may be the rest of it.
    is_safe = _PARAMETER.fullmatch(name) and "pass" not in address.query.lower()
    return f"the unknown parameter {name}" if is_safe else "an unknown parameter"
