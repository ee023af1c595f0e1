"""Who may use the service: the `auth` of both applications, and the API keys it names. Knows nothing of HTTP or Ray."""

import hashlib
import hmac
import ipaddress
import logging
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from serve_app.errors import SetupError

logger = logging.getLogger(__name__)

MIN_KEY_LENGTH = 16
REMEDY = (
    "name API keys (`auth: {keys_env: API_KEYS}` or `auth: {keys_file: /path}`), "
    "or write `auth: none` to let everyone in"
)

_Stamp = tuple[int, int, int]
_COMMENT = re.compile(r"#[^\n]*")
_SEPARATORS = re.compile(r"[\s,]+")


class KeySource(BaseModel):
    """Where the API keys stand: several at once, separated by commas or lines, so that they can be exchanged."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    keys_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")] | None = Field(
        None, description="The environment variable that holds the API keys, separated by commas."
    )
    keys_file: Annotated[str, StringConstraints(pattern=r"^(/|~/)"), AfterValidator(os.path.expanduser)] | None = Field(
        None,
        description="The absolute path of the file that holds the API keys, one a line, or one that begins with ~/; "
        "read again when it changes.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.keys_env is None) == (self.keys_file is None):
            raise ValueError("give either keys_env or keys_file")
        return self

    def __str__(self) -> str:
        return f"the variable {self.keys_env}" if self.keys_env else f"the file {self.keys_file}"


Auth = Literal["none"] | KeySource | None
"""None: not said, which is enough on a loopback address only."""
AUTH_MEANING = (
    "Who may use the application: clients with an API key, or with `none` everyone who can connect. Left out, the "
    "application starts on a loopback address only. Keys have 16 or more characters; see docs/security.md."
)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ApiKeys:
    """The keys of one source, as hashes; those of a file follow the file."""

    def __init__(self, source: KeySource) -> None:
        """Read them. Raises SetupError when there is none, or one that is too short."""
        self._source = source
        self._stamp = self._read_stamp()
        self._hashes = [_hashed(key) for key in read_keys(source)]

    def admit(self, key: str) -> bool:
        """Tell whether `key` is one of them, in a time that does not depend on how much of it is right."""
        self._follow_file()
        given = _hashed(key)
        return sum(hmac.compare_digest(given, known) for known in self._hashes) > 0  # all are compared: no early end

    def _follow_file(self) -> None:
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._hashes = [_hashed(key) for key in read_keys(self._source)]
        except SetupError as exc:  # half written, or gone: nobody is locked out by it
            logger.error("API keys stay as they were: %s", exc)  # noqa: TRY400 the message is all there is to say
        else:
            logger.info("API keys read again: %d", len(self._hashes))

    def _read_stamp(self) -> _Stamp | None:
        if self._source.keys_file is None:
            return None
        try:
            found = Path(self._source.keys_file).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_keys(source: KeySource) -> list[str]:
    """Return the keys; from # to the end of a line is a comment. Raises SetupError, which shows none of them."""
    keys = [key for key in _SEPARATORS.split(_COMMENT.sub("", _read_text(source))) if key]
    if not keys:
        raise SetupError(
            f"{source} holds no API key; write one or more there, each of {MIN_KEY_LENGTH} characters or more"
        )
    for number, key in enumerate(keys, start=1):
        if len(key) < MIN_KEY_LENGTH or not (key.isascii() and key.isprintable()):
            raise SetupError(
                f"API key {number} in {source} is not {MIN_KEY_LENGTH} or more printable ASCII characters; "
                'python3 -c "import secrets; print(secrets.token_urlsafe(32))" makes a good one'
            )
    return keys


def _read_text(source: KeySource) -> str:
    if source.keys_env is not None:
        return os.environ.get(source.keys_env, "")
    assert source.keys_file is not None
    try:
        return Path(source.keys_file).read_text(encoding="utf-8")
    except OSError as exc:
        what = f"the file {source.keys_file} with the API keys cannot be read: {exc.strerror}"
        raise SetupError(f"{what}; correct the path, or the rights of the file") from exc
    except UnicodeDecodeError:
        raise SetupError(
            f"the file {source.keys_file} with the API keys is not UTF-8 text; write one key a line"
        ) from None


def _hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
