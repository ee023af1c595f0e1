"""One network in float32 and in int8, engine against engine, and the same through HTTP.

The bare engines compute pictures that lie in memory, in processes of their own and in rounds that alternate. The
service has an application for each of them; one gets 16 connections while the others have nothing to do. The network is
that of `tests.benchmarks.agreement`, fitted to pictures that it draws: with random weights no class is more probable
than another, and rounding alone would decide whether int8 agrees. Many of these pictures lie close to a boundary
between two classes. The notes say how far int8 agrees with float32, and how often both are right.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from serve_app.classifier.calibration import MOST_PICTURES, Calibrated
from serve_app.classifier.engines.trial import measure_speed
from serve_app.classifier.families import RESNET50
from serve_app.classifier.loading import load_own_engine
from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.cores import usable_cores
from tests.benchmarks.agreement import draw_jpeg, fit_network
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import (
    SHIPPED,
    Rounds,
    application_of,
    hear,
    running_child,
    running_service,
    scratch_folder,
    write_config,
)
from tests.ports import free_port

ENGINES: dict[str, dict[str, object]] = {
    "tensorflow-float32": {"engine": "tensorflow"},
    "openvino-float32": {"engine": "openvino"},
    "openvino-int8": {"engine": "openvino", "precision": "int8"},
}
"""By the names of their applications. OpenVINO computes bfloat16, too, where the processor has it: not everywhere."""
REFERENCE, INT8 = "tensorflow-float32", "openvino-int8"
BARE, SERVICE = "Bare engine", "Service"
SIZE_PX = (500, 375)
WARM_UP_S = 2


def main() -> int:
    parser = command_line("int8", __doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of the bare engines, 1 s each (default: %(default)s)")
    parser.add_argument("--http-rounds", type=int, default=3, help="of the service (default: %(default)s)")
    parser.add_argument("--round-s", type=int, default=10, help="of the service, seconds (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument(
        "--min-agreement", type=float, default=0.5, help="with which int8 is measured (default: %(default)s)"
    )
    arguments = parser.parse_args()
    report = begin("int8", arguments)
    with scratch_folder() as folder:
        os.environ["SERVE_APP_CACHE_DIR"] = str(folder / "cache")
        args = prepare(report, folder, arguments.min_agreement)
        measure_bare(report, args, arguments.rounds)
        config = write_config(folder, SHIPPED[0], {name: {"args": each} for name, each in args.items()})
        written = yaml.safe_load(config.read_text(encoding="utf-8"))
        written["http_options"]["port"] = free_port()
        config.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
        progress("starting the service")
        with running_service(config, folder=folder) as service:
            rounds = Rounds(folder, config)
            for name in interleave([*args], arguments.http_rounds):
                load = {"users": arguments.connections, "round_s": arguments.round_s, "warm_up_s": WARM_UP_S}
                cell = rounds.measure(f"{service.target.urls[0]}/{name}", **load)
                rate = report.append_cell(SERVICE, name, cell)
                progress(f"  {SERVICE}, {name}: {rate:.1f} img/s")
    for table in (BARE, SERVICE):
        report.append_ratios(table, INT8, REFERENCE, "rate")
    return finish(report, arguments.json)


def prepare(report: Report, folder: Path, min_agreement: float) -> dict[str, dict[str, Any]]:
    """Fit a network, draw pictures, have it prepared for each of ENGINES, and return their args by their names."""
    progress("fitting the network")
    shipped = application_of(SHIPPED[0], "model")["args"]
    files = fit_network(folder)
    common = {**shipped, **files, "threads": usable_cores(), "cache": {"store": "off"}}
    progress(f"drawing {MOST_PICTURES} pictures")
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(MOST_PICTURES):
        data, scene = draw_jpeg(number, SIZE_PX)
        place = pictures / f"scene {scene}"
        place.mkdir(exist_ok=True)
        (place / f"{number:04}.jpg").write_bytes(data)
    args = {name: {**common, **each} for name, each in ENGINES.items()}
    args[INT8] |= {"calibration": str(pictures), "min_agreement": min_agreement}
    for name, each in args.items():
        progress(f"preparing {name}")
        calibrated = find_or_prepare(ClassifierSettings.model_validate(each)).manifest.calibrated
        if calibrated is not None:
            report.notes.append(f"{name}: {describe(calibrated)}")
            progress(report.notes[-1])
    return args


def describe(calibrated: Calibrated) -> str:
    """Return how far int8 agrees with float32, and how often both are right, about pictures it was not made by."""
    found, right = calibrated.agreement, calibrated.accuracy
    assert right is not None
    return (
        f"same best class as float32 in {found.same_class} of {found.of} pictures; largest difference of a probability "
        f"{found.largest_difference:.2f}; right about {right.int8} of {right.of}, float32 about {right.float32}"
    )


def measure_bare(report: Report, args: dict[str, dict[str, Any]], rounds: int) -> None:
    """Let each engine compute for a second in turn."""
    with ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        children = {
            name: stack.enter_context(running_child([*_child(), json.dumps(each)], **pipes))
            for name, each in args.items()
        }
        for child in children.values():  # warm, all of them, before one is measured
            hear(child)
        for name in interleave([*children], rounds):
            stdin = children[name].stdin
            assert stdin is not None
            print(file=stdin, flush=True)
            rate = hear(children[name])["images_per_s"]
            report.append(BARE, name, "rate", "img/s", rate)
            progress(f"  {BARE}, {name}: {rate:.1f} img/s")


def _child() -> list[str]:
    return [sys.executable, "-m", "tests.benchmarks.int8", "--child"]


def be_child(args: dict[str, Any]) -> None:
    """Load an engine, say so, and compute for a second for each line on stdin."""
    settings = ClassifierSettings.model_validate(args)
    engine = load_own_engine(settings, find_or_prepare(settings))()
    shape = (max(1, settings.max_batch // engine.at_once), RESNET50.crop, RESNET50.crop, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    measure_speed(engine, pictures)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"images_per_s": measure_speed(engine, pictures)}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        be_child(json.loads(sys.argv[2]))
    else:
        run(main)
