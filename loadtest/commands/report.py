"""`loadtest report`: make the report of a run folder, or of the CSV files of a plain Locust run, from its raw data.

Exit codes: 0 every cell is valid and every limit met, 1 otherwise, 2 the input cannot be used.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.commands import options
from loadtest.errors import BadInputError
from loadtest.rows.run_folder import RunFolder, folder_faults

if TYPE_CHECKING:
    from loadtest.figures.figures import Figures


def add_command(commands: "options.Commands") -> None:
    """Add `report` to the commands."""
    meaning = "make report.md, report.html and report.json from raw data"
    examples = ("runs/quick", "--csv results/run --users 50 --wait 1 5")
    parser = options.add_parser(commands, "report", meaning, __doc__, *examples)
    parser.add_argument("folder", nargs="?", type=Path, help="the folder of a run; needed without --csv")
    parser.add_argument(
        "--csv", type=Path, metavar="PREFIX", help="instead of a folder: `locust --csv PREFIX` (default: none)"
    )
    parser.add_argument(
        "--users", type=int, metavar="N", help="with --csv: number of users (default: the largest in the history)"
    )
    wait = "with --csv: the think time (default: unknown, so the report has no think-time limit)"
    parser.add_argument("--wait", type=float, nargs=2, metavar=("MIN_S", "MAX_S"), help=wait)
    parser.add_argument("--title", help="with --csv: the report's title (default: the last part of PREFIX)")
    options.add_out(parser, "where to write", "beside the data")
    parser.set_defaults(do=report)


def report(arguments: argparse.Namespace) -> int:
    """Write the report and print its overview. Raises BadInputError."""
    if arguments.csv is None:
        if arguments.folder is None:
            raise BadInputError("give the folder of a run, or --csv with the prefix of a Locust CSV")
        return report_run(RunFolder(arguments.folder), arguments.out or arguments.folder)
    from loadtest.figures.locust_csv import read_locust_csv
    from loadtest.verdict.findings import conclude

    facts = read_locust_csv(
        arguments.csv, users=arguments.users, wait_s=arguments.wait, title=arguments.title or arguments.csv.name
    )
    return _report(conclude(facts), arguments.out or arguments.csv.parent)


def report_run(run: RunFolder, folder: Path) -> int:
    """Write the report of a run into `folder`, print its overview, and return the exit code. Raises BadInputError."""
    # Not at the top: nothing of the report shares the machine with a measurement.
    from loadtest.verdict.summary import summarize

    return _report(summarize(run), folder)


def _report(figures: "Figures", folder: Path) -> int:
    from loadtest.page.overview import print_overview
    from loadtest.page.report import write_report

    with folder_faults(folder):
        paths = write_report(figures, folder)
    for cell in figures.cells:
        place = f"{cell.target}, {cell.users} users, repetition {cell.repetition}"
        if not cell.valid:
            print(f"INVALID {place}: {'; '.join(cell.reasons)}")
        for limit in cell.limits:
            if not limit.met:
                print(f"MISSED {limit.limit}: {'no data' if limit.value is None else f'{limit.value:g}'} ({place})")
    print_overview(figures)
    print(figures.bottom_line)
    for path in paths:
        print(path)
    return 0 if figures.all_valid and figures.all_limits_met else 1
