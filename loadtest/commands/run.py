"""`loadtest run`: measure all cells of a plan, and report.

Exit codes: 0 every cell is valid and every limit met, 1 otherwise, 2 the input cannot be used.
"""

import argparse
import sys

from loadtest.commands import options
from loadtest.commands.report import report_run
from loadtest.measure.progress import show_clock
from loadtest.measure.runner import cell_order, run_plan
from loadtest.plan.longest import longest_cell_s
from loadtest.plan.plan import Plan, load_plan
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import RunFolder


def add_command(commands: "options.Commands") -> None:
    """Add `run` to the commands."""
    meaning = "measure all cells of a plan and report; run again to resume"
    example = "configs/stress/quick.yaml --users 10,25 --repetitions 3 --out runs/try"
    parser = options.add_parser(commands, "run", meaning, __doc__, example)
    options.add_plan(parser, "configs/stress/published.yaml")
    options.add_out(parser, "the run folder")
    parser.add_argument("--users", type=options.numbers, metavar="10,25", help="numbers of users (default: the plan's)")
    parser.add_argument("--duration", type=int, metavar="S", help="seconds of load in each cell (default: the plan's)")
    parser.add_argument(
        "--targets", type=options.names, metavar="A,B", help="only these targets (default: all of the plan)"
    )
    parser.add_argument("--repetitions", type=int, metavar="N", help="runs of each cell (default: the plan's)")
    options.add_open_loop(parser, "open loop: start R requests per second, answered or not (default: as the plan says)")
    parser.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, then report. Raises BadInputError, and Interrupted."""
    overrides = options.given(
        users=arguments.users,
        duration_s=arguments.duration,
        targets=arguments.targets,
        repetitions=arguments.repetitions,
    )
    path = find_plan(arguments.plan)
    plan = load_plan(path, overrides | options.open_loop(arguments))
    folder = RunFolder(options.out_folder(arguments, path.stem))
    print(tell_time(plan, folder), file=sys.stderr)
    run_plan(plan, path, folder)
    return report_run(folder, folder.path)


def tell_time(plan: Plan, folder: RunFolder) -> str:
    """Return how long the cells that the folder lacks take at most: every wait lasts as long as the plan allows.

    Raises BadInputError for a cell.json that cannot be read.
    """
    targets = {target.name: target for target in plan.targets}
    records = {cell: folder.read_cell(cell) for cell in cell_order(plan)}
    todo = [targets[cell.target] for cell, record in records.items() if record is None or record.status != "finished"]
    most_s = sum(longest_cell_s(plan, target) for target in todo)
    return f"{len(todo)} of {len(records)} cells to measure, in at most {show_clock(most_s)}"
