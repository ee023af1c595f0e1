"""The options that every command of the client has: how to reach a service, and for how long to try."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, NoReturn, TypeVar
from urllib.parse import urlsplit

from serve_app.client.errors import UsageError

EVALUATE = "evaluate"
"""The first word of the command that measures; without it, pictures are classified."""
SERVER = "http://127.0.0.1:8000"
PREFIX = "/model"
GIVE_UP_AFTER_S = 120.0
FIRST_CONTACT_S = 10.0
DOWNLOAD_S = 60.0
DOWNLOAD_RETRIES = 2
PARALLEL = 4
MOST_PARALLEL = 64

_PROGRAM = "serve-app-client"
_LIKE = 0.6
"""Of 1: from this likeness on (difflib's ratio) an option is named as the one that was meant."""
_PREFIX = re.compile(r"(/[\w.~-]+)+/?", re.ASCII)


@dataclass(frozen=True)
class Connection:
    """How to reach a service, and for how long to try."""

    address_option: ClassVar[str] = "--server"
    key_option: ClassVar[str] = "--api-key-env"

    server: str
    prefix: str
    api_key_env: str | None
    no_store: bool
    parallel: int
    retries: int | None
    give_up_after: float | None

    @property
    def give_up_after_s(self) -> float:
        """Time limit of one answer, all attempts together."""
        return self.give_up_after or GIVE_UP_AFTER_S

    @property
    def first_contact_s(self) -> float:
        """Time limit of the first answer: a wrong address is reported before two minutes have passed."""
        return self.give_up_after or FIRST_CONTACT_S

    @property
    def download_s(self) -> float:
        """Time limit of one download, all attempts together."""
        return self.give_up_after or DOWNLOAD_S

    @property
    def download_retries(self) -> int:
        """Attempts at a download after the first."""
        return DOWNLOAD_RETRIES if self.retries is None else self.retries

    def key(self) -> str | None:
        """Return the API key, or None without its option. Raises UsageError."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not (key.isascii() and key.isprintable()):
            what = "holds no key" if not key else "holds a value that cannot be a key"
            raise UsageError(f"{self.key_option} {self.api_key_env}: this environment variable {what}; export it first")
        return key


Parsed = TypeVar("Parsed", bound=Connection)


def program() -> str:
    """Return the command as it was typed: the installed program, or the module."""
    return _PROGRAM if Path(sys.argv[0]).stem == _PROGRAM else "python -m serve_app.client"


class Parser(argparse.ArgumentParser):
    """Raises its errors as UsageError: one line, without the usage. Its help shows texts as they are."""

    def __init__(self, command: str, description: str, examples: Sequence[str]) -> None:
        super().__init__(
            prog=command,
            description=description,
            epilog="\n".join(["examples:", *(f"  {example}" for example in examples)]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message.removeprefix("argument "))


Conflicts = Iterable[tuple[bool, str]]
"""What the options of a command line may have against each other: pairs of (is so, message)."""


def read(
    parser: Parser, kind: type[Parsed], conflicts: Callable[[Parsed], Conflicts], arguments: Sequence[str] | None
) -> Parsed:
    """Return the command line as a `kind`. Raises UsageError, also for `conflicts`; --help ends the process with 0."""
    options = parse(parser, kind, arguments)
    for is_so, fault in conflicts(options):
        if is_so:
            raise UsageError(fault)
    return options


def parse(parser: Parser, kind: type[Parsed], arguments: Sequence[str] | None = None) -> Parsed:
    """Return the values of the command line as a `kind`, with what comes after `--` in its `what`.

    Raises UsageError for an option that does not exist or has a wrong value.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    # argparse alone takes what stands behind `--` for options again, once they are mixed with paths.
    end = given.index("--") if "--" in given else len(given)
    parsed, unknown = parser.parse_known_intermixed_args(given[:end])
    if unknown:
        raise UsageError(_describe_unknown(unknown[0], parser.prog, [field.name for field in fields(kind)]))
    parsed.what += given[end + 1 :]
    return kind(**vars(parsed))


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add --server, --prefix and --api-key-env."""
    add = parser.add_argument
    add(
        "--server",
        type=server_address,
        default=SERVER,
        metavar="URL",
        help="address of the service (default: %(default)s, where `serve-app` listens); "
        "for example: --server http://10.0.0.5:8000",
    )
    add(
        "--prefix",
        type=route_prefix,
        default=PREFIX,
        metavar="PATH",
        help="route_prefix of the model's application, where a service has several (default: %(default)s); "
        "for example: --prefix /cats",
    )
    add(
        "--api-key-env",
        metavar="NAME",
        help="environment variable that contains the API key (default: no key is sent); "
        "for example: --api-key-env SERVE_APP_KEY",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add --no-store."""
    parser.add_argument(
        "--no-store",
        action="store_true",
        help="neither read nor write the service's cache (default: use the cache); for example: photos/ --no-store",
    )


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add --parallel, --retries and --give-up-after."""
    add = parser.add_argument
    add(
        "--parallel",
        type=whole(1, MOST_PARALLEL),
        default=PARALLEL,
        metavar="N",
        help=f"requests, or with --jobs jobs, in progress at once, 1-{MOST_PARALLEL} (default: %(default)s); "
        "for example: --parallel 16",
    )
    add(
        "--retries",
        type=whole(0, None),
        metavar="N",
        help=f"attempts after the first at an answer or a download (default: for answers as many as --give-up-after "
        f"allows, for downloads {DOWNLOAD_RETRIES}); for example: --retries 0",
    )
    add(
        "--give-up-after",
        type=lambda text: number(text, lambda seconds: 0 < seconds < float("inf"), "a number of seconds above 0"),
        metavar="S",
        help=f"seconds for an answer or a download, all attempts together (default: {GIVE_UP_AFTER_S:g} for an answer, "
        f"{FIRST_CONTACT_S:g} for the first contact, {DOWNLOAD_S:g} for a download); for example: --give-up-after 30",
    )


def server_address(text: str) -> str:
    """Return the address of a service; argparse's type."""
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address or parts.query or parts.fragment or not text.isprintable() or " " in text:
        given = "this" if "@" in text else repr(text)  # an address that cannot be parsed may contain a password
        raise argparse.ArgumentTypeError(f"{given} is not an address such as {SERVER}")
    return text.rstrip("/")


def route_prefix(text: str) -> str:
    """Return the route_prefix of a model's application; argparse's type."""
    if not _PREFIX.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a path such as {PREFIX}")
    return text.rstrip("/")


class whole:  # noqa: N801 argparse shows its name
    """A whole number within bounds."""

    def __init__(self, least: int, most: int | None) -> None:
        self._least = least
        self._most = most

    def __call__(self, text: str) -> int:
        """Return the number that `text` is; argparse's type."""
        number = int(text) if text.isascii() and text.isdigit() else -1
        if number < self._least or (self._most is not None and number > self._most):
            bounds = f"from {self._least} to {self._most:,}" if self._most is not None else f"of {self._least} or more"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return number


def number(text: str, fits: Callable[[float], bool], what: str) -> float:
    """Return the number that `text` is, for a type of argparse. Raises ArgumentTypeError unless it `fits`."""
    with suppress(ValueError):
        if fits(found := float(text)):
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is not {what}")


def _describe_unknown(argument: str, command: str, names: Sequence[str]) -> str:
    """Return the message about an argument that is no option; its value may be a password and is left out."""
    name = argument.partition("=")[0]
    known = [f"--{name.replace('_', '-')}" for name in names if name != "what"]
    nearest = difflib.get_close_matches(name, known, 1, _LIKE)
    meant = f"did you mean {nearest[0]}?" if nearest else f"{command} --help lists the options"
    file = "; a file whose name begins with - comes after --" if not argument.startswith("--") else ""
    return f"{name}: no such option; {meant}{file}"
