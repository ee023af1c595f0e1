"""Reads configs/serve.env into the environment. Must run before Ray is imported: Ray reads these variables once."""

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from serve_app.entrance.haproxy import BINARY_VARIABLE, PROGRAM
from serve_app.entrance.tls import Tls, find_tls_fault
from serve_app.errors import Fault, SetupError
from serve_app.places import CONFIGS, is_file

FILE_NAME = "serve.env"
SERVE_ENV = CONFIGS / FILE_NAME
HAPROXY_SWITCH = "RAY_SERVE_ENABLE_HA_PROXY"


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a file of NAME=VALUE lines, quoted as for a POSIX shell. Raises SetupError."""
    try:
        words = shlex.split(path.read_text(encoding="utf-8"), comments=True)
        return dict(word.split("=", 1) for word in words)
    except (OSError, ValueError) as exc:
        raise SetupError(f"{path} must hold lines of NAME=VALUE: {exc}") from exc


def data_plane_environment(config: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the serve.env beside `config`, or else the shipped one, that are not `given` already.

    HAProxy's binary exists for Linux only; elsewhere Serve's own proxy takes its place with the same YAML. Ray gets it
    through the program that hardens its config. Raises SetupError.
    """
    beside = config.parent / FILE_NAME
    path = beside if is_file(beside) else SERVE_ENV
    wanted = read_env_file(path) if is_file(path) else {}
    if platform.system() != "Linux":
        wanted.pop(HAPROXY_SWITCH, None)
    elif HAPROXY_SWITCH in wanted and BINARY_VARIABLE not in given:
        wanted[BINARY_VARIABLE] = str(_hardening_program())
    return {name: value for name, value in wanted.items() if name not in given}


def apply_data_plane_environment(config: Path) -> None:
    """Set those variables in this process, whose children inherit them."""
    os.environ.update(data_plane_environment(config, os.environ))


def find_https_fault(tls: Tls, environment: Mapping[str, str]) -> Fault | None:
    """Return why a service that starts in `environment` would not speak HTTPS, or None."""
    if environment.get(HAPROXY_SWITCH) != "1":
        return Fault("tls", "without HAProxy there is no HTTPS", f"start with {HAPROXY_SWITCH}=1, or remove the key")
    return find_tls_fault(tls)


def _hardening_program() -> Path:
    program = Path(sys.executable).with_name(PROGRAM)
    if not program.is_file():
        raise SetupError(
            f"{program} is not there; install the project again (`make serve` does), or set {BINARY_VARIABLE} to a "
            "HAProxy whose statistics and metrics ports you protect yourself"
        )
    return program
