"""`python -m loadtest`: run a plan against a service, make reports of what it measured, tune the service.

Exit codes: 0 every cell is valid and every limit met, 1 some cell is not valid or a limit is missed, 2 the input cannot
be used, 130 and 143 stopped by Ctrl-C or SIGTERM (run again to resume). Of `tune`: 0 a winner was found, 1 none.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.errors import BadInputError
from loadtest.measuring.runner import Interrupted, run_plan
from loadtest.plan import load_plan
from loadtest.run_folder import RunFolder
from loadtest.tuning.options import add_options

if TYPE_CHECKING:
    from loadtest.reporting.figures import Figures

DEFAULT_PLAN = Path("configs/stress/published.yaml")


def main() -> int:
    """Do what the command line says and return the exit code."""
    arguments = _parser().parse_args()
    try:
        code: int = arguments.do(arguments)
    except BadInputError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def run(arguments: argparse.Namespace) -> int:
    """Measure, then report."""
    plan = load_plan(arguments.plan, _overrides(arguments))
    folder = RunFolder(arguments.out or Path("runs") / arguments.plan.stem)
    try:
        run_plan(plan, arguments.plan, folder)
    except Interrupted as exc:
        print(
            f"stopped; the finished cells are in {folder.path}: run the same command again to resume", file=sys.stderr
        )
        return 128 + exc.number
    return _report(_summarize(folder), folder.path)


def report(arguments: argparse.Namespace) -> int:
    """Make the report of a run folder, or of a Locust CSV, again."""
    if arguments.csv is None:
        if arguments.folder is None:
            raise BadInputError("give the folder of a run, or --csv with the prefix of a Locust CSV")
        return _report(_summarize(RunFolder(arguments.folder)), arguments.out or arguments.folder)
    from loadtest.reporting.locust_csv import read_locust_csv

    figures = read_locust_csv(
        arguments.csv, users=arguments.users, wait_s=arguments.wait, title=arguments.title or arguments.csv.name
    )
    return _report(figures, arguments.out or arguments.csv.parent)


def tune(arguments: argparse.Namespace) -> int:
    """Search for the settings that serve best."""
    from loadtest.tuning.command import tune as search

    try:
        return search(arguments)
    except Interrupted as exc:
        print("stopped; run the same command again to go on with what is measured", file=sys.stderr)
        return 128 + exc.number


def _summarize(folder: RunFolder) -> "Figures":
    # Not at the top: nothing of the report shares the machine with a measurement.
    from loadtest.reporting.summary import summarize

    return summarize(folder)


def _report(figures: "Figures", folder: Path) -> int:
    from loadtest.reporting.report import write_report

    try:
        paths = write_report(figures, folder)
    except OSError as exc:
        raise BadInputError(f"{exc.filename or folder}: {exc.strerror}; choose another folder with --out") from exc
    for cell in figures.cells:
        if not cell.valid:
            print(f"INVALID {cell.target}, {cell.users} users, repetition {cell.repetition}: {'; '.join(cell.reasons)}")
        for limit in cell.limits:
            if not limit.met:
                value = "no data" if limit.value is None else f"{limit.value:g}"
                print(
                    f"MISSED {limit.limit}: {value} ({cell.target}, {cell.users} users, repetition {cell.repetition})"
                )
    print(figures.bottom_line)
    for path in paths:
        print(path)
    return 0 if figures.all_valid and figures.all_limits_met else 1


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {
        "users": arguments.users,
        "duration_s": arguments.duration,
        "targets": arguments.targets,
        "repetitions": arguments.repetitions,
    }
    return {key: value for key, value in given.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | report | tune")
    one = commands.add_parser("run", help="measure all cells of a plan and report; run again to resume")
    one.add_argument("plan", nargs="?", type=Path, default=DEFAULT_PLAN, help="(default: %(default)s)")
    one.add_argument("--out", type=Path, help="the run folder (default: runs/ and the plan's name)")
    one.add_argument("--users", type=_numbers, metavar="10,25", help="user levels instead of the plan's")
    one.add_argument("--duration", type=int, metavar="S", help="seconds of load in each cell")
    one.add_argument("--targets", type=_names, metavar="A,B", help="only these targets")
    one.add_argument("--repetitions", type=int, metavar="N", help="how often each cell is measured")
    one.set_defaults(do=run)
    two = commands.add_parser("report", help="make report.md, report.html and report.json from raw data")
    two.add_argument("folder", nargs="?", type=Path, help="the folder of a run")
    two.add_argument("--csv", type=Path, metavar="PREFIX", help="instead: the CSV files of a plain Locust run")
    two.add_argument("--users", type=int, metavar="N", help="with --csv: how many users were asked for")
    two.add_argument("--wait", type=float, nargs=2, metavar=("MIN_S", "MAX_S"), help="with --csv: the think time")
    two.add_argument("--title", help="with --csv: the report's title")
    two.add_argument("--out", type=Path, help="where to write (default: beside the data)")
    two.set_defaults(do=report)
    three = commands.add_parser("tune", help="search for the settings that serve best; run again to resume")
    add_options(three)
    three.set_defaults(do=tune)
    return parser


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 10,25") from exc


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
