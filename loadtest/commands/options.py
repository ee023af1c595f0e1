"""Options that several commands have, and how they print what they found."""

import argparse
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from loadtest.plan.limits import Limit, read_limit
from loadtest.plan.workload import MOST_IN_FLIGHT
from loadtest.rows.run_folder import as_json

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[argparse.ArgumentParser]


_Record = TypeVar("_Record", bound=BaseModel)


def add_parser(
    commands: "Commands", name: str, meaning: str, doc: str | None, *examples: str
) -> argparse.ArgumentParser:
    """Add a command: its help shows `meaning` in the list of all, `doc` (with the exit codes), and the examples."""
    return commands.add_parser(
        name,
        help=meaning,
        description=doc,
        epilog="\n".join(["examples:", *(f"  python -m loadtest {name} {example}" for example in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_plan(parser: argparse.ArgumentParser, default: str, name: str = "plan") -> None:
    """Add the file of the plan: a positional argument, or an option where `name` is one."""
    optional: dict[str, Any] = {} if name.startswith("-") else {"nargs": "?"}
    meaning = f"a file, or the name of a shipped one such as {Path(default).stem} (default: %(default)s)"
    parser.add_argument(name, type=Path, default=Path(default), help=meaning, **optional)


def add_out(parser: argparse.ArgumentParser, what: str, default: str = "runs/ and the plan's name") -> None:
    """Add where to write."""
    parser.add_argument("--out", type=Path, help=f"{what} (default: {default})")


def add_json(parser: argparse.ArgumentParser, what: str, default: str = "a table") -> None:
    """Add the choice of what to print."""
    parser.add_argument("--json", action="store_true", help=f"print {what} (default: {default})")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the choice to measure nothing."""
    meaning = "measure nothing: write the tables again from the raw data in --out (default: measure)"
    parser.add_argument("--report", action="store_true", help=meaning)


def print_outcome(
    record: _Record, paths: Iterable[Path], show: Callable[[_Record], None], arguments: argparse.Namespace
) -> None:
    """Print what a command found: as JSON with `--json`, else as `show` does it, and the paths of its files."""
    if arguments.json:
        print(as_json(record), end="")
    else:
        show(record)
        print(*paths, sep="\n")


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
    parser.add_argument(
        "--arrivals", choices=("poisson", "constant"), help="with --rate: intervals between requests (default: poisson)"
    )
    parser.add_argument(
        "--in-flight",
        type=positive_int,
        metavar="N",
        help=f"with --rate: most requests in flight (default: {MOST_IN_FLIGHT})",
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
