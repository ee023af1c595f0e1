"""`loadtest soak`: a long load with a fault every minute.

Exit codes: 0 all limits of the plan hold, 1 not so or not carried out, 2 the input cannot be used.
"""

import argparse
from typing import TYPE_CHECKING

from loadtest.commands.options import add_json, add_out, add_plan, add_report, out_folder, positive
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import as_json, write_files

if TYPE_CHECKING:
    from loadtest.commands.options import Commands

_PLAN = "configs/stress/soak.yaml"


def add_command(commands: "Commands") -> None:
    """Add `soak` to the commands."""
    parser = commands.add_parser("soak", help="a long load with a fault every minute")
    add_plan(parser, _PLAN, "--plan")
    parser.add_argument("--minutes", type=positive, metavar="N", help="how long (default: as the plan says)")
    add_out(parser, "the folder of the run")
    add_report(parser)
    add_json(parser, "soak.json instead of tables")
    parser.set_defaults(do=soak)


def soak(arguments: argparse.Namespace) -> int:
    """Carry out a soak and print what came of it. Raises BadInputError and Interrupted."""
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
    page = folder.path / "soak.md"
    write_files({folder.path / "soak.json": as_json(figures), page: soak_as_markdown(figures, command)})
    if arguments.json:
        print(as_json(figures), end="")
    else:
        print_soak(figures)
        print(page)
    return 0 if figures.all_hold else 1
