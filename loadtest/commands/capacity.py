"""`loadtest capacity`: find the largest load that holds an objective; run again to resume.

Exit codes: 0 a load is confirmed, 1 none is, 2 invalid input.
"""

import argparse
from typing import TYPE_CHECKING

from loadtest.commands import options
from loadtest.errors import BadInputError
from loadtest.plan.plan import Plan, load_plan
from loadtest.plan.shipped import find_plan

if TYPE_CHECKING:
    from loadtest.capacity.search import Question

_SLO = "the objective, such as predict.p95_ms<=1000,failures_percent<=0 (required)"
_EXAMPLE = 'quick --target one_replica --slo "predict.p95_ms<=1000,failures_percent<=0"'
_NUMBERS = {
    "--most": (10_000, "N", "largest number of users, or rate, to measure"),
    "--resolution": (5, "PERCENT", "precision of the result, in percent of it"),
    "--window": (20, "S", "shortest measurement of a step, in seconds"),
    "--longest": (300, "S", "longest measurement of a step that lacks samples, in seconds"),
}


def add_command(commands: "options.Commands") -> None:
    """Add `capacity` to the commands."""
    meaning = "find the largest load that holds an objective; run again to resume"
    parser = options.add_parser(commands, "capacity", meaning, __doc__, _EXAMPLE)
    options.add_plan(parser, "configs/stress/quick.yaml")
    meaning = "a target of the plan (default: its only one)"
    parser.add_argument("--target", metavar="NAME", help=meaning)
    parser.add_argument("--slo", type=options.limits, required=True, metavar="LIMITS", help=_SLO)
    meaning = "users of the first step (default: the lowest level of the plan)"
    parser.add_argument("--start", type=options.positive_int, metavar="N", help=meaning)
    meaning = "search the largest arrival rate, starting with R per second (default: search the number of users)"
    options.add_open_loop(parser, meaning)
    for option, (default, metavar, meaning) in _NUMBERS.items():
        told = f"{meaning} (default: {default})"
        parser.add_argument(option, type=options.positive, default=default, metavar=metavar, help=told)
    meaning = "shortest measurement of the confirmation, in seconds (default: 3 times --window)"
    parser.add_argument("--confirm", type=options.positive, metavar="S", help=meaning)
    options.add_out(parser, "the folder of the search", "runs/capacity- and the names of plan and target")
    options.add_json(parser, "capacity.json")
    parser.set_defaults(do=capacity)


def capacity(arguments: argparse.Namespace) -> int:
    """Search the largest load that holds an objective, and print it. Raises BadInputError and Interrupted."""
    from loadtest.capacity.search import RECORD, find_capacity
    from loadtest.capacity.terminal import print_capacity

    plan = _plan(arguments)
    by_rate = "-rate" if arguments.rate is not None else ""
    folder = options.out_folder(arguments, f"capacity-{arguments.plan.stem}-{plan.targets[0].name}{by_rate}")
    found = find_capacity(plan, _question(arguments, plan), folder)
    options.print_outcome(found, [folder / RECORD], print_capacity, arguments)
    return 0 if found.result and found.result.status == "confirmed" else 1


def _plan(arguments: argparse.Namespace) -> Plan:
    targets = [arguments.target] if arguments.target else None
    overrides = options.given(limits=[str(limit) for limit in arguments.slo], targets=targets)
    plan = load_plan(find_plan(arguments.plan), overrides | options.open_loop(arguments))
    if arguments.rate is None and plan.workload.rate_rps is not None:
        raise BadInputError(f"--rate: {arguments.plan} is an open loop; give the rate of the first step")
    if len(plan.targets) > 1:
        names = ", ".join(target.name for target in plan.targets)
        raise BadInputError(f"--target: {arguments.plan} has several; choose one of {names}")
    return plan


def _question(arguments: argparse.Namespace, plan: Plan) -> "Question":
    from loadtest.capacity.bisection import Bounds
    from loadtest.capacity.search import Question

    by_rate = arguments.rate is not None
    if by_rate and arguments.start is not None:
        raise BadInputError("--start: is a number of users; with --rate, that is the rate of the first step")
    start = arguments.rate if by_rate else arguments.start or min(plan.users)
    if start < plan.generators and not by_rate:
        raise BadInputError(f"--start: must be at least {plan.generators}, one user for each of the plan's generators")
    if arguments.most != int(arguments.most) and not by_rate:
        raise BadInputError(f"--most: {arguments.most:g} is no number of users; give a whole one, or --rate")
    if arguments.most < start:
        first = "--rate" if by_rate else "--start (by default the lowest level of the plan)"
        raise BadInputError(f"--most: {arguments.most:g} is below the first step, {start:g}; raise it, or see {first}")
    bounds = Bounds(
        start=start,
        least=min(start, 0.1 if by_rate else plan.generators),
        most=arguments.most,
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
