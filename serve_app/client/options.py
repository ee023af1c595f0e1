"""The command line: its options, and which of them exclude each other."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from serve_app.client.answers import FORMATS
from serve_app.client.errors import UsageError
from serve_app.client.items import STANDARD_INPUT
from serve_app.client.plain_text import without_login

STANDARD_OUTPUT = "-"
SERVER = "http://127.0.0.1:8000"
PREFIX = "/model"
GIVE_UP_AFTER_S = 120.0
FIRST_CONTACT_S = 10.0
DOWNLOAD_S = 60.0
DOWNLOAD_RETRIES = 2
BATCH = 20
PARALLEL = 4
TOP_K = 5
MOST_PARALLEL = 64
MOST_BATCH = 1000
MOST_TOP_K = 10
MOST_DEADLINE_MS = 600_000

_PROGRAM = "serve-app-client"
_LIKE = 0.6
"""Of 1: from this likeness on (difflib's ratio) an option is named as the one that was meant."""
_DESCRIPTION = (
    "Classify pictures through the service's API.\n\nExit codes: 0 all were classified, 1 some were not or the service "
    "became\nunreachable, 2 an argument is invalid, 130 stopped by Ctrl-C."
)
_EXAMPLES = """examples:
  %(prog)s photos/ --output photos.csv
  %(prog)s photos/ --output photos.jsonl --resume
  curl -s https://example.com/cat.jpg | %(prog)s -
  %(prog)s -- -name-that-begins-with-a-dash.jpg
"""


_PREFIX = re.compile(r"(/[\w.~-]+)+/?", re.ASCII)


@dataclass(frozen=True)
class Options:
    """The values of the command line."""

    what: list[str]
    urls: str | None
    server: str
    prefix: str
    top_k: int
    jobs: bool
    batch: int | None
    job: list[str]
    cancel: bool
    parallel: int
    format: str | None
    output: Path | None
    resume: bool
    api_key_env: str | None
    deadline_ms: int | None
    no_store: bool
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

    @property
    def kind(self) -> str:
        """The output format: --format, or else the suffix of --output, or else a table."""
        return self.format or (_kind_of(self.output) if self.output else "table")

    def key(self) -> str | None:
        """Return the API key, or None without --api-key-env. Raises UsageError."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not (key.isascii() and key.isprintable()):
            what = "holds no key" if not key else "holds a value that cannot be a key"
            raise UsageError(f"--api-key-env {self.api_key_env}: this environment variable {what}; export it first")
        return key

    def how_to_ask_again(self) -> str:
        """Return the beginning of a command for the same service."""
        key = f" --api-key-env {self.api_key_env}" if self.api_key_env else ""
        prefix = f" --prefix {self.prefix}" if self.prefix != PREFIX else ""
        return f"{program()} --server {without_login(self.server)}{prefix}{key}"


def program() -> str:
    """Return the command as it was typed: the installed program, or the module."""
    return _PROGRAM if Path(sys.argv[0]).stem == _PROGRAM else "python -m serve_app.client"


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of the command line. Raises UsageError; --help ends the process with 0."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # argparse alone takes what stands behind `--` for options again, once they are mixed with paths.
    end = given.index("--") if "--" in given else len(given)
    parsed, unknown = _parser().parse_known_intermixed_args(given[:end])
    if unknown:
        raise UsageError(_describe_unknown(unknown[0]))
    parsed.what += given[end + 1 :]
    options = Options(**vars(parsed))
    for is_wrong, fault in _conflicts(options):
        if is_wrong:
            raise UsageError(fault)
    return options


def _conflicts(options: Options) -> Sequence[tuple[bool, str]]:
    return (*_conflicts_of_inputs(options), *_conflicts_of_outputs(options))


def _conflicts_of_inputs(options: Options) -> Sequence[tuple[bool, str]]:
    asks_for_items = bool(options.what or options.urls)
    of_input = [*options.what, options.urls].count(STANDARD_INPUT)
    return (
        (options.cancel and not options.job, "--cancel: needs a job; name it with --job ID"),
        (bool(options.job) and asks_for_items, "--job: fetches existing jobs; drop PATH, URL and --urls"),
        (not (options.job or asks_for_items), "no input: give a PATH, FOLDER or URL, a list with --urls, or --job ID"),
        (of_input > 1, f"{STANDARD_INPUT}: standard input can be read only once"),
        (
            STANDARD_INPUT in options.what and sys.stdin is not None and sys.stdin.isatty(),
            f"{STANDARD_INPUT}: standard input is a terminal; redirect a picture to it",
        ),
        (options.batch is not None and not options.jobs, "--batch: is the number of files of a job; add --jobs"),
        (
            options.jobs and options.deadline_ms is not None,
            "--deadline-ms and --jobs: jobs have no deadline; drop one of the two options",
        ),
    )


def _conflicts_of_outputs(options: Options) -> Sequence[tuple[bool, str]]:
    output, kind = options.output, options.kind
    exists = output is not None and output.exists()
    return (
        (options.resume and output is None, "--resume: needs the file to resume; name it with --output FILE.jsonl"),
        (
            options.resume and bool(options.job),
            "--resume and --job: fetched jobs cannot be resumed; drop one of the two options",
        ),
        (options.resume and kind != "jsonl", "--resume: works with JSON lines only; use --format jsonl"),
        (
            exists and not options.resume,
            f"--output {output}: already exists; remove it, choose another name, or continue it with --resume",
        ),
        (
            exists and output is not None and not output.is_file(),
            f"--output {output}: is not a regular file, so it cannot be resumed",
        ),
        (
            output is not None and not output.parent.is_dir(),
            f"--output {output}: its folder does not exist; create it first",
        ),
    )


def _kind_of(output: Path) -> str:
    kind = output.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UsageError(
            f"--output {output}: its suffix names no format; add --format with one of {', '.join(FORMATS)}"
        )
    return kind


def _describe_unknown(argument: str) -> str:
    """Return the message about an argument that is no option; its value may be a password and is left out."""
    name = argument.partition("=")[0]
    known = [f"--{field.name.replace('_', '-')}" for field in fields(Options) if field.name != "what"]
    nearest = difflib.get_close_matches(name, known, 1, _LIKE)
    meant = f"did you mean {nearest[0]}?" if nearest else f"{program()} --help lists the options"
    file = "; a file whose name begins with - comes after --" if not argument.startswith("--") else ""
    return f"{name}: no such option; {meant}{file}"


class _Parser(argparse.ArgumentParser):
    """Raises its errors as UsageError: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program(),
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_inputs(parser)
    _add_outputs(parser)
    _add_requests(parser)
    _add_limits(parser)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "what",
        nargs="*",
        metavar="PATH|FOLDER|URL",
        help="a file, a pipe, a folder with all below it, an http or https URL, or - for a picture from standard "
        "input; for example: cat.jpg photos/ https://example.com/cat.jpg",
    )
    add(
        "--urls",
        metavar="FILE",
        help="a UTF-8 file with one URL per line, or - for standard input (default: no list); "
        "for example: --urls urls.txt",
    )
    add(
        "--job",
        action="append",
        default=[],
        metavar="ID",
        help="fetch the results of an existing job; can be repeated (default: none); "
        "for example: --job uluibMd6vy96kLwpw3ESqQ",
    )
    add(
        "--cancel",
        action="store_true",
        help="cancel the jobs of --job instead of fetching them (default: fetch); for example: --job ID --cancel",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--format",
        choices=FORMATS,
        help="output format (default: the suffix of --output, or table on standard output); "
        "for example: --format jsonl",
    )
    add(
        "--output",
        type=_output,
        metavar="FILE",
        help="file to write, which must not exist, or - for standard output (default: standard output); "
        "for example: --output photos.csv",
    )
    add(
        "--resume",
        action="store_true",
        help="continue an --output of JSON lines: skip the files that have a prediction in it (default: start a new "
        "file); for example: photos/ --output photos.jsonl --resume",
    )


def _add_requests(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--server",
        type=_server,
        default=SERVER,
        metavar="URL",
        help="address of the service (default: %(default)s, where `serve-app` listens); "
        "for example: --server http://10.0.0.5:8000",
    )
    add(
        "--prefix",
        type=_prefix,
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
    add(
        "--top-k",
        type=_whole(1, MOST_TOP_K),
        default=TOP_K,
        metavar="N",
        help=f"number of classes per picture, 1-{MOST_TOP_K} (default: %(default)s); for example: --top-k 1",
    )
    add(
        "--no-store",
        action="store_true",
        help="neither read nor write the service's cache (default: use the cache); for example: photos/ --no-store",
    )
    add(
        "--deadline-ms",
        type=_whole(1, MOST_DEADLINE_MS),
        metavar="N",
        help="longest time from the end of an upload to its answer in milliseconds; a later picture fails (default: "
        "the service's own deadline_s); for example: --deadline-ms 2000",
    )
    add(
        "--jobs",
        action="store_true",
        help="send the pictures as background jobs, which survive this client, and wait for them (default: one "
        "request per picture); for example: photos/ --jobs",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--parallel",
        type=_whole(1, MOST_PARALLEL),
        default=PARALLEL,
        metavar="N",
        help=f"requests, or with --jobs jobs, in progress at once, 1-{MOST_PARALLEL} (default: %(default)s); "
        "for example: --parallel 16",
    )
    add(
        "--batch",
        type=_whole(1, MOST_BATCH),
        metavar="N",
        help=f"files per job, 1-{MOST_BATCH}, with --jobs (default: {BATCH}); for example: --jobs --batch 100",
    )
    add(
        "--retries",
        type=_whole(0, None),
        metavar="N",
        help=f"attempts after the first at an answer or a download (default: for answers as many as --give-up-after "
        f"allows, for downloads {DOWNLOAD_RETRIES}); for example: --retries 0",
    )
    add(
        "--give-up-after",
        type=_seconds,
        metavar="S",
        help=f"seconds for an answer or a download, all attempts together (default: {GIVE_UP_AFTER_S:g} for an answer, "
        f"{FIRST_CONTACT_S:g} for the first contact, {DOWNLOAD_S:g} for a download); for example: --give-up-after 30",
    )


def _output(text: str) -> Path | None:
    return None if text == STANDARD_OUTPUT else Path(text)


def _server(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address or parts.query or parts.fragment or not text.isprintable() or " " in text:
        given = "this" if "@" in text else repr(text)  # an address that cannot be parsed may contain a password
        raise argparse.ArgumentTypeError(f"{given} is not an address such as {SERVER}")
    return text.rstrip("/")


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a path such as {PREFIX}")
    return text.rstrip("/")


class _whole:  # noqa: N801 argparse shows its name
    """A whole number within bounds."""

    def __init__(self, least: int, most: int | None) -> None:
        self._least = least
        self._most = most

    def __call__(self, text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() else -1
        if number < self._least or (self._most is not None and number > self._most):
            bounds = f"from {self._least} to {self._most:,}" if self._most is not None else f"of {self._least} or more"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
