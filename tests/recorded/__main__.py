"""`python -m tests.recorded [KIND …]`: make the recorded reports again, from the recorded raw data, in their place.

With --record new raw data is recorded first: it takes minutes and starts real targets.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.recorded.kinds import KINDS, LOCK, LOCUSTFILE, RECORDED, lay_out, make


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.recorded", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"(default: {' '.join(KINDS)})")
    parser.add_argument("--record", action="store_true", help="record new raw data first")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - KINDS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for kind in arguments.kinds or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            workspace = Path(folder) / kind
            if arguments.record:
                from tests.recorded.recording import record

                workspace.mkdir()
                record(kind, workspace)
            else:
                lay_out(kind, workspace)
            make(kind, workspace)
            shutil.rmtree(RECORDED / kind, ignore_errors=True)
            shutil.copytree(workspace, RECORDED / kind, ignore=shutil.ignore_patterns(LOCK, LOCUSTFILE))
        print(RECORDED / kind)


if __name__ == "__main__":
    main()
