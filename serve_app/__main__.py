"""`python -m serve_app [CONFIG]`, what `make serve` runs: start Ray here, deploy the config, say when it is ready."""

import argparse
import os
import signal
import sys
from pathlib import Path

from serve_app.deployments.config_text import check_environment, read_config
from serve_app.entrance.environment import apply_data_plane_environment
from serve_app.errors import SetupError

DEFAULT_CONFIG = Path("configs/one_replica.yaml")


def main() -> int:
    """Serve until SIGTERM or Ctrl-C. Exit codes: 0 stopped when asked, 1 not deployed, 2 bad config or busy port."""
    parser = argparse.ArgumentParser(prog="python -m serve_app", description=__doc__)
    parser.add_argument(
        "config", nargs="?", type=Path, default=DEFAULT_CONFIG, help="a Serve config (default: %(default)s)"
    )
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
        apply_data_plane_environment(arguments.config)
        check_environment(read_config(arguments.config), os.environ)
    except SetupError as exc:
        return _refuse(exc)
    from serve_app.deployments.launcher import DeployError, launch  # Ray reads the environment when it is imported

    try:
        launch(arguments.config, timeout_s=arguments.timeout_s, drain_s=arguments.drain_s)
    except DeployError as exc:
        print(f"\nNOT DEPLOYED: {exc}", file=sys.stderr)
        return 1
    except SetupError as exc:
        return _refuse(exc)
    return 0


def _refuse(reason: SetupError) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
