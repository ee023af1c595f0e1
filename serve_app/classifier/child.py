"""Runs a module of this package as a process of its own: what it needs of memory and libraries goes with it."""

import subprocess
import sys
from collections.abc import Mapping


def run_child(
    module: str, *arguments: str, text: str, timeout_s: float, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Return what the ended process has printed; its `environment` is that of this one if None.

    `text` goes to its stdin: of an argument, `ps` would show a URL's password. Raises subprocess.TimeoutExpired.
    """
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        input=text,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
    )
