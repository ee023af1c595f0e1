"""`loadtest soak`: a long load with a fault every minute.

Exit codes: 0 all limits of the plan hold, 1 a limit is missed or the soak failed, 2 invalid input.
"""

import argparse
from typing import TYPE_CHECKING

from loadtest.commands.options import (
    add_json,
    add_out,
    add_parser,
    add_plan,
    add_report,
    out_folder,
    positive,
    print_outcome,
)
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import as_json, write_files

if TYPE_CHECKING:
    from loadtest.commands.options import Commands

_PLAN = "configs/stress/soak.yaml"


def add_command(commands: "Commands") -> None:
    """Add `soak` to the commands."""
    meaning = "a long load with a fault every minute"
    parser = add_parser(commands, "soak", meaning, __doc__, "--minutes 30 --out runs/soak-30")
    add_plan(parser, _PLAN, "--plan")
    meaning = "duration of the load (default: the plan's `minutes`, 10 in the shipped one)"
    parser.add_argument("--minutes", type=positive, metavar="N", help=meaning)
    add_out(parser, "the folder of the run")
    add_report(parser)
    add_json(parser, "soak.json instead of tables")
    parser.set_defaults(do=soak)


def soak(arguments: argparse.Namespace) -> int:
    """Run a soak and print its figures. Raises BadInputError and Interrupted."""
    from loadtest.faults.fault_plan import load_soak_plan
    from loadtest.faults.folder import FaultFolder
    from loadtest.faults.page import print_soak, soak_as_markdown
    from loadtest.faults.session import run_soak
    from loadtest.faults.soak import read_soak

    folder = FaultFolder(out_folder(arguments, arguments.plan.stem))
    if not arguments.report:
        run_soak(load_soak_plan(find_plan(arguments.plan), arguments.minutes), folder)
    figures = read_soak(folder)
    command = f"python -m loadtest soak --minutes {figures.minutes:g}"
    command += "" if str(arguments.plan) == _PLAN else f" --plan {arguments.plan}"
    made = {folder.path / "soak.json": as_json(figures), folder.path / "soak.md": soak_as_markdown(figures, command)}
    write_files(made)
    print_outcome(figures, made, print_soak, arguments)
    return 0 if figures.all_hold else 1
