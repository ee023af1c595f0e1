"""`python -m loadtest`: measure, report, compare and audit; find a capacity; overload, break, fuzz and tune a service.

Exit codes: 0 every cell is valid and every limit met (compare: nothing got worse; audit: nothing found; capacity:
confirmed; tune: a winner; overload: every promise kept; faults and soak: the limits of the plan hold; fuzz: the service
held), 1 otherwise, 2 the input cannot be used, 130 and 143 stopped by Ctrl-C or SIGTERM (run again to resume;
soak, fuzz and faults --only start anew).
"""

import argparse
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from loadtest.errors import BadInputError
from loadtest.measure.experiment import Interrupted

_COMMANDS = (
    "run", "report", "compare", "audit", "capacity", "overload", "faults", "soak", "fuzz", "tune", "generator"
)  # fmt: skip
"""Each is a module of `loadtest.commands`."""


def main() -> int:
    """Do what the command line says and return the exit code."""
    try:
        arguments = _parser(sys.argv[1:]).parse_args()
        code: int = arguments.do(arguments)
    except BadInputError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    except Interrupted as exc:
        again = "run the same command again to resume"
        print(f"stopped; {'the same command starts anew' if arguments.starts_anew else again}", file=sys.stderr)
        return 128 + exc.number
    except KeyboardInterrupt:  # where nothing had to be taken down
        print("stopped by Ctrl-C", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """Return the parser of the command that `words` begin with, or else of all: to import all takes a second."""
    prog = "loadtest" if Path(sys.argv[0]).stem == "loadtest" else "python -m loadtest"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.set_defaults(starts_anew=False)
    commands = parser.add_subparsers(required=True, metavar=" | ".join(_COMMANDS))
    for command in words[:1] if words and words[0] in _COMMANDS else _COMMANDS:
        import_module(f"loadtest.commands.{command}").add_command(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
