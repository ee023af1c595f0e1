"""The engines' libraries report nothing to anybody."""

import subprocess
import sys

USED = """
import importlib.util
from serve_app.classifier import engines
assert importlib.util.find_spec("openvino")
engines.import_engine("openvino")
from openvino.tools.ovc import convert_impl, telemetry_utils
print(telemetry_utils.tm.__name__, convert_impl.tm.__name__)
"""


def test_openvino_has_the_stub_of_its_telemetry() -> None:
    ended = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True, timeout=120, check=False)
    assert ended.stdout.split() == ["openvino.tools.ovc.telemetry_stub"] * 2, ended.stderr
