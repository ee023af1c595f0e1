"""`python -m loadtest`: run a plan against a service, make reports of what it measured, find what load it can bear.

Exit codes: 0 every cell is valid and every limit met (capacity: confirmed), 1 some cell is not valid or a limit is
missed (capacity: not confirmed, or no load holds the objective), 2 the input cannot be used, 130 and 143 stopped by
Ctrl-C or SIGTERM (run again to resume).
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.errors import BadInputError
from loadtest.measuring.runner import Interrupted, run_plan
from loadtest.plan import MOST_IN_FLIGHT, Limit, load_plan, read_limit
from loadtest.run_folder import RunFolder

if TYPE_CHECKING:
    from loadtest.reporting.figures import Figures

DEFAULT_PLAN = Path("configs/stress/published.yaml")
_SLO = "such as predict.p95_ms<=1000,lookup.p95_ms<=50,failures_percent<=0"


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


def capacity(arguments: argparse.Namespace) -> int:
    """Search the largest load that holds an objective, and print it."""
    from loadtest.searching.answer import print_capacity
    from loadtest.searching.bisection import Bounds
    from loadtest.searching.capacity import Question, find_capacity

    by_rate = arguments.rate is not None
    open_loop = {"rate_rps": arguments.rate, "arrivals": arguments.arrivals, "in_flight": arguments.in_flight}
    given = {"limits": [str(limit) for limit in arguments.slo], **open_loop}
    given |= {"targets": [arguments.target]} if arguments.target else {}
    plan = load_plan(arguments.plan, {key: value for key, value in given.items() if value is not None})
    if not by_rate and plan.workload.rate_rps is not None:
        raise BadInputError(f"--rate: {arguments.plan} is an open loop; say with which rate the search begins")
    if len(plan.targets) > 1:
        names = ", ".join(target.name for target in plan.targets)
        raise BadInputError(f"--target: {arguments.plan} has several; say which: {names}")
    start = arguments.rate if by_rate else arguments.start or min(plan.users)
    bounds = Bounds(
        start=start,
        least=min(start, 0.1 if by_rate else 1),
        most=max(start, arguments.most),
        resolution_percent=arguments.resolution,
        whole=not by_rate,
    )
    question = Question(
        by="rate_rps" if by_rate else "users",
        bounds=bounds,
        window_s=arguments.window,
        confirm_s=arguments.confirm or 3 * arguments.window,
        longest_s=arguments.longest,
    )
    name = f"capacity-{arguments.plan.stem}-{plan.targets[0].name}{'-rate' if by_rate else ''}"
    folder = arguments.out or Path("runs") / name
    try:
        found = find_capacity(plan, question, folder)
    except Interrupted as exc:
        print(f"stopped; the steps are in {folder}: run the same command again to go on", file=sys.stderr)
        return 128 + exc.number
    if arguments.json:
        print(found.model_dump_json(indent=1))
    else:
        print_capacity(found, folder)
    return 0 if found.result and found.result.status == "confirmed" else 1


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
        "rate_rps": arguments.rate,
        "arrivals": arguments.arrivals,
        "in_flight": arguments.in_flight,
    }
    return {key: value for key, value in given.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | report | capacity")
    one = commands.add_parser("run", help="measure all cells of a plan and report; run again to resume")
    one.add_argument("plan", nargs="?", type=Path, default=DEFAULT_PLAN, help="(default: %(default)s)")
    one.add_argument("--out", type=Path, help="the run folder (default: runs/ and the plan's name)")
    one.add_argument("--users", type=_numbers, metavar="10,25", help="user levels instead of the plan's")
    one.add_argument("--duration", type=int, metavar="S", help="seconds of load in each cell")
    one.add_argument("--targets", type=_names, metavar="A,B", help="only these targets")
    one.add_argument("--repetitions", type=int, metavar="N", help="how often each cell is measured")
    _add_open_loop(one, "open loop: so many requests start per second, whatever became of earlier ones")
    one.set_defaults(do=run)
    two = commands.add_parser("report", help="make report.md, report.html and report.json from raw data")
    two.add_argument("folder", nargs="?", type=Path, help="the folder of a run")
    two.add_argument("--csv", type=Path, metavar="PREFIX", help="instead: the CSV files of a plain Locust run")
    two.add_argument("--users", type=int, metavar="N", help="with --csv: how many users were asked for")
    two.add_argument("--wait", type=float, nargs=2, metavar=("MIN_S", "MAX_S"), help="with --csv: the think time")
    two.add_argument("--title", help="with --csv: the report's title")
    two.add_argument("--out", type=Path, help="where to write (default: beside the data)")
    two.set_defaults(do=report)
    _add_capacity(commands.add_parser("capacity", help="find the largest load that holds an objective"))
    return parser


def _add_capacity(three: argparse.ArgumentParser) -> None:
    three.add_argument("plan", nargs="?", type=Path, default=DEFAULT_PLAN, help="(default: %(default)s)")
    three.add_argument("--target", metavar="NAME", help="the plan's target to search; needed if it has several")
    three.add_argument("--slo", type=_limits, required=True, metavar="LIMITS", help=_SLO)
    three.add_argument(
        "--start", type=_positive_int, metavar="N", help="users to begin with (default: the plan's least)"
    )
    _add_open_loop(three, "search the largest arrival rate instead of the number of users, beginning with R")
    three.add_argument("--most", type=_positive, default=10_000, metavar="N", help="look no higher (%(default)g)")
    three.add_argument("--resolution", type=_positive, default=5, metavar="PERCENT", help="of the result (%(default)g)")
    three.add_argument(
        "--window", type=_positive, default=20, metavar="S", help="a step measures so long (%(default)g)"
    )
    three.add_argument(
        "--confirm", type=_positive, metavar="S", help="the last one so long (default: 3 times --window)"
    )
    three.add_argument("--longest", type=_positive, default=300, metavar="S", help="none longer for more samples (300)")
    three.add_argument("--out", type=Path, help="the folder of the search (default: in runs/)")
    three.add_argument("--json", action="store_true", help="print capacity.json instead of a table")
    three.set_defaults(do=capacity)


def _add_open_loop(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--rate", type=_positive, metavar="R", help=f"{meaning}")
    parser.add_argument("--arrivals", choices=("poisson", "constant"), help="with --rate (default: poisson)")
    parser.add_argument(
        "--in-flight", type=_positive_int, metavar="N", help=f"with --rate: at most under way ({MOST_IN_FLIGHT})"
    )


def _limits(text: str) -> list[Limit]:
    try:
        limits = [read_limit(part) for part in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    for limit in limits:
        if limit.metric == "rps" or limit.comparison not in {"<=", "<"}:
            raise argparse.ArgumentTypeError(f"{limit}: give latencies or failures_percent with <= or <")
    return limits


def _positive(text: str) -> float:
    number = _number(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _positive_int(text: str) -> int:
    number = _positive(text)
    if number != int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(number)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 10,25") from exc


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
