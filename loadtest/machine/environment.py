"""The machine and the software that a run was measured on. No host name, user name or folder is in it."""

import platform
import subprocess
import time
from importlib.metadata import distributions
from pathlib import Path

import psutil

from loadtest.machine.cores import usable_cores
from loadtest.rows.run_folder import Environment, Session

_CPUINFO = Path("/proc/cpuinfo")


def read_environment() -> Environment:
    """Return what this machine is, and the versions of everything installed beside the kit."""
    return Environment(
        cpu_model=_cpu_model(),
        cores=psutil.cpu_count() or 1,
        usable_cores=usable_cores(),
        ram_bytes=psutil.virtual_memory().total,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=dict(sorted(_packages())),
        git_commit=_git("rev-parse", "HEAD") or None,
        git_changed=bool(_git("status", "--porcelain", "--untracked-files=no")),
    )


def begin_session() -> Session:
    """Return a start of a run: now, on this machine."""
    return Session(started_unix_s=round(time.time(), 3), environment=read_environment())


def _cpu_model() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _packages() -> set[tuple[str, str]]:
    known = (found.metadata for found in distributions())  # each look reads and parses a file
    return {(metadata["Name"], metadata["Version"]) for metadata in known if metadata["Name"]}


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
