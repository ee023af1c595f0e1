"""The command line of `evaluate`."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from serve_app.client.connection import (
    EVALUATE,
    Conflicts,
    Connection,
    Parser,
    add_address,
    add_cache,
    add_limits,
    number,
    program,
    read,
    route_prefix,
    server_address,
)
from serve_app.client.options import conflicts_of_file

_DESCRIPTION = (
    "Measure how often a running service is right about pictures whose classes are known,\nor, with --against, how "
    "often two services agree.\n\nExit codes: 0 done, and the limit reached; 1 the limit missed, pictures failed, or a "
    "service became\nunreachable; 2 an argument is invalid; 130 stopped by Ctrl-C."
)
_EXAMPLES = (
    "%(prog)s photos/                       # photos/tench/1.jpg, photos/goldfish/2.jpg, ...",
    "%(prog)s imagenet_val/ --synsets imagenet_class_index.json --page wrong.html",
    "%(prog)s photos/ --labels truth.csv --output answers.jsonl --resume --min-top1 0.74",
    "%(prog)s photos/ --against http://127.0.0.1:8100 --min-agreement 0.99",
)


@dataclass(frozen=True)
class SecondConnection(Connection):
    """How to reach the service that the first one is compared with."""

    address_option: ClassVar[str] = "--against"
    key_option: ClassVar[str] = "--against-api-key-env"


@dataclass(frozen=True)
class EvaluateOptions(Connection):
    """The values of the command line."""

    what: list[str]
    labels: Path | None
    synsets: Path | None
    against: str | None
    against_prefix: str | None
    against_api_key_env: str | None
    min_top1: float | None
    min_agreement: float | None
    format: str
    output: Path | None
    resume: bool
    page: Path | None

    @property
    def folder(self) -> str:
        """The folder of the pictures."""
        return self.what[0]

    @property
    def second(self) -> Connection | None:
        """How to reach the second service; None without --against."""
        if self.against is None:
            return None
        return SecondConnection(
            server=self.against,
            prefix=self.against_prefix or self.prefix,
            api_key_env=self.against_api_key_env,
            no_store=self.no_store,
            parallel=self.parallel,
            retries=self.retries,
            give_up_after=self.give_up_after,
        )


def read_evaluate_options(arguments: Sequence[str]) -> EvaluateOptions:
    """Return the options of the command line. Raises UsageError; --help ends the process with 0."""
    return read(make_parser(), EvaluateOptions, _conflicts, arguments)


def _conflicts(options: EvaluateOptions) -> Conflicts:
    compares = options.against is not None
    of_labels = {"--labels": options.labels, "--synsets": options.synsets, "--min-top1": options.min_top1}
    of_two = {
        "--against-prefix": options.against_prefix,
        "--against-api-key-env": options.against_api_key_env,
        "--min-agreement": options.min_agreement,
    }
    return (
        (len(options.what) != 1, "FOLDER: give one folder, such as photos/"),
        (bool(options.what) and not os.path.isdir(options.what[0]), f"{' '.join(options.what)}: is not a folder"),  # noqa: PTH112
        *(
            (
                compares and value is not None,
                f"{name}: --against compares two services without labels; drop one of them",
            )
            for name, value in of_labels.items()
        ),
        *((not compares and value is not None, f"{name}: needs --against URL") for name, value in of_two.items()),
        (
            options.resume and options.output is None,
            "--resume: needs the file to resume; name it with --output FILE.jsonl",
        ),
        *conflicts_of_file("--output", options.output, resume=options.resume),
        *conflicts_of_file("--page", options.page, resume=options.resume),
        *_conflicts_of_both(options.output, options.page),
    )


def _conflicts_of_both(output: Path | None, page: Path | None) -> Conflicts:
    if output is None or page is None:
        return ()
    is_same = os.path.realpath(output) == os.path.realpath(page)
    return ((is_same, f"--output {output} and --page {page}: are the same file; choose another name for one of them"),)


def make_parser() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(f"{program()} {EVALUATE}", _DESCRIPTION, _EXAMPLES)
    _add_labels(parser)
    _add_results(parser)
    add_address(parser)
    _add_second(parser)
    add_cache(parser)
    add_limits(parser)
    return parser


def _add_labels(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "what",
        nargs="*",
        metavar="FOLDER",
        help="the pictures: below folders named for their class (a label of the service, a synset, or an index), or as "
        "a list names them; for example: photos/",
    )
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help="list of the classes: a .csv with the columns file and label, or lines such as `cat.jpg 281`; names are "
        "relative to FOLDER (default: FOLDER/val.txt if it exists, or else the folders' names); "
        "for example: --labels truth.csv",
    )
    add(
        "--synsets",
        type=Path,
        metavar="FILE",
        help="Keras' imagenet_class_index.json, which says the class of each synset (default: classes are not named by "
        "synsets); for example: --synsets imagenet_class_index.json",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--min-top1",
        type=_share,
        metavar="SHARE",
        help="least top-1 accuracy, 0-1; less ends with exit code 1 (default: no limit); for example: --min-top1 0.74",
    )
    add(
        "--format",
        choices=("text", "json"),
        default="text",
        help="how the result is printed on standard output (default: %(default)s); for example: --format json",
    )
    add(
        "--page",
        type=Path,
        metavar="FILE",
        help="write the result with the worst pictures as one HTML file, which must not exist unless --resume is given "
        "(default: no page); for example: --page wrong.html",
    )
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="write each answer as a JSON line, which --resume needs (default: answers are not kept); "
        "for example: --output answers.jsonl",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the --output of an earlier run: do not send again what has an answer in it (default: start a "
        "new file); for example: --output answers.jsonl --resume",
    )


def _add_second(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--against",
        type=server_address,
        metavar="URL",
        help="compare the answers with those of a second service; classes need not be known (default: compare with the "
        "known classes); for example: --against http://127.0.0.1:8100",
    )
    add(
        "--against-prefix",
        type=route_prefix,
        metavar="PATH",
        help="route_prefix of the second service's model (default: that of --prefix); "
        "for example: --against-prefix /cats",
    )
    add(
        "--against-api-key-env",
        metavar="NAME",
        help="environment variable that contains the API key of the second service (default: no key is sent to it); "
        "for example: --against-api-key-env OTHER_KEY",
    )
    add(
        "--min-agreement",
        type=_share,
        metavar="SHARE",
        help="with --against, least top-1 agreement, 0-1; less ends with exit code 1 (default: no limit); "
        "for example: --min-agreement 0.99",
    )


def _share(text: str) -> float:
    return number(text, lambda share: 0 <= share <= 1, "a share from 0 to 1, such as 0.74")
