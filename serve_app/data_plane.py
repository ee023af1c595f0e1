"""`python -m serve_app.data_plane CONFIG` prints the environment in which Ray has to start, for `eval` in a shell.

That is serve.env, `serve-app-haproxy` as HAProxy, and `tls` of the config: NAME=VALUE, a line each, without `export`.
Exit codes: 0, and 2 for a config that is no YAML or whose `tls` cannot be used, of which a shell tells nothing in
`eval "$(…)"`. Write:
environment=$(python -m serve_app.data_plane CONFIG) && (set -a; eval "$environment"; serve run CONFIG)
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from serve_app.deployments.config_text import read_config
from serve_app.entrance.environment import data_plane_environment, find_https_fault
from serve_app.entrance.tls import read_tls, tls_environment
from serve_app.errors import SetupError
from serve_app.places import find_config


def main() -> int:
    """Print the variables and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.data_plane", description=__doc__)
    parser.add_argument("config", help="a Serve config, or the name of a shipped one")
    arguments = parser.parse_args()
    try:
        wanted = whole_environment(find_config(arguments.config))
    except SetupError as exc:
        for line in str(exc).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    for name, value in wanted.items():
        print(f"{name}={shlex.quote(value)}")
    return 0


def whole_environment(config: Path) -> dict[str, str]:
    """Return the variables that are not set already, and those of `tls`, set or not. Raises SetupError."""
    wanted = data_plane_environment(config, os.environ)
    tls = read_tls(read_config(config))
    if tls and (fault := find_https_fault(tls, {**os.environ, **wanted})):
        raise SetupError(fault)
    return wanted | tls_environment(tls)


if __name__ == "__main__":
    sys.exit(main())
