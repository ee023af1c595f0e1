"""`loadtest compare`: what changed from one run to another, such as before and after a change of the service.

Exit codes: 0 nothing got worse, 1 a target is worse at some number of users, 2 the input cannot be used or compared.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.commands import options
from loadtest.rows.run_folder import RunFolder, as_json

if TYPE_CHECKING:
    from loadtest.verdict.run_comparison import Change, ComparedLevel, RunComparison

_STYLES: "dict[Change, str]" = {
    "worse": "red",
    "better": "green",
    "divided": "yellow",
    "tie": "",
    "not enough data": "yellow",
}


def add_command(commands: "options.Commands") -> None:
    """Add `compare` to the commands."""
    meaning = "compare two run folders; exit code 1 is a regression"
    parser = options.add_parser(commands, "compare", meaning, __doc__, "runs/before runs/after")
    parser.add_argument("old", type=Path, metavar="OLD", help="the folder of the run before")
    parser.add_argument("new", type=Path, metavar="NEW", help="the folder of the run after")
    options.add_json(parser, "the comparison as JSON")
    parser.set_defaults(do=compare)


def compare(arguments: argparse.Namespace) -> int:
    """Print what changed and return 1 for a regression, else 0. Raises BadInputError."""
    from loadtest.verdict.run_comparison import compare_runs

    found = compare_runs(RunFolder(arguments.old), RunFolder(arguments.new))
    if arguments.json:
        print(as_json(found), end="")
    else:
        _print(found)
    return 1 if found.count("worse") else 0


def _print(found: "RunComparison") -> None:
    from loadtest.figures.figures import name_metric
    from loadtest.page.terminal import Column, print_table

    metrics = ["rps", "failures_percent", *(f"{endpoint}.p95_ms" for endpoint in found.endpoints)]
    columns = [Column("target", is_number=False), Column("users"), Column("new run", is_number=False)]
    columns += [*(Column(name_metric(metric)) for metric in metrics), Column("because", is_number=False)]
    rows = [_row(level, metrics) for level in found.levels]
    print_table(f"{found.old} → {found.new}", columns, rows, [_STYLES[level.change] for level in found.levels])
    for level in found.levels:
        if level.change == "worse":
            print(f"WORSE {level.target}, {level.comparison.users} users: {_because(level)}")
    for note in found.notes:
        print(note)
    counts = ", ".join(f"{found.count(change)} {change}" for change in _STYLES)
    print(f"{len(found.levels)} levels: {counts}")


def _row(level: "ComparedLevel", metrics: list[str]) -> list[str]:
    from loadtest.figures.figures import NO_FIGURE, show_difference

    shown = {one.metric: show_difference(one) for one in level.comparison.differences}
    changes = [shown.get(metric, NO_FIGURE) for metric in metrics]
    return [level.target, str(level.comparison.users), level.change, *changes, _because(level)]


def _because(level: "ComparedLevel") -> str:
    winner = level.comparison.winner
    return f"{winner} run: {level.comparison.because}" if winner else level.comparison.because
