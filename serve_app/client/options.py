"""The command line: its options, and which of them exclude each other."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serve_app.client.answers import FORMATS
from serve_app.client.connection import (
    EVALUATE,
    PREFIX,
    Conflicts,
    Connection,
    Parser,
    add_address,
    add_cache,
    add_limits,
    program,
    read,
    whole,
)
from serve_app.client.errors import UsageError
from serve_app.client.items import STANDARD_INPUT
from serve_app.client.plain_text import without_login

STANDARD_OUTPUT = "-"
BATCH = 20
TOP_K = 5
MOST_BATCH = 1000
MOST_TOP_K = 10
MOST_DEADLINE_MS = 600_000

_DESCRIPTION = (
    "Classify pictures through the service's API. How often the answers are right:\n%(prog)s evaluate --help.\n\n"
    "Exit codes: 0 all were classified, 1 some were not or the service became\nunreachable, 2 an argument is invalid, "
    "130 stopped by Ctrl-C."
)
_EXAMPLES = (
    "%(prog)s photos/ --output photos.csv",
    "%(prog)s photos/ --output photos.jsonl --resume",
    "curl -s https://example.com/cat.jpg | %(prog)s -",
    "%(prog)s -- -name-that-begins-with-a-dash.jpg",
)


@dataclass(frozen=True)
class Options(Connection):
    """The values of the command line."""

    what: list[str]
    urls: str | None
    top_k: int
    jobs: bool
    batch: int | None
    job: list[str]
    cancel: bool
    format: str | None
    output: Path | None
    resume: bool
    deadline_ms: int | None

    @property
    def kind(self) -> str:
        """The output format: --format, or else the suffix of --output, or else a table."""
        return self.format or (_kind_of(self.output) if self.output else "table")

    @property
    def job_ids(self) -> list[str]:
        """The jobs of --job, each once."""
        return list(dict.fromkeys(self.job))

    def how_to_ask_again(self) -> str:
        """Return the beginning of a command for the same service."""
        key = f" --api-key-env {self.api_key_env}" if self.api_key_env else ""
        prefix = f" --prefix {self.prefix}" if self.prefix != PREFIX else ""
        return f"{program()} --server {without_login(self.server)}{prefix}{key}"


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of the command line. Raises UsageError; --help ends the process with 0."""
    return read(make_parser(), Options, _conflicts, arguments)


def _conflicts(options: Options) -> Conflicts:
    return (*_conflicts_of_inputs(options), *_conflicts_of_outputs(options))


def _conflicts_of_inputs(options: Options) -> Conflicts:
    asks_for_items = bool(options.what or options.urls)
    of_input = [*options.what, options.urls].count(STANDARD_INPUT)
    return (
        (
            EVALUATE in options.what and not Path(EVALUATE).exists(),
            f"{EVALUATE}: is the first word of its command: {program()} {EVALUATE} FOLDER, and then the options",
        ),
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


def _conflicts_of_outputs(options: Options) -> Conflicts:
    output, kind = options.output, options.kind
    return (
        (options.resume and output is None, "--resume: needs the file to resume; name it with --output FILE.jsonl"),
        (
            options.resume and bool(options.job),
            "--resume and --job: fetched jobs cannot be resumed; drop one of the two options",
        ),
        (options.resume and kind != "jsonl", "--resume: works with JSON lines only; use --format jsonl"),
        *conflicts_of_file("--output", output, resume=options.resume),
    )


def conflicts_of_file(option: str, file: Path | None, *, resume: bool) -> Conflicts:
    """Return what prevents writing `file`, the value of `option`: pairs of (is so, message)."""
    if file is None:
        return ()
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        exists = False
    except OSError as exc:
        return ((True, f"{option} {file}: {exc.strerror}; choose another file"),)
    else:
        exists = True
    return (
        (
            exists and not resume,
            f"{option} {file}: already exists; remove it, choose another name, or continue it with --resume",
        ),
        (exists and not file.is_file(), f"{option} {file}: is not a regular file, so it cannot be resumed"),
        (not file.parent.is_dir(), f"{option} {file}: its folder does not exist; create it first"),
    )


def _kind_of(output: Path) -> str:
    kind = output.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise UsageError(
            f"--output {output}: its suffix names no format; add --format with one of {', '.join(FORMATS)}"
        )
    return kind


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(program(), _DESCRIPTION, _EXAMPLES)
    _add_inputs(parser)
    _add_outputs(parser)
    add_address(parser)
    _add_requests(parser)
    add_cache(parser)
    add_limits(parser)
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
        "--top-k",
        type=whole(1, MOST_TOP_K),
        default=TOP_K,
        metavar="N",
        help=f"number of classes per picture, 1-{MOST_TOP_K} (default: %(default)s); for example: --top-k 1",
    )
    add(
        "--deadline-ms",
        type=whole(1, MOST_DEADLINE_MS),
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
    add(
        "--batch",
        type=whole(1, MOST_BATCH),
        metavar="N",
        help=f"files per job, 1-{MOST_BATCH}, with --jobs (default: {BATCH}); for example: --jobs --batch 100",
    )


def _output(text: str) -> Path | None:
    return None if text == STANDARD_OUTPUT else Path(text)
