"""`loadtest capacity`: find the largest load that holds an objective.

Exit codes: 0 a load is confirmed, 1 none is, 2 the input cannot be used.
"""

import argparse
from typing import TYPE_CHECKING

from loadtest.commands.options import (
    add_json,
    add_open_loop,
    add_out,
    add_plan,
    given,
    limits,
    open_loop,
    out_folder,
    positive,
    positive_int,
)
from loadtest.errors import BadInputError
from loadtest.plan.plan import Plan, load_plan
from loadtest.plan.shipped import find_plan

if TYPE_CHECKING:
    from loadtest.capacity.search import Question
    from loadtest.commands.options import Commands

_SLO = "such as predict.p95_ms<=1000,lookup.p95_ms<=50,failures_percent<=0"


def add_command(commands: "Commands") -> None:
    """Add `capacity` to the commands."""
    parser = commands.add_parser("capacity", help="find the largest load that holds an objective; run again to resume")
    add_plan(parser, "configs/stress/quick.yaml")
    parser.add_argument("--target", metavar="NAME", help="the plan's target to search; needed if it has several")
    parser.add_argument("--slo", type=limits, required=True, metavar="LIMITS", help=_SLO)
    parser.add_argument(
        "--start", type=positive_int, metavar="N", help="users to begin with (default: the plan's least)"
    )
    add_open_loop(parser, "search the largest arrival rate instead of the number of users, beginning with R")
    parser.add_argument("--most", type=positive, default=10_000, metavar="N", help="look no higher (%(default)g)")
    parser.add_argument("--resolution", type=positive, default=5, metavar="PERCENT", help="of the result (%(default)g)")
    parser.add_argument(
        "--window", type=positive, default=20, metavar="S", help="seconds that a step measures (%(default)g)"
    )
    parser.add_argument(
        "--confirm", type=positive, metavar="S", help="seconds of the last one (default: 3 times --window)"
    )
    parser.add_argument(
        "--longest", type=positive, default=300, metavar="S", help="no step is longer to get more samples (300)"
    )
    add_out(parser, "the folder of the search", "in runs/")
    add_json(parser, "capacity.json instead of a table")
    parser.set_defaults(do=capacity)


def capacity(arguments: argparse.Namespace) -> int:
    """Search the largest load that holds an objective, and print it. Raises BadInputError, and Interrupted."""
    from loadtest.capacity.search import find_capacity
    from loadtest.capacity.terminal import print_capacity

    plan = _plan(arguments)
    by_rate = "-rate" if arguments.rate is not None else ""
    folder = out_folder(arguments, f"capacity-{arguments.plan.stem}-{plan.targets[0].name}{by_rate}")
    found = find_capacity(plan, _question(arguments, plan), folder)
    if arguments.json:
        print(found.model_dump_json(indent=1))
    else:
        print_capacity(found, folder)
    return 0 if found.result and found.result.status == "confirmed" else 1


def _plan(arguments: argparse.Namespace) -> Plan:
    targets = [arguments.target] if arguments.target else None
    overrides = given(limits=[str(limit) for limit in arguments.slo], targets=targets)
    plan = load_plan(find_plan(arguments.plan), overrides | open_loop(arguments))
    if arguments.rate is None and plan.workload.rate_rps is not None:
        raise BadInputError(f"--rate: {arguments.plan} is an open loop; say with which rate the search begins")
    if len(plan.targets) > 1:
        names = ", ".join(target.name for target in plan.targets)
        raise BadInputError(f"--target: {arguments.plan} has several; say which: {names}")
    return plan


def _question(arguments: argparse.Namespace, plan: Plan) -> "Question":
    from loadtest.capacity.bisection import Bounds
    from loadtest.capacity.search import Question

    by_rate = arguments.rate is not None
    start = arguments.rate if by_rate else arguments.start or min(plan.users)
    bounds = Bounds(
        start=start,
        least=min(start, 0.1 if by_rate else 1),
        most=max(start, arguments.most),
        resolution_percent=arguments.resolution,
        whole=not by_rate,
    )
    return Question(
        by="rate_rps" if by_rate else "users",
        bounds=bounds,
        window_s=arguments.window,
        confirm_s=arguments.confirm or 3 * arguments.window,
        longest_s=arguments.longest,
    )
