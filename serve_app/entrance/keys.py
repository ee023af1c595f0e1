"""Who may use the service: the `auth` of both applications, and the API keys it names. Knows nothing of HTTP or Ray."""

import hashlib
import hmac
import ipaddress
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from serve_app.errors import SetupError
from serve_app.places import without_zero_byte

logger = logging.getLogger(__name__)

MIN_KEY_LENGTH = 16
REMEDY = (
    "name API keys (`auth: {keys_env: API_KEYS}` or `auth: {keys_file: /path}`), "
    "or write `auth: none` to let everyone in"
)

_Stamp = tuple[int, int, int]
_COMMENT = re.compile(r"#[^\n]*")
_SEPARATORS = re.compile(r"[\n\r,]")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,31}")
_RESERVED_NAME = re.compile(r"key-\d+")
"""Of keys that have none."""
_LOOKS_LIKE_A_KEY = re.compile(rf"(?=.*[A-Za-z])(?=.*\d).{{{MIN_KEY_LENGTH},}}")
"""A name that does would be a key in logs and metrics."""
_NAME_WITHOUT_SPACE = re.compile(rf"{_NAME.pattern}:.{{{MIN_KEY_LENGTH},}}")


class KeySource(BaseModel):
    """Where the API keys stand, several at once, so that they can be exchanged, and how much each client may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    keys_env: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")] | None = Field(
        None,
        description="The environment variable that holds the API keys, `name: KEY` or `KEY`, separated by commas.",
    )
    keys_file: (
        Annotated[
            str,
            StringConstraints(pattern=r"^(/|~/)"),
            AfterValidator(without_zero_byte),
            AfterValidator(os.path.expanduser),
        ]
        | None
    ) = Field(
        None,
        description="The file that holds the API keys, `name: KEY` or `KEY`, one a line: an absolute path, or one that "
        "begins with ~/; read again when it changes.",
    )
    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Most of a replica's open requests, queue and upload bytes that the keys of one name may hold at a "
        "time, and at least one request; beyond: 429 with Retry-After. Only a large request that comes alone may take "
        "more: docs/security.md. `1`: no such bound. Without effect where all keys have one name.",
        json_schema_extra={"unit": "–"},
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.keys_env is None) == (self.keys_file is None):
            raise ValueError("give either keys_env or keys_file")
        return self

    @property
    def form(self) -> str:
        """How the keys are written there, for messages."""
        return "`name: KEY`, separated by commas" if self.keys_env else "`name: KEY`, one a line"

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


@dataclass(frozen=True)
class NamedKey:
    """An API key and the name of the client that it belongs to, which tells nothing of the key."""

    name: str
    key: str = field(repr=False)


class ApiKeys:
    """The keys of one source, as hashes; those of a file follow the file."""

    def __init__(self, source: KeySource) -> None:
        """Read them. Raises SetupError when there is none, or one that cannot be used."""
        self.source = source
        self._stamp = self._read_stamp()
        self._take_in(read_keys(source))

    def count_clients(self) -> int:
        """Return how many clients there are: all keys of one name belong to one."""
        return self._clients

    def find_name(self, key: str) -> str | None:
        """Return the name of `key`, None if it is no key, in a time that does not depend on how much of it is right."""
        self._follow_file()
        given = _hashed(key)
        found = [name for known, name in self._names.items() if hmac.compare_digest(given, known)]  # all are compared
        return found[0] if found else None

    def _take_in(self, keys: list[NamedKey]) -> None:
        names = dict.fromkeys(each.name for each in keys)
        self._names = {_hashed(each.key): each.name for each in keys}
        self._clients = len(names)
        logger.info("%d API key(s) in %s, named %s", len(keys), self.source, ", ".join(names))
        for each in keys:
            if _NAME_WITHOUT_SPACE.fullmatch(each.key):
                logger.warning(
                    "%s in %s has a colon and is taken as a whole; if it is to have a name, write `name: KEY`, with a "
                    "space",
                    each.name,
                    self.source,
                )

    def _follow_file(self) -> None:
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take_in(read_keys(self.source))
        except SetupError as exc:  # half written, or gone: nobody is locked out by it
            logger.error("API keys stay as they were: %s", exc)  # noqa: TRY400 the message is all there is to say

    def _read_stamp(self) -> _Stamp | None:
        if self.source.keys_file is None:
            return None
        try:
            found = Path(self.source.keys_file).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def read_keys(source: KeySource) -> list[NamedKey]:
    """Return the keys with their names; the third key is `key-3` where it has none.

    From # to the end of a line is a comment. A key that stands there twice is one key, by its name if it has one.
    Raises SetupError, which shows no key.
    """
    keys = list(_named_keys(source))
    if not keys:
        raise SetupError(
            f"{source} holds no API key; write one or more there, each of {MIN_KEY_LENGTH} characters or more"
        )
    names: dict[str, str] = {}
    for number, each in enumerate(keys, start=1):
        if len(each.key) < MIN_KEY_LENGTH or not (each.key.isascii() and each.key.isprintable()):
            raise SetupError(
                f"API key {number} in {source} is not {MIN_KEY_LENGTH} or more printable ASCII characters; "
                'python3 -c "import secrets; print(secrets.token_urlsafe(32))" makes a good one'
            )
        known = names.setdefault(each.key, each.name)
        if known == each.name or _RESERVED_NAME.fullmatch(each.name):
            continue
        if not _RESERVED_NAME.fullmatch(known):
            raise SetupError(
                f"API key {number} in {source} stands there as {known} and as {each.name}; remove one of the two"
            )
        names[each.key] = each.name
    return [NamedKey(name, key) for key, name in names.items()]


def _named_keys(source: KeySource) -> Iterator[NamedKey]:
    """Yield what the text says, whatever the keys are. Raises SetupError for a name that cannot be used.

    A word with a colon at its end is a name, never a key: it would be easy to guess. No message shows it, though:
    somebody's key may end so.
    """
    number = 1
    for entry in _SEPARATORS.split(_COMMENT.sub("", _read_text(source))):
        words = entry.split()
        here = f"API key {number} in {source}"
        if ":" in words:
            raise SetupError(f"{here} has a colon that stands alone; write {source.form}")
        name = words.pop(0)[:-1] if words and words[0].endswith(":") else None
        if name is not None and (len(words) != 1 or words[0].endswith(":")):
            raise SetupError(f"{here} has a name with {len(words)} words behind it; write {source.form}")
        if name is not None and _LOOKS_LIKE_A_KEY.fullmatch(name):
            raise SetupError(
                f"{here} has a name that looks like a key, and logs and metrics show names; take a name without digits "
                f"or of less than {MIN_KEY_LENGTH} characters"
            )
        if name is not None and not (_NAME.fullmatch(name) and not _RESERVED_NAME.fullmatch(name)):
            raise SetupError(
                f"{here} has a name that cannot be used; a name has up to 32 letters, digits and ._- and begins with a "
                "letter; names such as key-1 are those of keys without a name"
            )
        for word in words:
            if word.endswith(":"):
                raise SetupError(f"{here} is followed by a name without a separator; write {source.form}")
            yield NamedKey(name or f"key-{number}", word)
            number += 1


def _read_text(source: KeySource) -> str:
    if source.keys_env is not None:
        return os.environ.get(source.keys_env, "")
    assert source.keys_file is not None
    try:
        return Path(source.keys_file).read_text(encoding="utf-8-sig")
    except OSError as exc:
        what = f"the file {source.keys_file} with the API keys cannot be read: {exc.strerror}"
        raise SetupError(f"{what}; correct the path, or the rights of the file") from exc
    except UnicodeDecodeError:
        raise SetupError(
            f"the file {source.keys_file} with the API keys is not UTF-8 text; write one key a line"
        ) from None


def _hashed(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
