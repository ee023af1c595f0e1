"""`python -m tests.noisy --runs 5`: `make test` several times in a row while another process keeps one core busy.

Prints one line a run and ends with 1 if any of them failed. `--quiet` leaves the other process out.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quiet", action="store_true", help="no other process beside the tests")
    arguments, options = parser.parse_known_args()
    logs = ROOT / "build" / "noisy"
    logs.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number in range(1, arguments.runs + 1):
        log = logs / f"run-{number}.txt"
        began = time.monotonic()
        with log.open("wb") as file, _busy_core(wanted=not arguments.quiet):
            command = [sys.executable, "-m", "pytest", "--numprocesses=3", *options]
            code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        failed += code != 0
        summary = log.read_text(errors="replace").rstrip().rpartition("\n")[2].strip("= ")
        print(f"run {number}: exit code {code} after {time.monotonic() - began:.0f} s: {summary} ({log})", flush=True)
    print(f"{failed} of {arguments.runs} runs failed")
    return min(failed, 1)


@contextmanager
def _busy_core(*, wanted: bool) -> Iterator[None]:
    """Keep one core busy meanwhile; the process also ends when this one has died."""
    if not wanted:
        yield
        return
    loop = f"import os\nwhile os.getppid() == {os.getpid()}:\n    sum(range(1_000_000))"
    process = subprocess.Popen([sys.executable, "-c", loop])
    try:
        yield
        assert process.poll() is None, "the process that keeps a core busy has ended"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
