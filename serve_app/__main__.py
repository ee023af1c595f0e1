"""`serve-app [CONFIG]` or `python -m serve_app`: start Ray here, deploy the config, say when it is ready."""

import argparse
import signal
import sys
from pathlib import Path

from serve_app.entrance.environment import apply_data_plane_environment
from serve_app.errors import SetupError, SetupFaults
from serve_app.places import find_config

DEFAULT_CONFIG = "configs/one_replica.yaml"
_ENDED_BY_SIGINT, _ENDED_BY_SIGTERM = 128 + signal.SIGINT, 128 + signal.SIGTERM
_PROGRAM = "serve-app"
_EPILOG = """examples:
  %(prog)s                          configs/one_replica.yaml, on 127.0.0.1:8000, until Ctrl-C
  %(prog)s my_service.yaml          your own config
  %(prog)s --check two_models       a shipped config by its name, only checked

exit codes:
  0  stopped by Ctrl-C or SIGTERM; with --check: the config can be used
  1  not deployed: a replica did not start, or Ray ended; the last lines say why and where the logs are
  2  not started: config, environment or options are wrong; each fault is one line with its key and remedy
  130 (Ctrl-C), 143 (SIGTERM)  with --check: stopped before the answer
"""


def main() -> int:
    """Serve until SIGTERM or Ctrl-C, or check a config. Returns the exit code, as `--help` has it."""
    typed = _PROGRAM if Path(sys.argv[0]).stem == _PROGRAM else "python -m serve_app"
    arguments = build_parser(typed).parse_args()
    stopped = _ENDED_BY_SIGTERM if arguments.check else 0
    # The first process of a container is else not ended by it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(stopped))
    try:
        return _check_or_serve(arguments)
    except KeyboardInterrupt:  # before or after `launch`, which takes it for a stop itself
        print("stopped", file=sys.stderr)
        return _ENDED_BY_SIGINT if arguments.check else 0


def _check_or_serve(arguments: argparse.Namespace) -> int:
    try:
        path = find_config(arguments.config)
        apply_data_plane_environment(path)
        if arguments.check:
            return _check(path)
    except SetupError as exc:
        return _refuse(exc)
    from serve_app.deployments.launcher import launch  # Ray reads the environment when it is imported
    from serve_app.deployments.rollout import DeployError

    try:
        launch(path, timeout_s=arguments.timeout_s, drain_s=arguments.drain_s)
    except DeployError as exc:
        print(f"\nNOT DEPLOYED: {exc}", file=sys.stderr)
        return 1
    except SetupError as exc:
        return _refuse(exc)
    return 0


def build_parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of the command line, with the name by which it was typed."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Start Ray on this machine, deploy a config, and say when the service answers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", nargs="?", default=DEFAULT_CONFIG, help="a Serve config, or the name of a shipped one (%(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="only check the config, and what it needs of this machine")
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=1800,
        metavar="S",
        help="longest wait until ready (default: %(default)s: the first start may download and prepare a model)",
    )
    parser.add_argument(
        "--drain-s",
        type=float,
        default=20,
        metavar="S",
        help="when stopped, longest wait for the answers to accepted requests (default: %(default)s: Kubernetes kills "
        "after 30 s)",
    )
    return parser


def _check(path: Path) -> int:
    from serve_app.deployments.applications import classifiers
    from serve_app.deployments.cores import usable_cores
    from serve_app.deployments.preflight import startable_config
    from serve_app.deployments.thread_budget import thread_budget_fault

    config, warnings = startable_config(path, is_to_listen=False)
    engines, cores = list(classifiers(config)), usable_cores()
    for warning in filter(None, (*warnings, thread_budget_fault(engines, cores))):
        print(f"WARNING: {warning}")
    for each in engines:
        print(f"{each.application}: {each.engines} on {cores} core(s)")
    print(f"{path} can be used")
    return 0


def _refuse(reason: SetupError) -> int:
    for line in reason.lines if isinstance(reason, SetupFaults) else (reason,):
        print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
