"""`loadtest soak`: a long load with a fault every minute.

Exit codes: 0 all limits of the plan hold, 1 a limit is missed or the soak failed, 2 invalid input.
"""

import argparse

from loadtest.commands import options
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import as_json, write_files

_PLAN = "configs/stress/soak.yaml"


def add_command(commands: "options.Commands") -> None:
    """Add `soak` to the commands."""
    meaning = "a long load with a fault every minute"
    parser = options.add_parser(commands, "soak", meaning, __doc__, "--minutes 30 --out runs/soak-30")
    options.add_plan(parser, _PLAN, "--plan")
    meaning = "duration of the load (default: the plan's `minutes`, 10 in the shipped one)"
    parser.add_argument("--minutes", type=options.positive, metavar="N", help=meaning)
    options.add_out(parser, "the folder of the run")
    options.add_report(parser)
    options.add_json(parser, "soak.json", "tables")
    parser.set_defaults(do=soak, starts_anew=True)


def soak(arguments: argparse.Namespace) -> int:
    """Run a soak and print its figures. Raises BadInputError and Interrupted."""
    from loadtest.faults.fault_plan import load_soak_plan
    from loadtest.faults.folder import FaultFolder
    from loadtest.faults.page import print_soak, soak_as_markdown
    from loadtest.faults.session import run_soak
    from loadtest.faults.soak import read_soak

    folder = FaultFolder(options.out_folder(arguments, arguments.plan.stem))
    if not arguments.report:
        run_soak(load_soak_plan(find_plan(arguments.plan), arguments.minutes), folder)
    figures = read_soak(folder)
    command = f"python -m loadtest soak --minutes {figures.minutes:g}"
    command += "" if str(arguments.plan) == _PLAN else f" --plan {arguments.plan}"
    made = {folder.path / "soak.json": as_json(figures), folder.path / "soak.md": soak_as_markdown(figures, command)}
    write_files(made)
    options.print_outcome(figures, made, print_soak, arguments)
    return 0 if figures.all_hold else 1
