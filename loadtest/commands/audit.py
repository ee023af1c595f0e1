"""`loadtest audit`: check with arithmetic what a stress report prints.

Exit codes: 0 no findings, 1 findings, 2 the input cannot be used.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from loadtest.audit.audit import audit_file
from loadtest.audit.finding import Audit
from loadtest.audit.locust_stats import RunFacts
from loadtest.audit.markdown import render_markdown
from loadtest.audit.terminal import print_audit
from loadtest.commands.options import given
from loadtest.errors import BadInputError
from loadtest.rows.run_folder import folder_faults

if TYPE_CHECKING:
    from loadtest.commands.options import Commands


def add_command(commands: "Commands") -> None:
    """Add `audit` to the commands."""
    parser = commands.add_parser(
        "audit",
        help="check with arithmetic what a stress report prints",
        description=(
            "Checks what arithmetic can check in a report: our report.json, a Locust `_stats.csv`, or a YAML table of "
            "another report. Exit codes: 0 no findings, 1 findings, 2 the input cannot be used."
        ),
    )
    parser.add_argument("file", type=Path, help="report.json, PREFIX_stats.csv, or a YAML table")
    facts = parser.add_argument_group("of a _stats.csv, which does not say them")
    facts.add_argument("--users", type=int, metavar="N", help="how many users there were")
    facts.add_argument("--duration", type=float, metavar="S", help="how many seconds the run was to last")
    facts.add_argument("--wait", type=float, nargs=2, metavar=("MIN_S", "MAX_S"), help="think time between requests")
    facts.add_argument("--spawn-rate", type=float, metavar="PER_S", help="how many users came per second (default: 1)")
    parser.add_argument(
        "--format", choices=("text", "json", "markdown"), default="text", help="what to print (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there, too")
    parser.set_defaults(do=audit)


def audit(arguments: argparse.Namespace) -> int:
    """Audit a file, print what was found, and return the exit code. Raises BadInputError."""
    found = audit_file(arguments.file, _facts(arguments))
    if arguments.json is not None:
        with folder_faults(arguments.json, "--json"):
            arguments.json.write_text(_as_json(found), encoding="utf-8", newline="\n")
    if arguments.format == "text":
        print_audit(found, Console(highlight=False))
    else:
        print(_as_json(found) if arguments.format == "json" else render_markdown(found), end="")
    return 1 if found.findings else 0


def _facts(arguments: argparse.Namespace) -> RunFacts:
    names = ("users", "duration", "wait", "spawn_rate")
    facts = given(**{name: getattr(arguments, name) for name in names})
    if facts and arguments.file.suffix != ".csv":
        options = ", ".join(f"--{name.replace('_', '-')}" for name in facts)
        raise BadInputError(f"{options}: only for a Locust _stats.csv; {arguments.file} says it itself")
    return RunFacts(
        users=arguments.users,
        duration_s=arguments.duration,
        wait_s=tuple(arguments.wait) if arguments.wait else None,
        spawn_rate_per_s=arguments.spawn_rate,
    )


def _as_json(audit: Audit) -> str:
    return audit.model_dump_json(indent=1) + "\n"
