"""`loadtest generator`: make load for a run on another machine, whose plan has `generators_at`.

The kit of the same version must be installed here; the locustfile comes from the machine that measures. A
LOADTEST_API_KEY that the target asks for must be set here, too. Ends with Ctrl-C.

Exit codes: 0 stopped by Ctrl-C or SIGTERM, 2 the input cannot be used.
"""

import argparse

from loadtest.commands import options
from loadtest.plan.generators import check_cores, split_address


def add_command(commands: "options.Commands") -> None:
    """Add `generator` to the commands."""
    meaning = "make load for a run on another machine"
    parser = options.add_parser(commands, "generator", meaning, __doc__, "--master 192.0.2.7:5557 --processes 4")
    meaning = "generators_at of the plan: where the run waits for generators (required)"
    parser.add_argument("--master", type=_address, metavar="HOST:PORT", required=True, help=meaning)
    meaning = "generators on this machine, each of which can use one core (default: %(default)s)"
    parser.add_argument("--processes", type=options.positive_int, default=1, metavar="N", help=meaning)
    parser.set_defaults(do=generator)


def generator(arguments: argparse.Namespace) -> int:
    """Serve one load after the other until a signal comes. Raises BadInputError."""
    from loadtest.load.remote import serve_master
    from loadtest.measure.experiment import Interrupted, raising_on_signals
    from loadtest.plan.target_key import key_headers

    check_cores("--processes", arguments.processes)
    key_headers()  # refuses a key that cannot be sent
    host, port = arguments.master
    print(f"{arguments.processes} load generator(s) wait for the run at {host}:{port}; Ctrl-C ends them", flush=True)
    try:
        with raising_on_signals():
            serve_master(host, port, arguments.processes)
    except Interrupted:
        return 0


def _address(text: str) -> tuple[str, int]:
    try:
        return split_address(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
