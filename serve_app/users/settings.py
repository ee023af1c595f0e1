"""What the users application can be told: its settings (Serve YAML) and its database (DATABASE_URL).

Called by the Serve builder and `seed_users`. Reads the environment only when asked; knows nothing of SQL.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlencode

from pydantic import BaseModel, Field

from serve_app.address import Address, AddressFault, is_host, parameters, read_port, read_strictly, unescaped
from serve_app.entrance.keys import AUTH_MEANING, Auth
from serve_app.errors import Fault, SetupError
from serve_app.places import DATA_VARIABLE, data_dir

VARIABLE = "DATABASE_URL"
MAX_DEMO_USERS = 1_000_000

_POSTGRES_SCHEMES = {"postgres", "postgresql", "postgresql+asyncpg"}
_SQLITE_SCHEMES = {"sqlite", "sqlite+aiosqlite"}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# asyncpg says `ssl` where libpq, and so the address that a database provider hands out, says `sslmode`.
_PARAMETERS = ("channel_binding", "host", "port", "ssl", "sslmode")
_WHOLE_PATH = "write the whole path of a folder, without ~"
_EXAMPLES = "postgresql://user:password@host:5432/database or sqlite:////folder/users.sqlite3"


class UsersSettings(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    """The args of the users application in the Serve YAML."""

    auth: Auth = Field(None, description=AUTH_MEANING)
    pool_size: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Database connections of one replica; further requests wait for one.",
        json_schema_extra={"unit": "connections"},
    )
    pool_wait_s: float = Field(default=0.3, gt=0, le=60, description="Longest wait for a connection; beyond: 503.")
    statement_timeout_s: float = Field(
        default=0.5,
        gt=0,
        le=60,
        description="Longest run of one statement; beyond: 503. With pool_wait_s below 1 s, so that clients learn soon "
        "that the database fails.",
    )
    demo_users: int = Field(
        default=10_000,
        ge=1,
        le=MAX_DEMO_USERS,
        description="Users made at the first start, when the table is missing or empty.",
        json_schema_extra={"unit": "users"},
    )


def database_url(given: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the database address with its async driver: `given`, DATABASE_URL, or a file of this user.

    Raises SetupError on an address that is neither PostgreSQL nor a SQLite file, and where its driver is not installed.
    No message shows the address itself, because it may hold a password.
    """
    url = (given or environment.get(VARIABLE) or "").strip()
    try:
        return _read(url) if url else _sqlite_url(data_dir() / "users.sqlite3")
    except AddressFault as exc:
        fault = Fault(VARIABLE, str(exc), f"use {_EXAMPLES}") if url else Fault(DATA_VARIABLE, str(exc), _WHOLE_PATH)
        raise SetupError(fault) from None


def without_password(url: str) -> str:
    """Return `url` with its password replaced by ***, for people to read."""
    return re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)


def _read(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if separator and scheme.lower() in _SQLITE_SCHEMES:
        return _sqlite_url(_sqlite_file(rest))
    if separator and scheme.lower() in _POSTGRES_SCHEMES:
        return _postgres_url(read_strictly(url))
    raise AddressFault("it must begin with postgresql:// or sqlite:///")


def _sqlite_url(file: Path) -> str:
    try:
        found = file.expanduser()
    except RuntimeError:
        raise AddressFault("its path begins with ~ and the name of no user of this machine") from None
    # Absolute, because a Serve replica does not run in the folder where the address was written.
    return f"sqlite+aiosqlite:///{quote(str(found.absolute()))}"


def _sqlite_file(rest: str) -> Path:
    path = rest.removeprefix("/")
    if not rest.startswith("/") or not path or path == ":memory:":
        raise AddressFault("it names no SQLite file (a database in memory would be lost with its replica)")
    if "?" in path:
        raise AddressFault("a SQLite address takes no parameters")
    file = unescaped(path)
    if "\0" in file:
        raise AddressFault("the name of a file has no zero byte")
    return Path(file)


def _postgres_url(address: Address) -> str:
    given = parameters(address, _PARAMETERS)
    for name, in_front in (("host", address.host), ("port", address.port)):
        if in_front is not None and name in given:
            raise AddressFault(f"it has the {name} twice, after the @ and as a parameter")
    database = unescaped(address.path.removeprefix("/"))
    if any("\0" in (text or "") for text in (address.username, address.password, database)):
        raise AddressFault("PostgreSQL takes no zero byte in a user, a password or the name of a database")
    _refuse_channel_binding(given.get("channel_binding", "prefer"))
    port = address.port or (read_port(given["port"]) if "port" in given else None)
    query = _host_parameters(given["host"], port) if "host" in given else {}
    if mode := _ssl_mode(given):
        query["ssl"] = mode
    _refuse_missing_driver()
    user = "" if address.username is None else _escaped(address.username)
    password = "" if address.password is None else f":{_escaped(address.password)}"
    place = "" if "host" in given else replace(address, port=port).place
    at = "@" if user or password else ""
    name = f"/{quote(database)}" if database else ""
    parameter = f"?{urlencode(query, quote_via=quote)}" if query else ""
    return f"postgresql+asyncpg://{user}{password}{at}{place}{name}{parameter}"


def _host_parameters(host: str, port: int | None) -> dict[str, str]:
    if not (host.startswith("/") or (re.fullmatch(r"[\w.-]+", host) and is_host(host))) or "\0" in host:
        raise AddressFault("its parameter host is neither one host name nor the folder of a socket (/…)")
    return {"host": host} if port is None else {"host": host, "port": str(port)}


def _ssl_mode(given: Mapping[str, str]) -> str | None:
    if "ssl" in given and "sslmode" in given:
        raise AddressFault("it has both ssl and sslmode, which mean the same")
    mode = given.get("sslmode", given.get("ssl"))
    if mode is not None and mode not in _SSL_MODES:
        raise AddressFault(f"sslmode must be one of {', '.join(_SSL_MODES)}")
    return mode


def _refuse_channel_binding(wanted: str) -> None:
    if wanted not in ("disable", "prefer"):  # the driver has none: to prefer it is to go on without
        raise AddressFault("channel_binding is not supported by the driver asyncpg; remove it, sslmode=require stays")


def _refuse_missing_driver() -> None:
    if find_spec("asyncpg") is None:
        remedy = "install it: .venv/bin/uv pip install -c requirements.lock -e '.[postgres]'"
        raise SetupError(Fault(VARIABLE, "PostgreSQL needs the driver asyncpg, which is not installed", remedy))


def _escaped(text: str) -> str:
    return quote(text, safe="")
