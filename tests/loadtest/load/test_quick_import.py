"""What makes load imports Locust with one look for plugins, and finds those that are installed."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
from importlib import metadata

before = metadata.entry_points
import loadtest.load.quick_import

print(metadata.entry_points is before)
"""


def test_a_plugin_of_gevent_is_called_and_later_looks_are_those_of_the_standard_library(tmp_path: Path) -> None:
    """In a process of its own: Locust patches the standard library of the one that imports it."""
    plugin = tmp_path / "plugin-1.0.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (plugin / "entry_points.txt").write_text("[gevent.plugins.monkey.did_patch_all]\ntell = plugin:tell\n")
    (tmp_path / "plugin.py").write_text("def tell(event):\n    print('called')\n")
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert ended.stdout == "called\nTrue\n"
