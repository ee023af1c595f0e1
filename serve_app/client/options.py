"""The command line: what can be asked for, and what does not go together."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from serve_app.client.answers import FORMATS
from serve_app.client.errors import UsageError
from serve_app.client.plain_text import without_login

GIVE_UP_AFTER_S = 120.0
FIRST_CONTACT_S = 10.0
BATCH = 20
PARALLEL = 4
MOST_PARALLEL = 64
MOST_BATCH = 1000
MOST_TOP_K = 10
MOST_DEADLINE_MS = 600_000

_DESCRIPTION = (
    "Classify pictures through the service's API. Exit codes: 0 all were classified, 1 some were not, 2 an argument "
    "cannot be used, 130 stopped by Ctrl-C."
)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    what: list[str]
    urls: str | None
    server: str
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
        """Longest time for one answer."""
        return self.give_up_after or GIVE_UP_AFTER_S

    @property
    def first_contact_s(self) -> float:
        """Longest time for the first answer: an address that is wrong should not take two minutes to show."""
        return self.give_up_after or FIRST_CONTACT_S

    @property
    def kind(self) -> str:
        """The format of the output: as asked for, or as the name of --output says, or a table."""
        return self.format or (_kind_of(self.output) if self.output else "table")

    def key(self) -> str | None:
        """Return the API key, if one was named. Raises UsageError."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key or not (key.isascii() and key.isprintable()):
            what = "holds no key" if not key else "holds what cannot be a key"
            raise UsageError(f"--api-key-env {self.api_key_env}: this environment variable {what}; export it first")
        return key

    def how_to_ask_again(self) -> str:
        """Return the beginning of a command that reaches the same service."""
        key = f" --api-key-env {self.api_key_env}" if self.api_key_env else ""
        return f"python -m serve_app.client --server {without_login(self.server)}{key}"


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Return what the command line says. Raises UsageError; argparse itself ends the process with 2."""
    options = Options(**vars(_parser().parse_intermixed_args(arguments)))
    for is_wrong, fault in _conflicts(options):
        if is_wrong:
            raise UsageError(fault)
    return options


def _conflicts(options: Options) -> Sequence[tuple[bool, str]]:
    asks_for_items = bool(options.what or options.urls)
    return (
        (options.cancel and not options.job, "--cancel: say which job with --job ID"),
        (bool(options.job) and asks_for_items, "--job: fetches jobs of before; leave PATH, URL and --urls away"),
        (not (options.job or asks_for_items), "give a PATH, FOLDER or URL, a list with --urls, or --job ID"),
        (options.batch is not None and not options.jobs, "--batch: is how many files make a job; add --jobs"),
        (options.jobs and options.deadline_ms is not None, "--deadline-ms: a job has none; leave it or --jobs away"),
        (options.resume and options.output is None, "--resume: goes on with a file; name it with --output X.jsonl"),
        (options.resume and bool(options.job), "--resume: does not go with --job"),
        (options.resume and options.kind != "jsonl", "--resume: needs JSON lines; use --format jsonl"),
        (
            not options.resume and options.output is not None and options.output.exists(),
            f"--output {options.output}: is there already; remove it, choose another name, or go on with --resume",
        ),
        (
            options.resume and options.output is not None and options.output.exists() and not options.output.is_file(),
            f"--output {options.output}: is no regular file, so there is nothing to go on with",
        ),
        (
            options.output is not None and not options.output.parent.is_dir(),
            f"--output {options.output}: there is no such folder; make it first",
        ),
    )


def _kind_of(output: Path) -> str:
    kind = output.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UsageError(f"--output {output}: say with --format which of {', '.join(FORMATS)} it shall be")
    return kind


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve_app.client", description=_DESCRIPTION)
    add = parser.add_argument
    add("what", nargs="*", metavar="PATH|FOLDER|URL", help="a file, a folder (with all below it), an http or https URL")
    add("--urls", metavar="FILE", help="a file with one URL a line; - is standard input")
    add("--server", type=_server, default="http://127.0.0.1:8000", metavar="URL", help="(default: %(default)s)")
    add("--top-k", type=_whole(1, MOST_TOP_K), default=5, metavar="N", help="how many classes, 1-10 (default: 5)")
    add("--jobs", action="store_true", help="send batches as jobs, which outlive this client, and wait for them")
    add("--batch", type=_whole(1, MOST_BATCH), metavar="N", help=f"with --jobs: files of one job (default: {BATCH})")
    add("--job", action="append", default=[], metavar="ID", help="fetch what became of this job; may be repeated")
    add("--cancel", action="store_true", help="with --job: cancel it instead")
    add(
        "--parallel",
        type=_whole(1, MOST_PARALLEL),
        default=PARALLEL,
        metavar="N",
        help=f"requests, or jobs, under way at once, 1-{MOST_PARALLEL} (default: {PARALLEL})",
    )
    add("--format", choices=FORMATS, help="(default: as the name of --output ends, else table)")
    add("--output", type=Path, metavar="FILE", help="write there instead of to standard output")
    add("--resume", action="store_true", help="go on with --output X.jsonl: skip what it has predictions for")
    add("--api-key-env", metavar="NAME", help="the environment variable that holds the API key")
    add(
        "--deadline-ms",
        type=_whole(1, MOST_DEADLINE_MS),
        metavar="N",
        help="longest time for one answer once the picture is there; beyond, that picture has failed",
    )
    add("--no-store", action="store_true", help="neither take answers from the service's cache nor leave them there")
    add("--retries", type=_whole(0, None), metavar="N", help="attempts after the first (default: as time allows)")
    add(
        "--give-up-after",
        type=_seconds,
        metavar="S",
        help=f"longest time for one answer, all attempts together (default: {GIVE_UP_AFTER_S:g}; "
        f"{FIRST_CONTACT_S:g} for the first contact)",
    )
    return parser


def _server(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address or parts.query or parts.fragment or not text.isprintable() or " " in text:
        given = "this" if "@" in text else repr(text)  # what cannot be read may be a password that is not escaped
        raise argparse.ArgumentTypeError(f"{given} is no address such as http://127.0.0.1:8000")
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
