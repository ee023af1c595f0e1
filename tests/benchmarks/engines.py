"""What several replicas' engines do to each other: processes × threads of the bare engine on this machine's cores.

No HTTP, no Ray, no decoding. All processes of a row compute at the same time, in rounds that alternate; beside img/s
stand the cores that they used together. `pinned` is OpenVINO as it comes, which holds the threads of every process on
the same first cores.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from serve_app.classifier.engines import Engine, load_engine
from serve_app.classifier.families import RESNET50
from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.cores import usable_cores
from tests.benchmarks.report import ROOT, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import hear

PINNED = "openvino, pinned"


def main() -> int:
    parser = command_line("engines", __doc__)
    parser.add_argument("--engines", nargs="+", default=["tensorflow", "openvino", PINNED])
    parser.add_argument("--shapes", nargs="+", default=shapes(usable_cores()), metavar="PROCESSES×THREADS")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--round-s", type=float, default=5, help="of one row, seconds (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="pictures in one run (default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("engines", arguments)
    rows = [f"{engine}: {shape}" for engine in arguments.engines for shape in arguments.shapes]
    for row in interleave(rows, arguments.rounds):
        engine, _, shape = row.partition(": ")
        images_per_s, cores = measure(engine, shape, arguments)
        progress(f"{row}: {images_per_s:.1f} img/s, {cores:.2f} cores")
        report.append("Engines side by side", row, "speed", "img/s", images_per_s)
        report.append("Engines side by side", row, "used", "cores", cores)
    return finish(report, arguments.json)


def shapes(cores: int) -> list[str]:
    """Return processes×threads that use all cores, the fewest processes first."""
    return [f"{count}×{cores // count}" for count in range(1, cores + 1) if cores % count == 0]


def measure(engine: str, shape: str, arguments: argparse.Namespace) -> tuple[float, float]:
    """Return pictures a second and cores used, of all processes together."""
    processes, threads = map(int, shape.replace("x", "×").split("×"))
    wanted = {"engine": engine, "threads": threads, "batch": arguments.batch, "duration_s": arguments.round_s}
    with ExitStack() as stack:
        children = [stack.enter_context(_child(wanted)) for _ in range(processes)]
        for child in children:  # warm, all of them, before the first computes
            hear(child)
        for child in children:
            assert child.stdin
            child.stdin.close()
        heard = [hear(child) for child in children]
    return sum(one["images_per_s"] for one in heard), sum(one["cores"] for one in heard)


@contextmanager
def _child(wanted: dict[str, object]) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "tests.benchmarks.engines", "--compute", json.dumps(wanted)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def compute(wanted: dict[str, float], name: str) -> None:
    """Say that the engine is warm, wait for the end of stdin, compute for a while, and say how fast that was."""
    engine = _load(name, int(wanted["threads"]))
    pictures = np.zeros((int(wanted["batch"]), RESNET50.crop, RESNET50.crop, 3), np.uint8)
    engine.infer(pictures)
    print(json.dumps({}), flush=True)
    sys.stdin.read()
    began_s, cpu_s, done = time.monotonic(), time.process_time(), 0
    while (elapsed_s := time.monotonic() - began_s) < wanted["duration_s"]:
        engine.infer(pictures)
        done += len(pictures)
    cores = (time.process_time() - cpu_s) / elapsed_s
    print(json.dumps({"images_per_s": done / elapsed_s, "cores": cores}), flush=True)


def _load(name: str, threads: int) -> Engine:
    engine = name.partition(",")[0]
    if name == PINNED:
        from serve_app.classifier.engines import openvino_engine

        openvino_engine.FOR_REPLICAS = {}
    settings = ClassifierSettings.model_validate({"engine": engine, "weights": "random"})
    return load_engine(engine, find_or_prepare(settings).folder, threads=threads, precision="float32")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compute"]:
        asked = json.loads(sys.argv[2])
        compute(asked, asked["engine"])
    else:
        run(main)
