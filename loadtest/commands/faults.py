"""`loadtest faults`: break one thing at a time under load; run again to resume. With --only it starts anew.

Exit codes: 0 all limits of the plan hold, 1 a limit is missed or a fault could not be injected, 2 invalid input.
"""

import argparse

from loadtest.commands import options
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import as_json, write_files

_PLAN = "configs/stress/faults.yaml"


def add_command(commands: "options.Commands") -> None:
    """Add `faults` to the commands."""
    meaning = "break one thing at a time under load; run again to resume"
    parser = options.add_parser(commands, "faults", meaning, __doc__, "--only kill_users,freeze_users --out runs/users")
    options.add_plan(parser, _PLAN)
    options.add_out(parser, "the folder of the run")
    meaning = "only these faults, also if they are finished (default: all that are not finished)"
    parser.add_argument("--only", type=options.names, metavar="A,B", help=meaning)
    options.add_report(parser)
    options.add_json(parser, "faults.json")
    parser.set_defaults(do=faults)


def faults(arguments: argparse.Namespace) -> int:
    """Inject the faults of a plan and print their effects. Raises BadInputError and Interrupted."""
    from loadtest.faults.fault_plan import choose, load_fault_plan
    from loadtest.faults.figures import read_faults
    from loadtest.faults.folder import FaultFolder
    from loadtest.faults.page import faults_as_markdown, print_faults
    from loadtest.faults.session import run_faults

    folder = FaultFolder(options.out_folder(arguments, arguments.plan.stem))
    if not arguments.report:
        plan = load_fault_plan(find_plan(arguments.plan))
        arguments.starts_anew = arguments.only is not None
        run_faults(plan, folder, choose(plan, arguments.only), again=arguments.only is not None)
    figures = read_faults(folder)
    command = f"python -m loadtest faults{'' if str(arguments.plan) == _PLAN else f' {arguments.plan}'}"
    page = faults_as_markdown(figures, command)
    made = {folder.path / "faults.json": as_json(figures), folder.path / "faults.md": page}
    write_files(made)
    options.print_outcome(figures, made, print_faults, arguments)
    return 0 if figures.all_hold else 1
