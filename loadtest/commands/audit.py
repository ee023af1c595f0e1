"""`loadtest audit`: check the figures of a stress report by arithmetic.

The file is our report.json, the `_stats.csv` of a Locust run, or a YAML table of another report.

Exit codes: 0 no findings, 1 findings, 2 invalid input.
"""

import argparse
from pathlib import Path

from rich.console import Console

from loadtest.audit.audit import audit_file
from loadtest.audit.finding import Audit
from loadtest.audit.locust_stats import RunFacts
from loadtest.audit.markdown import render_markdown
from loadtest.audit.terminal import print_audit
from loadtest.commands import options
from loadtest.errors import BadInputError
from loadtest.rows.run_folder import folder_faults


def add_command(commands: "options.Commands") -> None:
    """Add `audit` to the commands."""
    meaning = "check the figures of a stress report by arithmetic"
    example = "run_stats.csv --users 50 --duration 120 --wait 1 5 --spawn-rate 5"
    parser = options.add_parser(commands, "audit", meaning, __doc__, "runs/quick/report.json", example)
    parser.add_argument("file", type=Path, help="report.json, PREFIX_stats.csv, or a YAML table")
    facts = parser.add_argument_group("only for a _stats.csv, which does not contain them")
    meaning = "number of users (default: unknown; think time and hidden time are not checked)"
    facts.add_argument("--users", type=int, metavar="N", help=meaning)
    meaning = "planned duration in seconds (default: unknown; requests ÷ RPS is not compared with it)"
    facts.add_argument("--duration", type=float, metavar="S", help=meaning)
    meaning = "shortest and longest think time in seconds (default: unknown; as without --users)"
    facts.add_argument("--wait", type=float, nargs=2, metavar=("MIN_S", "MAX_S"), help=meaning)
    meaning = "users started per second (default: 1, as Locust's own default)"
    facts.add_argument("--spawn-rate", type=float, metavar="PER_S", help=meaning)
    meaning = "what to print on standard output (default: %(default)s)"
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text", help=meaning)
    meaning = "also write the audit as JSON to FILE (default: write no file)"
    parser.add_argument("--json", type=Path, metavar="FILE", help=meaning)
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
    facts = options.given(**{name: getattr(arguments, name) for name in names})
    if facts and arguments.file.suffix != ".csv":
        given = ", ".join(f"--{name.replace('_', '-')}" for name in facts)
        raise BadInputError(f"{given}: only for a Locust _stats.csv; {arguments.file} says it itself")
    return RunFacts(
        users=arguments.users,
        duration_s=arguments.duration,
        wait_s=tuple(arguments.wait) if arguments.wait else None,
        spawn_rate_per_s=arguments.spawn_rate,
    )


def _as_json(audit: Audit) -> str:
    return audit.model_dump_json(indent=1) + "\n"
