"""`loadtest tune`: search for the settings that serve best, and write the winner; run again to resume.

Exit codes: 0 a winner was found, 1 no winner, 2 invalid input.
"""

import argparse
from pathlib import Path
from typing import Any

from loadtest.commands import options
from loadtest.errors import BadInputError
from loadtest.plan.shipped import find_plan
from loadtest.plan.yaml_file import load_yaml
from loadtest.rows.run_folder import as_json, folder_faults, write_files
from loadtest.tune.config_path import Scalar

_EXAMPLE = "--vary replicas=1,2 --vary threads=1,2 --minutes 15 --out runs/tune-threads"
_IN_FILE = {
    "--minutes": (float, "M", "time limit of the search"),
    "--users": (int, "N", "number of users"),
    "--objective": (str, "TEXT", "such as 'minimise predict.p95_ms' or 'maximise rps'"),
    "--slo": (str, "LIMITS", "limits that must hold, such as 'lookup.p95_ms<=50,rps>=20'"),
}


def add_command(commands: "options.Commands") -> None:
    """Add `tune` to the commands."""
    meaning = "search for the settings that serve best; run again to resume"
    parser = options.add_parser(commands, "tune", meaning, __doc__, _EXAMPLE)
    options.add_plan(parser, "configs/stress/tune.yaml", "file")
    options.add_out(parser, "the folder of the search", "runs/ and the tune file's name")
    for option, (kind, metavar, meaning) in _IN_FILE.items():
        key = "limits" if option == "--slo" else option.removeprefix("--")
        parser.add_argument(option, type=kind, metavar=metavar, help=f"{meaning} (default: the tune file's `{key}`)")
    meaning = "values of a knob of the tune file; repeatable (default: the tune file's `vary`)"
    parser.add_argument("--vary", type=_knob, action="append", metavar="KNOB=A,B", help=meaning)
    meaning = "a second place for the winner's YAML (default: only winner.yaml in --out)"
    parser.add_argument("--write", type=Path, metavar="PATH", help=meaning)
    options.add_json(parser, "tune.json")
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
    folder = options.out_folder(arguments, arguments.file.stem)
    if arguments.write is not None and not arguments.write.absolute().parent.is_dir():
        raise BadInputError(f"--write: {arguments.write.parent} is not a folder")
    console = Console(stderr=True, highlight=False)
    search = Search(tuning, folder, lambda line: console.print(Text(line), soft_wrap=True))
    search.run(after_round=lambda: write_files({folder / "tune.json": as_json(make_result(search, over=False))}))
    result = make_result(search, over=True)
    made, elsewhere = {folder / "tune.json": as_json(result)}, {}
    winner_path = folder / "winner.yaml"
    if result.winner is None:
        with folder_faults(winner_path):
            winner_path.unlink(missing_ok=True)  # of when the search ended before
    else:
        winner = render_winner(tuning, search.candidate(result.winner), result)
        made |= {winner_path: winner}
        elsewhere = {arguments.write: winner} if arguments.write else {}
    write_files(made)
    write_files(elsewhere, "--write")
    options.print_outcome(result, [*made, *elsewhere], show_result, arguments)
    return 0 if result.winner is not None else 1


def read_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keys of the tune file that options replace."""
    return options.given(
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
        raise BadInputError(f"--vary: {repeated} is given twice; give all its values at once, as in KNOB=A,B")
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
