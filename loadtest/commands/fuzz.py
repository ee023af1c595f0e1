"""`loadtest fuzz`: post corrupted pictures, forms, headers and parameters, and check that the service holds.

The inputs are made from valid files of every format; the same seed makes the same inputs. LOADTEST_API_KEY in the
environment is sent as `Authorization: Bearer …`.

Exit codes: 0 no 5xx, no reset, no timeout, and memory within 10 % after the first tenth; 1 one of these, or most inputs
were refused unread; 2 invalid input, or the service refuses a valid file; 130 stopped by Ctrl-C.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from loadtest.commands import options
from loadtest.errors import BadInputError
from loadtest.fuzz.campaign import Campaign, NamedRequest, run_campaign
from loadtest.fuzz.inference import PATH_END, SIDE, make_inference, valid_inferences
from loadtest.fuzz.memory import REPLICAS, find_watched
from loadtest.fuzz.request import FuzzRequest, make_request, read_request, valid_requests
from loadtest.fuzz.tally import Tally
from loadtest.fuzz.terminal import print_outcome, shown_campaign
from loadtest.load.inference_input import read_input
from loadtest.load.pictures import sample_files
from loadtest.plan.base_url import read_base_url

_Make = Callable[[str, Sequence[bytes], int, int], FuzzRequest]


def add_command(commands: "options.Commands") -> None:
    """Add `fuzz` to the commands."""
    meaning = "post corrupted pictures, forms and parameters, and check that the service holds"
    parser = options.add_parser(commands, "fuzz", meaning, __doc__, "http://127.0.0.1:8000 --inputs 2000 --seconds 300")
    parser.add_argument("url", metavar="URL", help="the service, such as http://127.0.0.1:8000")
    meaning = (
        "path of the endpoint that takes files, after the path of URL; one that ends with /infer gets requests of "
    )
    meaning += "the Open Inference Protocol (default: %(default)s)"
    parser.add_argument("--path", default="/model/predict", help=meaning)
    meaning = "number of inputs (default: %(default)s; memory is judged from 1000 on)"
    parser.add_argument("--inputs", type=options.positive_int, default=10_000, metavar="N", help=meaning)
    meaning = "start no request after S seconds (default: no limit; the longest duration is printed first)"
    parser.add_argument("--seconds", type=options.positive, default=float("inf"), metavar="S", help=meaning)
    meaning = "seed of the inputs; another seed makes other inputs (default: %(default)s)"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=meaning)
    meaning = "number of concurrent requests (default: %(default)s)"
    parser.add_argument("--at-a-time", type=options.positive_int, default=8, metavar="N", help=meaning)
    meaning = "valid files to corrupt (default: the kit's own, one of each image format)"
    parser.add_argument("--files", type=Path, nargs="+", metavar="FILE", help=meaning)
    meaning = "regular expression; the memory of processes with a matching command line is watched "
    meaning += f"(default: {REPLICAS} of the service at URL, if it runs on this machine)"
    parser.add_argument("--process", type=_pattern, metavar="PATTERN", help=meaning)
    meaning = "folder for the inputs on which the service failed (default: %(default)s)"
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz"), metavar="FOLDER", help=meaning)
    meaning = "send these saved inputs again and nothing else (default: make new inputs)"
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help=meaning)
    options.add_json(parser, "the outcome as JSON", "tables")
    parser.set_defaults(do=fuzz)


def fuzz(arguments: argparse.Namespace) -> int:
    """Run a campaign, print its outcome, and return the exit code. Raises BadInputError."""
    campaign = _campaign(arguments)
    tally = Tally()
    try:
        with shown_campaign(campaign) as tell:
            outcome = asyncio.run(run_campaign(campaign, tell, tally))
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
        raise BadInputError(f"--path {arguments.path}: must begin with / and have no spaces, such as /model/predict")
    watched = find_watched(url, arguments.process)
    if arguments.process is not None and not watched:
        raise BadInputError(
            f"--process {arguments.process.pattern}: matches no command line on this machine; see `ps -ef`"
        )
    path = urlsplit(url).path + arguments.path
    valid: Callable[[str, Sequence[bytes]], Iterator[FuzzRequest]] = valid_requests
    make: _Make = make_request
    if path.endswith(PATH_END) and not arguments.replay:
        model_input = read_input(urljoin(url, path.removesuffix(PATH_END)), 1, SIDE)
        valid = partial(valid_inferences, model_input=model_input)
        make = partial(make_inference, model_input=model_input)
    own, samples = [_read(file) for file in arguments.files or ()], sample_files()
    return Campaign(
        url=url,
        # One of the kit's as well: the user's own may be spoilt already.
        valid=() if arguments.replay else valid(path, [*own, samples[0]]),
        requests=_requests(arguments, path, own or samples, make),
        inputs=len(arguments.replay or ()) or arguments.inputs,
        seed=arguments.seed,
        at_a_time=arguments.at_a_time,
        most_s=arguments.seconds,
        watched=watched,
        folder=arguments.save,
    )


def _requests(arguments: argparse.Namespace, path: str, files: Sequence[bytes], make: _Make) -> Iterator[NamedRequest]:
    if arguments.replay:
        return iter([NamedRequest(saved.stem, read_request(saved)) for saved in arguments.replay])
    seed = arguments.seed
    return (NamedRequest(f"{seed}-{number:06}", make(path, files, seed, number)) for number in range(arguments.inputs))


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BadInputError(f"--files {path}: cannot be read: {exc.strerror}") from exc
    if not data:
        raise BadInputError(f"--files {path}: is empty; give a valid file")
    return data


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {exc}") from exc
