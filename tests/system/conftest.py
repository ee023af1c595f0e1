"""What tests of the system need beside the environment: told all at once, before any of them runs.

A test names it: `pytest.mark.system("chromium", "chromedriver", root=True, cpu_quota=True)`.
"""

import os
import shutil
import sys

import pytest

from tests.control_groups import half_a_core

PACKAGES = {
    "bash": "bash",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "curl": "curl",
    "dash": "dash",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "prometheus": "prometheus",
    "rsync": "rsync",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "unshare": "util-linux",
}
"""The Debian package of each program."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """End with 2 and the names of what is missing for the selected tests."""
    marks = [mark for item in session.items for mark in item.iter_markers("system")]
    programs = sorted({name for mark in marks for name in mark.args if shutil.which(name) is None})
    missing = [f"{name} (apt-get install {PACKAGES[name]})" for name in programs]
    if marks and sys.platform != "linux":
        missing.append("Linux")
    elif os.geteuid() != 0 and any(mark.kwargs.get("root") for mark in marks):
        missing.append("root")
    elif any(mark.kwargs.get("cpu_quota") for mark in marks):
        try:
            with half_a_core():
                pass
        except OSError as exc:
            missing.append(str(exc))
    if missing:
        pytest.exit(f"`make test-system` needs what is not here: {', '.join(missing)}", returncode=2)
