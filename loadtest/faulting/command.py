"""The subcommands `faults` and `soak` of `python -m loadtest`.

Exit codes: 0 all limits of the plan hold, 1 not so or not carried out, 2 the input cannot be used.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.errors import BadInputError
from loadtest.options import names, positive
from loadtest.shipped import find_plan

if TYPE_CHECKING:
    from loadtest.faulting.fault_folder import FaultFolder
    from loadtest.options import Commands

FAULTS = Path("configs/stress/faults.yaml")
SOAK = Path("configs/stress/soak.yaml")
_AGAIN = "break nothing: make the tables again from the raw data in --out"


def add_command(commands: "Commands") -> None:
    """Add `faults` and `soak` to the subcommands."""
    one = commands.add_parser("faults", help="break one thing at a time under load; run again to go on")
    one.add_argument("plan", nargs="?", type=Path, default=FAULTS, help="(default: %(default)s)")
    one.add_argument("--out", type=Path, help="the folder of the run (default: runs/ and the plan's name)")
    one.add_argument("--only", type=names, metavar="A,B", help="these faults only, and again if they are done")
    one.add_argument("--report", action="store_true", help=_AGAIN)
    one.add_argument("--json", action="store_true", help="print faults.json instead of a table")
    one.set_defaults(do=faults)
    two = commands.add_parser("soak", help="a long load with a fault every minute")
    two.add_argument("--plan", type=Path, default=SOAK, help="(default: %(default)s)")
    two.add_argument("--minutes", type=positive, metavar="N", help="how long (default: as the plan says)")
    two.add_argument("--out", type=Path, help="the folder of the run (default: runs/ and the plan's name)")
    two.add_argument("--report", action="store_true", help=_AGAIN)
    two.add_argument("--json", action="store_true", help="print soak.json instead of tables")
    two.set_defaults(do=soak)


def faults(arguments: argparse.Namespace) -> int:
    """Carry out a fault plan and print what came of it. Raises BadInputError and Interrupted."""
    from loadtest.faulting.fault_figures import read_faults
    from loadtest.faulting.fault_folder import FaultFolder
    from loadtest.faulting.fault_plan import choose, load_fault_plan
    from loadtest.faulting.session import run_faults
    from loadtest.faulting.table import faults_as_markdown, print_faults

    folder = FaultFolder(arguments.out or Path("runs") / arguments.plan.stem)
    if not arguments.report:
        plan = load_fault_plan(find_plan(arguments.plan))
        run_faults(plan, folder, choose(plan, arguments.only), again=arguments.only is not None)
    figures = read_faults(folder)
    command = f"python -m loadtest faults{'' if arguments.plan == FAULTS else f' {arguments.plan}'}"
    as_json = figures.model_dump_json(indent=1) + "\n"
    _write(folder, "faults", as_json, faults_as_markdown(figures, command))
    if arguments.json:
        print(as_json, end="")
    else:
        print_faults(figures)
        print(folder.path / "faults.md")
    return 0 if figures.all_hold else 1


def soak(arguments: argparse.Namespace) -> int:
    """Carry out a soak and print what came of it. Raises BadInputError and Interrupted."""
    from loadtest.faulting.fault_folder import FaultFolder
    from loadtest.faulting.fault_plan import load_soak_plan
    from loadtest.faulting.session import run_soak
    from loadtest.faulting.soak_figures import read_soak
    from loadtest.faulting.table import print_soak, soak_as_markdown

    folder = FaultFolder(arguments.out or Path("runs") / arguments.plan.stem)
    if not arguments.report:
        run_soak(load_soak_plan(find_plan(arguments.plan), arguments.minutes), folder)
    figures = read_soak(folder)
    command = f"python -m loadtest soak --minutes {figures.minutes:g}"
    command += "" if arguments.plan == SOAK else f" --plan {arguments.plan}"
    as_json = figures.model_dump_json(indent=1) + "\n"
    _write(folder, "soak", as_json, soak_as_markdown(figures, command))
    if arguments.json:
        print(as_json, end="")
    else:
        print_soak(figures)
        print(folder.path / "soak.md")
    return 0 if figures.all_hold else 1


def _write(folder: "FaultFolder", name: str, as_json: str, as_markdown: str) -> None:
    from loadtest.run_folder import write_whole

    try:
        write_whole(folder.path / f"{name}.json", as_json)
        write_whole(folder.path / f"{name}.md", as_markdown)
    except OSError as exc:
        raise BadInputError(f"{exc.filename or folder.path}: {exc.strerror}; choose another with --out") from exc
