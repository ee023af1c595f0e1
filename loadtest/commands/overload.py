"""`loadtest overload`: load a target with multiples of its capacity; run again to resume.

Exit codes: 0 every promise is kept, 1 a promise is broken or the test failed, 2 invalid input.
"""

import argparse
import shlex
import sys
from collections.abc import Callable

from loadtest.commands import options
from loadtest.errors import BadInputError, CellFailedError
from loadtest.overload.question import LEAST_SATURATING_S, SETTLE_S, OverloadFolder, Promises, Question
from loadtest.plan.plan import Plan, load_plan
from loadtest.plan.shipped import find_plan
from loadtest.rows.run_folder import as_json, write_files


def add_command(commands: "options.Commands") -> None:
    """Add `overload` to the commands."""
    meaning = "load a target with multiples of its capacity; run again to resume"
    parser = options.add_parser(
        commands, "overload", meaning, __doc__, "--target one_thread --times 1,2,10 --seconds 30"
    )
    options.add_plan(parser, "configs/stress/overload.yaml")
    parser.add_argument("--target", metavar="NAME", help="a target of the plan (default: its first)")
    for name in ("heavy", "light"):
        _add_field(parser, name, Question, str, "ENDPOINT")
    meaning = "multiples of the capacity (default: 1,2,5,10)"
    parser.add_argument("--times", type=_multiples, default=[1.0, 2.0, 5.0, 10.0], metavar="1,2,5", help=meaning)
    meaning = "duration of each load (default: %(default)g)"
    parser.add_argument("--seconds", type=options.positive, default=60, metavar="S", help=meaning)
    for name in ("idle_s", "tail_s"):
        _add_field(parser, name, Question, options.positive_int, "S")
    _add_field(parser, "saturating_s", Question, _saturating_s, "S")
    meaning = "capacity in heavy requests per second (default: measured)"
    parser.add_argument("--capacity", type=options.positive, metavar="R", help=meaning)
    for name in Promises.model_fields:
        _add_field(parser, name, Promises, options.positive, "X")
    options.add_out(parser, "the folder of the test", "runs/overload- and the target's name")
    options.add_json(parser, "overload.json", "tables")
    parser.set_defaults(do=overload)


def _add_field(
    parser: argparse.ArgumentParser,
    name: str,
    model: type[Promises | Question],
    kind: Callable[[str], float | str],
    metavar: str,
) -> None:
    """Add the option of a field that a model describes."""
    field = model.model_fields[name]
    meaning, default = str(field.description).rstrip("."), kind(str(field.default))
    parser.add_argument(
        _option(name), type=kind, default=default, metavar=metavar, help=f"{meaning} (default: {_word(default)})"
    )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _word(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.15g}"


def overload(arguments: argparse.Namespace) -> int:
    """Overload a target and print which promises it kept. Raises BadInputError and Interrupted."""
    from loadtest.overload.figures import compute_overload
    from loadtest.overload.measure import measure_overload
    from loadtest.overload.page import PICTURE, draw_overload, print_overload, render_markdown

    plan = _plan(arguments)
    question = _question(arguments, plan)
    folder = OverloadFolder(options.out_folder(arguments, f"overload-{plan.targets[0].name}"))
    try:
        measure_overload(plan, question, folder)
    except CellFailedError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    figures = compute_overload(folder)
    made = {
        folder.record: as_json(figures),
        folder.path / "overload.md": render_markdown(figures, _command(arguments, question)),
        folder.path / PICTURE: draw_overload(figures),
    }
    write_files(made)
    options.print_outcome(figures, made, print_overload, arguments)
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
    said = vars(arguments)
    promises = Promises(**{name: said[name] for name in Promises.model_fields})
    numbers = {name: said[name] for name in Question.model_fields if name in said}
    return Question(capacity_rps=arguments.capacity, promises=promises, **numbers)


def _command(arguments: argparse.Namespace, question: Question) -> str:
    """Return the command that asks `question`, without the options that have their defaults."""
    words = ["python", "-m", "loadtest", "overload", str(arguments.plan)]
    words += ["--target", arguments.target] if arguments.target else []
    words += ["--times", ",".join(map(_word, question.times)), "--seconds", _word(question.seconds)]
    words += ["--capacity", _word(question.capacity_rps)] if question.capacity_rps else []
    others = question.model_dump(exclude={"times", "seconds", "capacity_rps", "promises"}, exclude_defaults=True)
    others |= question.promises.model_dump(exclude_defaults=True)
    return shlex.join([*words, *(word for name, value in others.items() for word in (_option(name), _word(value)))])


def _saturating_s(text: str) -> int:
    seconds = options.positive_int(text)
    if seconds < LEAST_SATURATING_S:
        first = f"the first {SETTLE_S:g} s are not counted"
        raise argparse.ArgumentTypeError(f"{text}: give at least {LEAST_SATURATING_S}, for {first}")
    return seconds


def _multiples(text: str) -> list[float]:
    found = [options.positive(part) for part in text.split(",")]
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text}: the same multiple is given twice")
    return found
