"""The forms in which TensorFlow can compute the served network, each in a process of its own: speed, memory, start.

No HTTP, no Ray, no decoding. The forms are measured in turn, in rounds that alternate. `as served` is what a replica
does; the frozen graph is the form that other servers load. The other forms are `as served` but for what they name. A
form's column says how many batches of how many pictures it computes at a time; `cpu` is of the process and `page
faults` of its memory, for one picture of a single batch of eight.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from tests.benchmarks.report import ROOT, Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import hear, running_child, scratch_folder

TABLE = "TensorFlow, one network in several forms"
SAVED, SERVED, BFLOAT16 = "SavedModel", "SavedModel as served", "SavedModel as served, bfloat16"
FROZEN, SESSION = "frozen graph", "frozen graph in a session"
CALLER, XLA = "operations start in the calling thread", "compiled by XLA"
ENVIRONMENTS = {
    SAVED: {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "0"},
    SERVED: {},
    FROZEN: {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "0"},
    SESSION: {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "0"},
    BFLOAT16: {},
    CALLER: {},
    XLA: {},
    "without oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "0"},
    "oneDNN in the calling thread, too": {"TF_ONEDNN_THREADPOOL_USE_CALLER_THREAD": "1"},
    "oneDNN with the system's allocator": {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"},
    "memory in huge pages": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "freed memory is kept": {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30)},
}
"""The forms, and the environment of each beside what a replica has."""
LOADS = {"1 × 1": (1, 1), "1 × 8": (1, 8), "2 × 4": (2, 4)}
"""Batches at a time, and pictures in each."""
CPU_OF = "1 × 8"
MIB = 2**20

Infer = Callable[[NDArray[np.uint8]], Any]


def main() -> int:
    parser = command_line("tensorflow_forms", __doc__)
    parser.add_argument(
        "--forms", nargs="+", choices=ENVIRONMENTS, default=[*ENVIRONMENTS], metavar="FORM", help="(default: all)"
    )
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--round-s", type=float, default=4, help="of one form and load, seconds (default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("tensorflow_forms", arguments)
    prepared = find_or_prepare(ClassifierSettings(weights="random"))
    with scratch_folder() as folder, ExitStack() as stack:
        frozen = folder / "frozen.pb"
        freeze(prepared.folder, frozen)
        command = [sys.executable, "-m", "tests.benchmarks.tensorflow_forms", "--child"]
        children = {}
        for form in arguments.forms:
            wanted = {"form": form, "folder": str(prepared.folder), "frozen": str(frozen), "threads": arguments.threads}
            options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": os.environ | ENVIRONMENTS[form]}
            children[form] = stack.enter_context(running_child([*command, json.dumps(wanted)], **options))
            loaded = hear(children[form])
            progress(f"{form}: loaded in {loaded['load_s']:.1f} s")
            report.append(TABLE, form, "load", "s", loaded["load_s"])
        for form in interleave(list(children), arguments.rounds):
            for load in LOADS:
                measure(report, children[form], form, load, arguments)
        for form, child in children.items():
            report.append(TABLE, form, "memory", "MiB", _ask(child, {})["memory_mib"])
    return finish(report, arguments.json)


def measure(
    report: Report, child: "subprocess.Popen[str]", form: str, load: str, arguments: argparse.Namespace
) -> None:
    """Let a form compute for a round."""
    batches, pictures = LOADS[load]
    found = _ask(child, {"batches": batches, "pictures": pictures, "round_s": arguments.round_s})
    progress(f"{form}, {load}: {found['images_per_s']:.1f} img/s")
    report.append(TABLE, form, load, "img/s", found["images_per_s"])
    if load == CPU_OF:
        report.append(TABLE, form, "cpu", "ms", found["cpu_ms"])
        report.append(TABLE, form, "page faults", "", found["page_faults"])


def _ask(child: "subprocess.Popen[str]", question: dict[str, float]) -> dict[str, float]:
    assert child.stdin is not None
    print(json.dumps(question), file=child.stdin, flush=True)
    return hear(child)


def be_child(wanted: dict[str, Any]) -> None:
    """Freeze the network, or load a form and answer the questions on stdin."""
    if "freeze" in wanted:
        _freeze(Path(wanted["freeze"]), Path(wanted["to"]))
        return
    began_s = time.monotonic()
    infer = _load(wanted["form"], Path(wanted["folder"]), Path(wanted["frozen"]), wanted["threads"])
    for pictures in (1, 4, 8, 8):
        infer(_pictures(pictures))
    print(json.dumps({"load_s": time.monotonic() - began_s}), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        answer = _compute(infer, **question) if question else {"memory_mib": _memory_mib()}
        print(json.dumps(answer), flush=True)


def _load(form: str, folder: Path, frozen: Path, threads: int) -> Infer:
    """Return what computes pictures; TensorFlow is imported in here, for a process that computes one form."""
    from serve_app.classifier.engines.tensorflow_engine import TensorFlowEngine

    if form not in {XLA, FROZEN, SESSION}:
        engine = TensorFlowEngine(folder, threads=threads, precision="bfloat16" if form == BFLOAT16 else "float32")
        return _start_in_caller(engine.infer) if form == CALLER else engine.infer
    import tensorflow as tf

    from serve_app.classifier.engines.prepared_files import INPUT

    if form == XLA:
        _set_threads(threads)
        return _compile_by_xla(folder)
    graph_def = tf.compat.v1.GraphDef.FromString(frozen.read_bytes())
    if form == SESSION:
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=2)
        session = tf.compat.v1.Session(graph=graph, config=config)
        compute: Infer = session.make_callable("Identity:0", feed_list=[f"{INPUT}:0"])
        return compute
    _set_threads(threads)
    wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
    pruned = wrapped.prune(wrapped.graph.as_graph_element(f"{INPUT}:0"), wrapped.graph.as_graph_element("Identity:0"))
    return lambda pictures: pruned(tf.constant(pictures)).numpy()


def _set_threads(threads: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)


def _start_in_caller(infer: Infer) -> Infer:
    import tensorflow as tf

    def compute(pictures: NDArray[np.uint8]) -> Any:
        with tf.experimental.function_executor_type("SINGLE_THREADED_EXECUTOR"):
            return infer(pictures)

    return compute


def _compile_by_xla(folder: Path) -> Infer:
    import tensorflow as tf

    from serve_app.classifier.engines.prepared_files import INPUT, OUTPUT, SAVED_MODEL

    network = tf.saved_model.load(str(folder / SAVED_MODEL))

    compute = tf.function(
        lambda pictures: network.signatures["serving_default"](**{INPUT: pictures})[OUTPUT], jit_compile=True
    )
    return lambda pictures: compute(tf.constant(pictures)).numpy()


def freeze(folder: Path, frozen: Path) -> None:
    """Write the SavedModel of a prepared model's `folder` as a graph with its weights as constants.

    Its input is `pictures:0`, its output `Identity:0`. A process of its own does it, for the memory that it takes.
    """
    command = [sys.executable, "-m", "tests.benchmarks.tensorflow_forms", "--child"]
    subprocess.run([*command, json.dumps({"freeze": str(folder), "to": str(frozen)})], check=True, cwd=ROOT)


def _freeze(folder: Path, frozen: Path) -> None:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from serve_app.classifier.engines.prepared_files import SAVED_MODEL

    network = tf.saved_model.load(str(folder / SAVED_MODEL))
    function = convert_variables_to_constants_v2(network.signatures["serving_default"])
    frozen.write_bytes(function.graph.as_graph_def().SerializeToString())


def _compute(infer: Infer, *, batches: int, pictures: int, round_s: float) -> dict[str, float]:
    given, began_s, cpu_s, faults = _pictures(pictures), time.monotonic(), time.process_time(), _page_faults()

    def compute_batches(_: int) -> int:
        done = 0
        while time.monotonic() - began_s < round_s:
            infer(given)
            done += pictures
        return done

    with ThreadPoolExecutor(batches) as threads:
        done = sum(threads.map(compute_batches, range(batches)))
    cpu_ms = (time.process_time() - cpu_s) / done * 1000
    page_faults = (_page_faults() - faults) / done
    return {"images_per_s": done / (time.monotonic() - began_s), "cpu_ms": cpu_ms, "page_faults": page_faults}


def _pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _memory_mib() -> float:
    """Return the most memory that the process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        be_child(json.loads(sys.argv[2]))
    else:
        run(main)
