"""`loadtest tune`: search for the settings that serve best, and write the winner.

Exit codes: 0 a winner was found, 1 none, 2 the input cannot be used.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.commands.options import add_json, add_out, add_plan, given, out_folder
from loadtest.errors import BadInputError
from loadtest.plan.shipped import find_plan
from loadtest.plan.yaml_file import load_yaml
from loadtest.rows.run_folder import as_json, write_files
from loadtest.tune.config_path import Scalar

if TYPE_CHECKING:
    from loadtest.commands.options import Commands


def add_command(commands: "Commands") -> None:
    """Add `tune` to the commands."""
    parser = commands.add_parser("tune", help="search for the settings that serve best; run again to resume")
    add_plan(parser, "configs/stress/tune.yaml", "file")
    add_out(parser, "the search's folder", "runs/ and the tune file's name")
    parser.add_argument("--minutes", type=float, metavar="M", help="what the search may take")
    parser.add_argument("--users", type=int, metavar="N", help="under how many users")
    parser.add_argument("--objective", metavar="TEXT", help="such as 'minimise predict.p95_ms' or 'maximise rps'")
    parser.add_argument("--slo", metavar="LIMITS", help="limits that must hold, such as 'lookup.p95_ms<=50,rps>=20'")
    parser.add_argument(
        "--vary", type=_knob, action="append", metavar="KNOB=A,B", help="values of a knob of the file (repeatable)"
    )
    parser.add_argument("--write", type=Path, metavar="PATH", help="write the winner's YAML here too")
    add_json(parser, "everything as JSON instead of the table")
    parser.set_defaults(do=tune)


def tune(arguments: argparse.Namespace) -> int:
    """Search as the options say and return 0 if a winner was found, else 1.

    Raises BadInputError, and Interrupted after Ctrl-C or SIGTERM, when everything that was started has been taken down.
    """
    from rich.console import Console
    from rich.text import Text

    from loadtest.tune.result import make_result
    from loadtest.tune.search import Search
    from loadtest.tune.terminal import show_result
    from loadtest.tune.tune_file import load_tuning
    from loadtest.tune.winner import render_winner

    tuning = load_tuning(find_plan(arguments.file), read_overrides(arguments))
    folder = out_folder(arguments, arguments.file.stem)
    if arguments.write is not None and not arguments.write.absolute().parent.is_dir():
        raise BadInputError(f"--write: {arguments.write.parent} is not a folder")
    console = Console(stderr=True, highlight=False)
    search = Search(tuning, folder, lambda line: console.print(Text(line), soft_wrap=True))
    search.run(after_round=lambda: write_files({folder / "tune.json": as_json(make_result(search, over=False))}))
    result = make_result(search, over=True)
    made, elsewhere = {folder / "tune.json": as_json(result)}, {}
    if result.winner is not None:
        winner = render_winner(tuning, search.candidate(result.winner), result)
        made |= {folder / "winner.yaml": winner}
        elsewhere = {arguments.write: winner} if arguments.write else {}
    write_files(made)
    write_files(elsewhere, "--write")
    if arguments.json:
        print(as_json(result), end="")
    else:
        show_result(result)
        print(*made, *elsewhere, sep="\n")
    return 0 if result.winner is not None else 1


def read_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of the tune file that options replace."""
    return given(
        minutes=arguments.minutes,
        users=arguments.users,
        objective=arguments.objective,
        limits=arguments.slo.split(",") if arguments.slo else None,
        vary=_one_each(arguments.vary) if arguments.vary else None,
    )


def _one_each(given: list[tuple[str, list[Scalar] | str]]) -> dict[str, list[Scalar] | str]:
    values = dict(given)
    if len(values) < len(given):
        repeated = next(name for name in values if [knob for knob, _ in given].count(name) > 1)
        raise BadInputError(f"--vary: {repeated} stands there twice; give all its values at once, as in KNOB=A,B")
    return values


def _knob(text: str) -> tuple[str, list[Scalar] | str]:
    """Return a knob's name and its values, as YAML reads them."""
    name, is_there, values = text.partition("=")
    if not is_there or not name.strip() or not values.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form knob=value,value")
    return name.strip(), "auto" if values.strip() == "auto" else [_value(value.strip()) for value in values.split(",")]


def _value(text: str) -> Scalar:
    try:
        value = load_yaml(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text
