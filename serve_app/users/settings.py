"""What the users application can be told: its settings (Serve YAML) and its database (DATABASE_URL).

Called by the Serve builder and `seed_users`. Reads the environment only when asked; knows nothing of SQL.
"""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import BaseModel, Field

from serve_app.access import Auth
from serve_app.errors import SetupError
from serve_app.places import data_dir

MAX_DEMO_USERS = 1_000_000

_POSTGRES_SCHEMES = {"postgres", "postgresql", "postgresql+asyncpg"}
_SQLITE_SCHEMES = {"sqlite", "sqlite+aiosqlite"}
_SSL_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
# asyncpg says `ssl` where libpq, and so the address that a database provider hands out, says `sslmode`.
_DRIVER_PARAMETERS = {"host": "host", "port": "port", "ssl": "ssl", "sslmode": "ssl"}
_EXAMPLES = "postgresql://user:password@host:5432/database or sqlite:////folder/users.sqlite3"


class UsersSettings(BaseModel, extra="forbid", frozen=True, hide_input_in_errors=True):
    """The args of the users application in the Serve YAML."""

    auth: Auth = Field(None, description="API keys ({keys_env: NAME} or {keys_file: PATH}) | none | not given.")
    pool_size: int = Field(default=5, ge=1, le=100, description="Database connections per replica.")
    pool_wait_s: float = Field(default=0.3, gt=0, le=60, description="Longest wait for a free connection; then 503.")
    statement_timeout_s: float = Field(default=0.5, gt=0, le=60, description="Longest run of one statement; then 503.")
    demo_users: int = Field(
        default=10_000, ge=1, le=MAX_DEMO_USERS, description="Users made when the table is missing or empty."
    )


def database_url(given: str | None = None) -> str:
    """Return the database address with its async driver: `given`, DATABASE_URL, or a file of this user.

    Raises SetupError on an address that is neither PostgreSQL nor a SQLite file. No message shows the address
    itself, because it may hold a password.
    """
    url = (given or os.environ.get("DATABASE_URL") or "").strip()
    if not url:
        return _sqlite_url(data_dir() / "users.sqlite3")
    scheme, separator, rest = url.partition("://")
    if separator and scheme in _SQLITE_SCHEMES:
        return _sqlite_url(_sqlite_file(rest))
    if separator and scheme in _POSTGRES_SCHEMES:
        return _postgres_url(rest)
    raise _refusal("it must begin with postgresql:// or sqlite:///")


def without_password(url: str) -> str:
    """Return `url` with its password replaced by ***, for people to read."""
    return re.sub(r"://([^:/@]*):.*@", r"://\1:***@", url)


def _refusal(reason: str) -> SetupError:
    return SetupError(f"DATABASE_URL: {reason}; use {_EXAMPLES}")


def _sqlite_url(file: Path) -> str:
    # Absolute, because a Serve replica does not run in the folder where the address was written.
    return f"sqlite+aiosqlite:///{file.expanduser().absolute()}"


def _sqlite_file(rest: str) -> Path:
    path = rest.removeprefix("/")
    if not rest.startswith("/") or not path or path == ":memory:":
        raise _refusal("it names no SQLite file (a database in memory would be lost with its replica)")
    if "?" in path:
        raise _refusal("a SQLite address takes no parameters")
    return Path(path)


def _postgres_url(rest: str) -> str:
    try:
        parts = urlsplit(f"//{rest}")
        _ = parts.port
    except ValueError:
        # Without the cause: its text quotes what stands after the colon, which may be half of a password.
        raise _refusal("the port is not a number; write /, ?, # and @ in a password as %2F, %3F, %23, %40") from None
    if parts.fragment:
        raise _refusal("it contains a #, which is written %23 in a password")
    query = _driver_query(parts.query)
    return f"postgresql+asyncpg://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")


def _driver_query(query: str) -> str:
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(given.keys() - _DRIVER_PARAMETERS.keys()):
        raise _refusal(f"unknown parameter {unknown[0]!r}; known are {', '.join(_DRIVER_PARAMETERS)}")
    parameters = {_DRIVER_PARAMETERS[name]: value for name, value in given.items()}
    if parameters.get("ssl", "prefer") not in _SSL_MODES:
        raise _refusal(f"sslmode must be one of {', '.join(sorted(_SSL_MODES))}")
    if not parameters.get("port", "0").isdecimal():
        raise _refusal("the parameter port is not a number")
    return urlencode(parameters)
