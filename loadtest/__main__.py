"""`python -m loadtest`: measure, report and audit; find the capacity of a service; overload, break, fuzz and tune it.

Exit codes: 0 every cell is valid and every limit met (audit: nothing found; capacity: confirmed; tune: a winner;
overload: every promise kept; faults and soak: the limits of the plan hold; fuzz: the service held), 1 not so, 2 the
input cannot be used, 130 and 143 stopped by Ctrl-C or SIGTERM (run again to resume).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.auditing.command import add_command as add_audit
from loadtest.errors import BadInputError
from loadtest.faulting.command import add_command as add_faults
from loadtest.fuzzing.command import add_command as add_fuzz
from loadtest.measuring.experiment import Interrupted
from loadtest.measuring.runner import run_plan
from loadtest.options import add_open_loop, names, numbers
from loadtest.overloading.command import add_command as add_overload
from loadtest.plan import load_plan
from loadtest.run_folder import RunFolder
from loadtest.searching.command import add_command as add_capacity
from loadtest.tuning.command import add_command as add_tune

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
    except Interrupted as exc:
        print("stopped; run the same command again to go on with what has been measured", file=sys.stderr)
        return 128 + exc.number
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def run(arguments: argparse.Namespace) -> int:
    """Measure, then report."""
    plan = load_plan(arguments.plan, _overrides(arguments))
    folder = RunFolder(arguments.out or Path("runs") / arguments.plan.stem)
    run_plan(plan, arguments.plan, folder)
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


def _summarize(folder: RunFolder) -> "Figures":
    # Not at the top: nothing of the report shares the machine with a measurement.
    from loadtest.reporting.summary import summarize

    return summarize(folder)


def _report(figures: "Figures", folder: Path) -> int:
    from loadtest.reporting.overview import print_overview
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
    print_overview(figures)
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
        "rate_rps": arguments.rate,
        "arrivals": arguments.arrivals,
        "in_flight": arguments.in_flight,
    }
    return {key: value for key, value in given.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    commands = parser.add_subparsers(
        required=True, metavar="run | report | audit | capacity | overload | faults | soak | fuzz | tune"
    )
    one = commands.add_parser("run", help="measure all cells of a plan and report; run again to resume")
    one.add_argument("plan", nargs="?", type=Path, default=DEFAULT_PLAN, help="(default: %(default)s)")
    one.add_argument("--out", type=Path, help="the run folder (default: runs/ and the plan's name)")
    one.add_argument("--users", type=numbers, metavar="10,25", help="user levels instead of the plan's")
    one.add_argument("--duration", type=int, metavar="S", help="seconds of load in each cell")
    one.add_argument("--targets", type=names, metavar="A,B", help="only these targets")
    one.add_argument("--repetitions", type=int, metavar="N", help="how often each cell is measured")
    add_open_loop(one, "open loop: so many requests start per second, whatever became of earlier ones")
    one.set_defaults(do=run)
    two = commands.add_parser("report", help="make report.md, report.html and report.json from raw data")
    two.add_argument("folder", nargs="?", type=Path, help="the folder of a run")
    two.add_argument("--csv", type=Path, metavar="PREFIX", help="instead: the CSV files of a plain Locust run")
    two.add_argument("--users", type=int, metavar="N", help="with --csv: how many users were asked for")
    two.add_argument("--wait", type=float, nargs=2, metavar=("MIN_S", "MAX_S"), help="with --csv: the think time")
    two.add_argument("--title", help="with --csv: the report's title")
    two.add_argument("--out", type=Path, help="where to write (default: beside the data)")
    two.set_defaults(do=report)
    add_audit(commands)
    add_capacity(commands)
    add_overload(commands)
    add_fuzz(commands)
    add_tune(commands)
    add_faults(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
