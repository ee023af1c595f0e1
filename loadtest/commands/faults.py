"""`loadtest faults`: break one thing at a time under load.

Exit codes: 0 all limits of the plan hold, 1 not so or not carried out, 2 the input cannot be used.
"""

import argparse
from typing import TYPE_CHECKING

from loadtest.commands.options import add_json, add_out, add_plan, add_report, names, out_folder
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import as_json, write_files

if TYPE_CHECKING:
    from loadtest.commands.options import Commands

_PLAN = "configs/stress/faults.yaml"


def add_command(commands: "Commands") -> None:
    """Add `faults` to the commands."""
    parser = commands.add_parser("faults", help="break one thing at a time under load; run again to resume")
    add_plan(parser, _PLAN)
    add_out(parser, "the folder of the run")
    parser.add_argument("--only", type=names, metavar="A,B", help="these faults only, and again if they are done")
    add_report(parser)
    add_json(parser, "faults.json instead of a table")
    parser.set_defaults(do=faults)


def faults(arguments: argparse.Namespace) -> int:
    """Carry out a fault plan and print what came of it. Raises BadInputError and Interrupted."""
    from loadtest.faults.fault_plan import choose, load_fault_plan
    from loadtest.faults.figures import read_faults
    from loadtest.faults.folder import FaultFolder
    from loadtest.faults.page import faults_as_markdown, print_faults
    from loadtest.faults.session import run_faults

    folder = FaultFolder(out_folder(arguments, arguments.plan.stem))
    if not arguments.report:
        plan = load_fault_plan(find_plan(arguments.plan))
        run_faults(plan, folder, choose(plan, arguments.only), again=arguments.only is not None)
    figures = read_faults(folder)
    command = f"python -m loadtest faults{'' if str(arguments.plan) == _PLAN else f' {arguments.plan}'}"
    page = folder.path / "faults.md"
    write_files({folder.path / "faults.json": as_json(figures), page: faults_as_markdown(figures, command)})
    if arguments.json:
        print(as_json(figures), end="")
    else:
        print_faults(figures)
        print(page)
    return 0 if figures.all_hold else 1
