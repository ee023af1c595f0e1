"""`loadtest overload`: load a target with multiples of its capacity.

Exit codes: 0 every promise is kept, 1 one is not or the test failed, 2 the input cannot be used.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from loadtest.commands.options import add_json, add_out, add_plan, out_folder, positive, positive_int
from loadtest.errors import BadInputError, CellFailedError
from loadtest.overload.question import OverloadFolder, Promises, Question
from loadtest.plan.plan import Plan, load_plan
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import as_json, folder_faults, write_json

if TYPE_CHECKING:
    from loadtest.commands.options import Commands


def add_command(commands: "Commands") -> None:
    """Add `overload` to the commands."""
    parser = commands.add_parser("overload", help="load a target with multiples of its capacity; run again to resume")
    add_plan(parser, "configs/stress/overload.yaml")
    parser.add_argument("--target", metavar="NAME", help="the plan's target (default: its first)")
    parser.add_argument("--heavy", default="predict", metavar="ENDPOINT", help="what is overloaded (%(default)s)")
    parser.add_argument("--light", default="lookup", metavar="ENDPOINT", help="what must not suffer (%(default)s)")
    parser.add_argument(
        "--times", type=_multiples, default=[1.0, 2.0, 5.0, 10.0], metavar="1,2,5", help="multiples (1,2,5,10)"
    )
    parser.add_argument("--seconds", type=positive, default=60, metavar="S", help="of each load (%(default)g)")
    for name in ("idle_s", "tail_s", "saturating_s"):
        default = Question.model_fields[name].default
        what = "of the capacity's load" if name == "saturating_s" else "of the light load alone"
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=positive_int, default=int(default), metavar="S", help=f"{what} ({default:g})")
    parser.add_argument("--capacity", type=positive, metavar="R", help="heavy requests per second (default: measured)")
    for name, field in Promises.model_fields.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=positive, default=field.default, metavar="X", help=f"({field.default:g})")
    add_out(parser, "the folder of the test", "in runs/")
    add_json(parser, "overload.json instead of tables")
    parser.set_defaults(do=overload)


def overload(arguments: argparse.Namespace) -> int:
    """Overload a target and print what it kept. Raises BadInputError, and Interrupted."""
    from loadtest.overload.figures import compute_overload
    from loadtest.overload.measure import measure_overload
    from loadtest.overload.page import print_overload, write_page

    plan = _plan(arguments)
    question = _question(arguments, plan)
    folder = OverloadFolder(out_folder(arguments, f"overload-{plan.targets[0].name}"))
    try:
        measure_overload(plan, question, folder)
    except CellFailedError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    figures = compute_overload(folder)
    with folder_faults(folder.path):
        write_json(folder.record, figures)
        paths = write_page(figures, _command(arguments), folder.path)
    if arguments.json:
        print(as_json(figures), end="")
    else:
        print_overload(figures)
        for path in (folder.record, *paths):
            print(path)
    return 0 if figures.all_kept else 1


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = load_plan(find_plan(arguments.plan), {"targets": [arguments.target]} if arguments.target else {})
    for option in ("heavy", "light"):
        if (name := getattr(arguments, option)) not in plan.workload.endpoints:
            raise BadInputError(f"--{option}: {name!r} is not one of {', '.join(plan.workload.endpoints)}")
    return plan.model_copy(update={"targets": plan.targets[:1]})


def _question(arguments: argparse.Namespace, plan: Plan) -> Question:
    if arguments.heavy == arguments.light:
        raise BadInputError(f"--light: {arguments.light!r} is --heavy already; {plan.title} needs two endpoints")
    return Question(
        heavy=arguments.heavy,
        light=arguments.light,
        times=arguments.times,
        seconds=arguments.seconds,
        idle_s=arguments.idle_s,
        tail_s=arguments.tail_s,
        saturating_s=arguments.saturating_s,
        capacity_rps=arguments.capacity,
        promises=Promises(**{name: getattr(arguments, name) for name in Promises.model_fields}),
    )


def _command(arguments: argparse.Namespace) -> str:
    words = ["python -m loadtest overload", str(arguments.plan)]
    words += [f"--target {arguments.target}"] if arguments.target else []
    words += [f"--times {','.join(f'{times:g}' for times in arguments.times)}", f"--seconds {arguments.seconds:g}"]
    return " ".join([*words, *([f"--capacity {arguments.capacity:g}"] if arguments.capacity else [])])


def _multiples(text: str) -> list[float]:
    found = [positive(part) for part in text.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text}: the same multiple stands there twice")
    return found
