"""Options that several commands have, and how their values are read."""

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.plan.limits import Limit, read_limit
from loadtest.plan.workload import MOST_IN_FLIGHT

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[argparse.ArgumentParser]


def add_plan(parser: argparse.ArgumentParser, default: str, name: str = "plan") -> None:
    """Add the file of the plan: a positional argument, or an option where `name` is one."""
    optional: dict[str, Any] = {} if name.startswith("-") else {"nargs": "?"}
    parser.add_argument(name, type=Path, default=Path(default), help="(default: %(default)s)", **optional)


def add_out(parser: argparse.ArgumentParser, what: str, default: str = "runs/ and the plan's name") -> None:
    """Add where to write."""
    parser.add_argument("--out", type=Path, help=f"{what} (default: {default})")


def add_json(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add the choice of what to print."""
    parser.add_argument("--json", action="store_true", help=f"print {meaning}")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the choice to measure nothing."""
    meaning = "break nothing: make the tables from the raw data in --out"
    parser.add_argument("--report", action="store_true", help=meaning)


def out_folder(arguments: argparse.Namespace, name: str) -> Path:
    """Return the folder that `--out` names, or the one in runs/ that is called `name`."""
    return arguments.out or Path("runs") / name


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def open_loop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the options of `add_open_loop` replace in a plan."""
    return given(rate_rps=arguments.rate, arrivals=arguments.arrivals, in_flight=arguments.in_flight)


def add_open_loop(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Add the options of an open loop; `meaning` is that of its rate."""
    parser.add_argument("--rate", type=positive, metavar="R", help=meaning)
    parser.add_argument("--arrivals", choices=("poisson", "constant"), help="with --rate (default: poisson)")
    parser.add_argument(
        "--in-flight", type=positive_int, metavar="N", help=f"with --rate: at most under way ({MOST_IN_FLIGHT})"
    )


def limits(text: str) -> list[Limit]:
    """Return objectives such as `predict.p95_ms<=1000,failures_percent<=0`."""
    try:
        found = [read_limit(part) for part in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    for limit in found:
        if limit.metric == "rps" or limit.comparison not in {"<=", "<"}:
            raise argparse.ArgumentTypeError(f"{limit}: give latencies or failures_percent with <= or <")
    return found


def positive(text: str) -> float:
    """Return a number above 0."""
    with suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def positive_int(text: str) -> int:
    """Return a whole number above 0."""
    number = positive(text)
    if number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(number)


def numbers(text: str) -> list[int]:
    """Return a list of whole numbers such as `10,25`."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 10,25") from exc


def names(text: str) -> list[str]:
    """Return a list of names such as `one,two`."""
    return [name.strip() for name in text.split(",")]
