"""The options of `python -m loadtest tune`. Apart from the command, so that other commands load nothing of a search."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from loadtest.tuning.config_path import Scalar

DEFAULT_TUNE_FILE = Path("configs/stress/tune.yaml")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `tune` takes."""
    parser.add_argument("file", nargs="?", type=Path, default=DEFAULT_TUNE_FILE, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the search's folder (default: runs/ and the tune file's name)")
    parser.add_argument("--minutes", type=float, metavar="M", help="what the search may take")
    parser.add_argument("--users", type=int, metavar="N", help="under how many users")
    parser.add_argument("--objective", metavar="TEXT", help="such as 'minimise predict.p95_ms' or 'maximise rps'")
    parser.add_argument("--slo", metavar="LIMITS", help="limits that must hold, such as 'lookup.p95_ms<=50,rps>=20'")
    parser.add_argument(
        "--vary", type=_knob, action="append", metavar="KNOB=A,B", help="values of a knob of the file (repeatable)"
    )
    parser.add_argument("--write", type=Path, metavar="PATH", help="write the winner's YAML here too")
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of the table")


def read_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of the tune file that options replace."""
    given = {
        "minutes": arguments.minutes,
        "users": arguments.users,
        "objective": arguments.objective,
        "limits": arguments.slo.split(",") if arguments.slo else None,
        "vary": dict(arguments.vary) if arguments.vary else None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _knob(text: str) -> tuple[str, list[Scalar] | str]:
    """Return a knob's name and its values, as YAML reads them."""
    name, is_there, values = text.partition("=")
    if not is_there or not name.strip() or not values.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form knob=value,value")
    return name.strip(), "auto" if values.strip() == "auto" else [_value(value.strip()) for value in values.split(",")]


def _value(text: str) -> Scalar:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float | str) else text
