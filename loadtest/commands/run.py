"""`loadtest run`: measure all cells of a plan, and report.

Exit codes: 0 every cell is valid and every limit met, 1 not so, 2 the input cannot be used.
"""

import argparse
from typing import TYPE_CHECKING

from loadtest.commands.options import add_open_loop, add_out, add_plan, given, names, numbers, open_loop, out_folder
from loadtest.commands.report import report_run
from loadtest.measure.runner import run_plan
from loadtest.plan.plan import load_plan
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import RunFolder

if TYPE_CHECKING:
    from loadtest.commands.options import Commands


def add_command(commands: "Commands") -> None:
    """Add `run` to the commands."""
    parser = commands.add_parser("run", help="measure all cells of a plan and report; run again to resume")
    add_plan(parser, "configs/stress/published.yaml")
    add_out(parser, "the run folder")
    parser.add_argument("--users", type=numbers, metavar="10,25", help="user levels instead of the plan's")
    parser.add_argument("--duration", type=int, metavar="S", help="seconds of load in each cell")
    parser.add_argument("--targets", type=names, metavar="A,B", help="only these targets")
    parser.add_argument("--repetitions", type=int, metavar="N", help="how often each cell is measured")
    add_open_loop(parser, "open loop: R requests start per second, whether earlier ones were answered or not")
    parser.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, then report. Raises BadInputError, and Interrupted."""
    overrides = given(
        users=arguments.users,
        duration_s=arguments.duration,
        targets=arguments.targets,
        repetitions=arguments.repetitions,
    )
    path = find_plan(arguments.plan)
    plan = load_plan(path, overrides | open_loop(arguments))
    folder = RunFolder(out_folder(arguments, path.stem))
    run_plan(plan, path, folder)
    return report_run(folder, folder.path)
