"""`serve-app [CONFIG]` or `python -m serve_app`: start Ray here, deploy the config, say when it is ready."""

import argparse
import signal
import sys
from pathlib import Path

from serve_app.entrance.environment import apply_data_plane_environment
from serve_app.errors import SetupError, SetupFaults
from serve_app.places import find_config

DEFAULT_CONFIG = "configs/one_replica.yaml"
_PROGRAM = "serve-app"


def main() -> int:
    """Serve until SIGTERM or Ctrl-C. Exit codes: 0 stopped when asked, 1 not deployed, 2 bad config or busy port."""
    typed = _PROGRAM if Path(sys.argv[0]).stem == _PROGRAM else "python -m serve_app"
    parser = argparse.ArgumentParser(prog=typed, description=__doc__)
    parser.add_argument(
        "config", nargs="?", default=DEFAULT_CONFIG, help="a Serve config, or the name of a shipped one (%(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="only check the config, and what it needs of this machine")
    parser.add_argument("--timeout-s", type=float, default=1800, help="longest wait until ready (default: %(default)s)")
    parser.add_argument(
        "--drain-s",
        type=float,
        default=20,
        help="when stopped, longest wait for the answers to accepted requests (default: %(default)s)",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container is else not ended by it
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


def _check(path: Path) -> int:
    from serve_app.deployments.preflight import startable_config

    _, warnings = startable_config(path, is_to_listen=False)
    for warning in warnings:
        print(f"WARNING: {warning}")
    print(f"{path} can be used")
    return 0


def _refuse(reason: SetupError) -> int:
    for line in reason.lines if isinstance(reason, SetupFaults) else (reason,):
        print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
