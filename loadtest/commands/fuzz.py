"""`loadtest fuzz`: send spoilt pictures, forms and parameters.

Exit codes: 0 no 5xx, no reset, no timeout, memory flat; 1 not so, or most inputs were refused unread; 2 the input
cannot be used, or a valid file is refused; 130 stopped by Ctrl-C.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loadtest.commands.options import add_json, positive, positive_int
from loadtest.errors import BadInputError
from loadtest.fuzz.campaign import Campaign, run_campaign
from loadtest.fuzz.memory import REPLICAS, find_watched
from loadtest.fuzz.request import FuzzRequest, make_request, read_request, valid_requests
from loadtest.fuzz.tally import Tally
from loadtest.fuzz.terminal import FuzzDisplay, print_outcome
from loadtest.load.pictures import sample_files
from loadtest.plan.base_url import read_base_url

if TYPE_CHECKING:
    from loadtest.commands.options import Commands


def add_command(commands: "Commands") -> None:
    """Add `fuzz` to the commands."""
    parser = commands.add_parser(
        "fuzz",
        help="send spoilt pictures, forms and parameters, and see whether the service holds",
        description=(
            "Spoils valid files of every format, the forms around them, headers and parameters, and posts them. The "
            "same seed makes the same inputs. LOADTEST_API_KEY in the environment is sent as `Authorization: Bearer "
            "…`. Exit codes: 0 no 5xx, no reset, no timeout and memory flat within 10 % after the first tenth, 1 not "
            "so, or most inputs were refused unread, 2 the input cannot be used, or a valid file is refused."
        ),
    )
    parser.add_argument("url", metavar="URL", help="the service, such as http://127.0.0.1:8000")
    parser.add_argument("--path", default="/model/predict", help="where to post (default: %(default)s)")
    parser.add_argument("--inputs", type=positive_int, default=10_000, metavar="N", help="how many (default: 10000)")
    parser.add_argument(
        "--seconds", type=positive, default=float("inf"), metavar="S", help="stop after so many seconds"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which inputs (default: 0)")
    parser.add_argument(
        "--at-a-time", type=positive_int, default=8, metavar="N", help="requests under way (default: 8)"
    )
    parser.add_argument("--files", type=Path, nargs="+", metavar="FILE", help="spoil these instead of the kit's own")
    parser.add_argument(
        "--process",
        type=_pattern,
        metavar="PATTERN",
        help=f"whose memory to watch, by command line (default: {REPLICAS} of the service at URL, if it is here)",
    )
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz"), metavar="FOLDER", help="for offending inputs")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="send saved inputs again, nothing else")
    add_json(parser, "the outcome as JSON")
    parser.set_defaults(do=fuzz)


def fuzz(arguments: argparse.Namespace) -> int:
    """Run a campaign, print its outcome, and return the exit code. Raises BadInputError."""
    campaign = _campaign(arguments)
    tally = Tally()
    try:
        with FuzzDisplay(campaign.inputs) as display:
            outcome = asyncio.run(run_campaign(campaign, display.tell, tally))
    except KeyboardInterrupt:
        print(f"stopped after {tally.inputs:,} inputs, {tally.server_errors} × 5xx", file=sys.stderr)
        return 130
    if arguments.json:
        print(json.dumps(outcome.as_json(), indent=1))
    else:
        print_outcome(outcome)
    return 0 if outcome.has_held else 1


def _campaign(arguments: argparse.Namespace) -> Campaign:
    try:
        url = read_base_url(arguments.url)
    except ValueError as exc:
        raise BadInputError(f"URL: {exc}") from exc
    if not re.fullmatch(r"/[!-~]*", arguments.path):
        raise BadInputError(f"--path {arguments.path}: must begin with / and have no spaces")
    watched = find_watched(arguments.url, arguments.process)
    if arguments.process is not None and not watched:
        raise BadInputError(f"--process {arguments.process.pattern}: fits no command line on this machine")
    path = urlsplit(url).path + arguments.path
    own, samples = [_read(file) for file in arguments.files or ()], sample_files()
    return Campaign(
        url=url,
        # One of the kit's as well: the user's own may be spoilt already.
        valid=() if arguments.replay else valid_requests(path, [*own, samples[0]]),
        requests=_replayed(arguments.replay) if arguments.replay else _made(arguments, path, own or samples),
        inputs=len(arguments.replay or ()) or arguments.inputs,
        seed=arguments.seed,
        at_a_time=arguments.at_a_time,
        most_s=arguments.seconds,
        watched=watched,
        folder=arguments.save,
    )


def _replayed(paths: Sequence[Path]) -> Iterator[tuple[str, FuzzRequest]]:
    return iter([(path.stem, read_request(path)) for path in paths])


def _made(arguments: argparse.Namespace, path: str, files: Sequence[bytes]) -> Iterator[tuple[str, FuzzRequest]]:
    seed = arguments.seed
    return ((f"{seed}-{number:06}", make_request(path, files, seed, number)) for number in range(arguments.inputs))


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BadInputError(f"--files {path}: cannot be read: {exc.strerror}") from exc
    if not data:
        raise BadInputError(f"--files {path}: is empty, so there is nothing to spoil")
    return data


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {exc}") from exc
