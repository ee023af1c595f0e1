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

import httpx

from loadtest.figures.figures import CellFigures
from serve_app.classifier.settings import ClassifierSettings
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import (
    BARE,
    SHIPPED,
    Rounds,
    application_of,
    cpu_by_role,
    roles_of,
    running_child,
    running_service,
    scratch_folder,
    service_environment,
)
from tests.benchmarks.wrk import WrkLoad, require_wrk, run_lookups

SERVICE = "service"
PREDICTIONS, LOOKUPS = "Predictions", "GET /user/, one connection"
IDLE, SATURATED = "no predictions", "predictions saturated"
# About 40 lookups a second: enough for percentiles, too few to take the cores from the predictions.
LOOKUP_PAUSE_MS = 20
# Locust's, until its first request; on a machine that does nothing else, with a second to spare.
GENERATOR_START_S = 4
NOTES = [
    "bare engine: decode in the config's number of threads, batches of max_batch, the engine's number of threads",
    "pictures differ in every request",
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
    with scratch_folder() as folder:
        rounds = Rounds(folder, arguments.config)
        progress("starting the service")
        with running_service(arguments.config, folder=folder) as service:
            progress("starting the bare engine")
            with bare_engines(arguments.config, folder) as bare:
                check_same_weights(service.target.urls[0], bare)
                compare(report, arguments, service.target.urls[0], bare, rounds)
            progress("lookups, with and without predictions")
            measure_lookups(report, arguments, service.target.urls[0], rounds)
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


def check_same_weights(url: str, bare: BareEngines) -> None:
    """Raise RuntimeError unless both sides compute the same network."""
    served = httpx.get(f"{url}/model/", trust_env=False).json()["weights"]
    if set(bare.weights) != {served}:
        raise RuntimeError(f"the service has {served} weights, the bare engine {bare.weights}")


def compare(report: Report, arguments: argparse.Namespace, url: str, bare: BareEngines, rounds: Rounds) -> None:
    """Measure both sides in turn, after one short round each that does not count."""
    saturate(url, arguments, rounds, round_s=2)
    bare.measure(1, 2)
    for side in interleave([SERVICE, BARE], arguments.rounds):
        if side == BARE:
            with cpu_by_role(roles_of(arguments.config)) as usage:
                rate = bare.measure(arguments.warm_up_s, arguments.round_s)
            if not rate:
                raise RuntimeError("the bare engine ended fewer than two batches in a round; raise --round-s")
            report.append(PREDICTIONS, BARE, "rate", "img/s", rate)
            report.append_cpu(f"{PREDICTIONS}, CPU", f"{BARE}, with its warm-up", usage)
        else:
            cell = saturate(url, arguments, rounds, round_s=arguments.round_s)
            rate = report.append_cell(PREDICTIONS, SERVICE, cell)
        progress(f"  {side}: {rate:.1f} img/s")


def measure_lookups(report: Report, arguments: argparse.Namespace, url: str, rounds: Rounds) -> None:
    """Measure lookups, in turn alone and beside saturated predictions."""
    for moment in interleave([IDLE, SATURATED], arguments.lookup_rounds):
        if moment == IDLE:
            lookups = look_up(url, arguments)
        else:
            lookups = look_up_beside_predictions(report, arguments, url, rounds)
        progress(f"  {moment}: lookup p50 {lookups.p50_ms:.1f} ms, p99 {lookups.p99_ms:.1f} ms")
        for column, value in (("p50", lookups.p50_ms), ("p95", lookups.p95_ms), ("p99", lookups.p99_ms)):
            report.append(LOOKUPS, moment, column, "ms", value)
        report.append(LOOKUPS, moment, "answers", "requests", lookups.requests)
        if lookups.failures:
            report.faults.append(f"{moment}: {lookups.failures} lookups failed")


def look_up_beside_predictions(report: Report, arguments: argparse.Namespace, url: str, rounds: Rounds) -> WrkLoad:
    """Measure lookups within the time in which predictions are at full load."""
    with ThreadPoolExecutor(1) as background:
        lookups = background.submit(look_up_after, arguments.warm_up_s, url, arguments)
        # They start when the predictions have warmed up, and end before them.
        cell = saturate(url, arguments, rounds, round_s=arguments.round_s + GENERATOR_START_S)
        report.append_cell(PREDICTIONS, f"{SERVICE}, with lookups", cell)
        return lookups.result()


def look_up_after(pause_s: float, url: str, arguments: argparse.Namespace) -> WrkLoad:
    """Ask for users once the load generator has started and so much of its load is over."""
    time.sleep(GENERATOR_START_S + pause_s)
    return look_up(url, arguments)


def look_up(url: str, arguments: argparse.Namespace) -> WrkLoad:
    """Ask for one page of users at a time."""
    page = f"{url}/user/?limit=20"
    return run_lookups(page, connections=1, duration_s=arguments.round_s, pause_ms=LOOKUP_PAUSE_MS)


def saturate(url: str, arguments: argparse.Namespace, rounds: Rounds, *, round_s: float) -> CellFigures:
    """Send pictures over all connections without a pause."""
    return rounds.measure(url, users=arguments.connections, round_s=round_s, warm_up_s=arguments.warm_up_s)


if __name__ == "__main__":
    run(main)
