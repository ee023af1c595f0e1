"""A cluster of machines with networks of their own, made by `ray up ray_cluster.yaml`, under load while one is lost."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import ROOT


@pytest.mark.system("ip", "unshare", "nsenter", "setpriv", "sshd", "rsync", "ssh", "curl", root=True)
@pytest.mark.timeout(3600)
def test_ray_up_makes_a_cluster_that_loses_a_worker_and_gains_another_without_a_failed_request(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.cluster", "faults", "killed", "added", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert len(re.findall(r"\| 0 of [1-9]", ended.stdout)) == 2, ended.stdout
