"""Saturated predictions per second through the service, and from its engine bare; and lookups meanwhile.

The service gets 16 connections, each with its next picture as soon as it has an answer. The bare engine decodes and
infers the same pictures in processes of its own, one for each replica of the config, without HTTP and Ray. One side
waits without work while the other is measured, and rounds alternate: A B B A.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from loadtest.load.pictures import PicturePool
from serve_app.classifier.settings import ClassifierSettings
from tests.benchmarks.bare_engine import POOL_SIZE
from tests.benchmarks.lookup_load import LookupLoad, require_wrk, run_lookups
from tests.benchmarks.prediction_load import Pace, PredictionLoad, run_predictions
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import (
    SHIPPED,
    Service,
    application_of,
    cpu_by_role,
    running_child,
    running_service,
    scratch_folder,
    service_environment,
)

SERVICE, BARE = "service", "bare engine"
PREDICTIONS, LOOKUPS = "Predictions", "GET /user/, one connection"
IDLE, SATURATED = "no predictions", "predictions saturated"
# About 40 lookups a second: enough for percentiles, too few to take the cores from the predictions.
LOOKUP_PAUSE_MS = 20
NOTES = [
    "bare engine: decode in the config's number of threads, batches of max_batch, the engine's number of threads",
    "both sides count what is done between two moments of full load; pictures differ in every request",
    "lookups: one kept connection that pauses 20 ms after each answer; CPU in percent of one core",
]


def main() -> int:
    parser = command_line("predictions", __doc__)
    parser.add_argument("--config", type=Path, default=SHIPPED[0], help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each side (default: %(default)s)")
    parser.add_argument("--lookup-rounds", type=int, default=4, help="rounds with lookups (default: %(default)s)")
    parser.add_argument("--round-s", type=int, default=15, help="length of a round, whole s (default: %(default)s)")
    parser.add_argument("--warm-up-s", type=float, default=2, help="load before a round counts (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="(default: %(default)s)")
    arguments = parser.parse_args()
    require_wrk()
    report = begin("predictions", arguments)
    report.notes += NOTES
    pictures = PicturePool(POOL_SIZE)
    with scratch_folder() as folder:
        progress("starting the service")
        with running_service(arguments.config, folder=folder) as service:
            progress("starting the bare engine")
            with bare_engines(arguments.config, folder) as bare:
                check_same_weights(service, bare)
                compare(report, arguments, service, bare, pictures)
            progress("lookups, with and without predictions")
            measure_lookups(report, arguments, service, pictures)
    report.append_ratios(PREDICTIONS, SERVICE, BARE, "rate")
    return finish(report, arguments.json)


class BareEngines:
    """The bare engine's processes, one for each replica; idle except within `measure`."""

    def __init__(self, children: list["subprocess.Popen[str]"], errors: Path) -> None:
        """Wait until all of them are warm. Raises RuntimeError, with what is in `errors`, if one ends."""
        self._children = children
        self._errors = errors
        self.weights = [str(self._read(child)["weights"]) for child in children]

    def measure(self, warm_up_s: float, duration_s: float) -> float:
        """Return the pictures per second of all of them together."""
        for child in self._children:
            assert child.stdin is not None
            print(json.dumps({"warm_up_s": warm_up_s, "duration_s": duration_s}), file=child.stdin, flush=True)
        return sum(float(self._read(child)["images_per_s"]) for child in self._children)

    def processes(self) -> list[tuple[psutil.Process, str]]:
        """Return them with their role, for cpu_by_role."""
        return [(psutil.Process(child.pid), BARE) for child in self._children]

    def _read(self, child: "subprocess.Popen[str]") -> dict[str, Any]:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise RuntimeError(f"the bare engine ended with code {child.wait(10)}:\n{self._errors.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def bare_engines(config: Path, folder: Path) -> Iterator[BareEngines]:
    """Run the bare engine as often as the config has replicas, with the config's settings."""
    model = application_of(config, "model")
    settings = ClassifierSettings.model_validate(model.get("args") or {})
    command = [sys.executable, "-m", "tests.benchmarks.bare_engine", settings.model_dump_json()]
    errors = folder / "bare_engine.txt"
    with ExitStack() as stack:
        options = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": stack.enter_context(errors.open("ab")),
            "env": service_environment(folder),
        }
        replicas = range(model["deployments"][0]["num_replicas"])
        yield BareEngines([stack.enter_context(running_child(command, **options)) for _ in replicas], errors)


def check_same_weights(service: Service, bare: BareEngines) -> None:
    """Raise RuntimeError unless both sides compute the same network."""
    served = service.client.get("/model/").json()["weights"]
    if set(bare.weights) != {served}:
        raise RuntimeError(f"the service has {served} weights, the bare engine {bare.weights}")


def compare(
    report: Report, arguments: argparse.Namespace, service: Service, bare: BareEngines, pictures: PicturePool
) -> None:
    """Measure both sides in turn, after one short round each that does not count."""
    saturate(service, arguments, pictures, duration_s=2)
    bare.measure(1, 2)
    for side in interleave([SERVICE, BARE], arguments.rounds):
        if side == BARE:
            with cpu_by_role(lambda: [*service.processes_by_role(), *bare.processes()]) as usage:
                rate = bare.measure(arguments.warm_up_s, arguments.round_s)
            report.append(PREDICTIONS, BARE, "rate", "img/s", rate)
            report.append_cpu("CPU meanwhile", f"{BARE}, with its warm-up", usage)
        else:
            load = saturate(service, arguments, pictures, duration_s=arguments.round_s)
            rate = load.images_per_s
            append_predictions(report, SERVICE, load)
        progress(f"  {side}: {rate:.1f} img/s")


def measure_lookups(report: Report, arguments: argparse.Namespace, service: Service, pictures: PicturePool) -> None:
    """Measure lookups, in turn alone and beside saturated predictions."""
    for moment in interleave([IDLE, SATURATED], arguments.lookup_rounds):
        if moment == IDLE:
            lookups = look_up(service, arguments)
        else:
            lookups = look_up_beside_predictions(report, arguments, service, pictures)
        progress(f"  {moment}: lookup p50 {lookups.p50_ms:.1f} ms, p99 {lookups.p99_ms:.1f} ms")
        for column, value in (("p50", lookups.p50_ms), ("p95", lookups.p95_ms), ("p99", lookups.p99_ms)):
            report.append(LOOKUPS, moment, column, "ms", value)
        report.append(LOOKUPS, moment, "answers", "requests", lookups.requests)
        if lookups.failures:
            report.faults.append(f"{moment}: {lookups.failures} lookups failed")


def look_up_beside_predictions(
    report: Report, arguments: argparse.Namespace, service: Service, pictures: PicturePool
) -> LookupLoad:
    """Measure lookups within the time in which predictions are at full load."""
    with ThreadPoolExecutor(1) as background:
        # The lookups start when the predictions have warmed up, and end before them.
        predictions = background.submit(saturate, service, arguments, pictures, duration_s=arguments.round_s + 1)
        time.sleep(arguments.warm_up_s)
        lookups = look_up(service, arguments)
        append_predictions(report, f"{SERVICE}, with lookups", predictions.result())
    return lookups


def look_up(service: Service, arguments: argparse.Namespace) -> LookupLoad:
    """Ask for one page of users at a time."""
    url = f"{service.url}/user/?limit=20"
    return run_lookups(url, connections=1, duration_s=arguments.round_s, pause_ms=LOOKUP_PAUSE_MS)


def saturate(
    service: Service, arguments: argparse.Namespace, pictures: PicturePool, *, duration_s: float
) -> PredictionLoad:
    """Send pictures over all connections without a pause."""
    pace = Pace(arguments.connections, arguments.warm_up_s, duration_s)
    return run_predictions(service, "/model/predict", pictures.next_picture, pace)


def append_predictions(report: Report, row: str, load: PredictionLoad) -> None:
    """Add what one round of predictions showed."""
    report.append(PREDICTIONS, row, "rate", "img/s", load.images_per_s)
    for column, value in (("p50", load.p50_ms), ("p95", load.p95_ms), ("p99", load.p99_ms)):
        report.append(PREDICTIONS, row, column, "ms", value)
    report.append_cpu("CPU meanwhile", row, load.cpu_percent)
    if load.failures:
        report.faults.append(f"{row}: {load.failures} predictions failed")


if __name__ == "__main__":
    run(main)
