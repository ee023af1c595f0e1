"""Clients of the Open Inference Protocol that others wrote, each in an environment of its own.

    python -m tests.foreign_clients http://127.0.0.1:8000/model resnet50

sends the requests of each to a running service and keeps their bytes in tests/serve_app/open_inference/recorded, which
the quick tests send again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENTS = {"triton": "tritonclient[http,grpc]>=2.60", "kserve": "kserve>=0.16", "mlserver": "mlserver>=1.7"}
INSTALL_S = 900
ANSWER_S = 300
_ENVIRONMENT = dict(os.environ)
"""As it was before the tests keep themselves off the internet: packages come from there."""


def install(client: str, folder: Path) -> Path:
    """Return the Python of a new environment in `folder` that has the client."""
    uv = str(Path(sys.executable).with_name("uv"))
    python = folder / client / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder / client)], check=True, timeout=60)
    command = [uv, "pip", "install", "--quiet", "--python", str(python), REQUIREMENTS[client]]
    subprocess.run(command, check=True, timeout=INSTALL_S, env=_ENVIRONMENT)
    return python


def run(python: Path, script: str, *arguments: str) -> dict[str, Any]:
    """Return what a client found, as its script in this folder prints it."""
    command = [str(python), str(Path(__file__).with_name(script)), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found
