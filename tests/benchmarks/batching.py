"""Which batcher: the project's MicroBatcher, Ray's @serve.batch, or none, with 1, 4 and 16 connections.

Each is an application of its own in one Serve config, with the same settings, engine, decoding and API; only one of
them has work at a time. Rounds go through the variants forwards, then backwards. The ratio is to the MicroBatcher.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from loadtest.load.pictures import PicturePool
from tests.benchmarks.prediction_load import Pace, PredictionLoad, run_predictions
from tests.benchmarks.report import GENERATOR, OTHERS, Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import (
    SHIPPED,
    Service,
    running_service,
    scratch_folder,
    write_config,
)

APPLICATIONS = "tests.benchmarks.serve_batch_app"
MICRO = "MicroBatcher"
# Name in the table, application, its builder, and what it changes in the shipped args.
VARIANTS: tuple[tuple[str, str, str, dict[str, object]], ...] = (
    (MICRO, "micro", "build_micro_batcher", {}),
    ("no batching", "none", "build_micro_batcher", {"max_batch": 1}),
    ("@serve.batch, wait 0 ms", "wait0", "build", {"batch_wait_timeout_s": 0.0}),
    ("@serve.batch, wait 5 ms", "wait5", "build", {"batch_wait_timeout_s": 0.005}),
    ("@serve.batch, wait 10 ms", "wait10", "build", {"batch_wait_timeout_s": 0.01}),
)
ROUTES = {name: f"/{application}" for name, application, _, _ in VARIANTS}
POOL_SIZE = 64


def main() -> int:
    parser = command_line("batching", __doc__)
    parser.add_argument("--config", type=Path, default=SHIPPED[0], help="where settings are from (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of each variant (default: %(default)s)")
    parser.add_argument("--round-s", type=float, default=10, help="length of a round (default: %(default)s)")
    parser.add_argument("--warm-up-s", type=float, default=2, help="load before a round counts (default: %(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 16], help="(default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("batching", arguments)
    pictures = PicturePool(POOL_SIZE)
    with scratch_folder() as folder:
        config = write_config(folder, all_variants(arguments.config))
        progress(f"starting {len(VARIANTS)} classifiers")
        with running_service(config, folder=folder) as service:
            warm_up(service, pictures, max(arguments.connections))
            for connections in arguments.connections:
                measure(report, arguments, service, pictures, connections)
    report.notes.append("rate between two moments of full load; CPU in percent of one core")
    return finish(report, arguments.json)


def all_variants(shipped: Path) -> dict[str, Any]:
    """Return the shipped config with one application for each variant in place of its own."""
    config: dict[str, Any] = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    model = next(application for application in config["applications"] if application["name"] == "model")
    config["applications"] = [
        {
            **model,
            "name": application,
            "route_prefix": ROUTES[name],
            "import_path": f"{APPLICATIONS}:{builder}",
            "args": {**(model.get("args") or {}), **changes},
        }
        for name, application, builder, changes in VARIANTS
    ]
    return config


def warm_up(service: Service, pictures: PicturePool, connections: int) -> None:
    """Let every variant work a little, uncounted."""
    for route in ROUTES.values():
        run_predictions(service, f"{route}/predict", pictures.next_picture, Pace(connections, 0, 4))


def measure(
    report: Report, arguments: argparse.Namespace, service: Service, pictures: PicturePool, connections: int
) -> None:
    """Measure every variant with this many connections."""
    table = f"{connections} connection{'s' if connections > 1 else ''}"
    progress(table)
    pace = Pace(connections, arguments.warm_up_s, arguments.round_s)
    for name in interleave(list(ROUTES), arguments.rounds):
        load = run_predictions(service, f"{ROUTES[name]}/predict", pictures.next_picture, pace)
        progress(f"  {name}: {load.images_per_s:.1f} img/s, p50 {load.p50_ms:.0f} ms, p95 {load.p95_ms:.0f} ms")
        append_round(report, table, name, load)
    for name in ROUTES:
        if name != MICRO:
            report.append_ratios(table, name, MICRO, "rate")


def append_round(report: Report, table: str, name: str, load: PredictionLoad) -> None:
    """Add what one round of one variant showed."""
    application = ROUTES[name].removeprefix("/")
    waiting = [load.cpu_percent[f"replica {other}"] for _, other, _, _ in VARIANTS if other != application]
    report.append(table, name, "rate", "img/s", load.images_per_s)
    report.append(table, name, "p50", "ms", load.p50_ms)
    report.append(table, name, "p95", "ms", load.p95_ms)
    cpu = {"its own": load.cpu_percent[f"replica {application}"], "waiting variants": sum(waiting)}
    rest = {role: load.cpu_percent[role] for role in (GENERATOR, OTHERS)}
    report.append_cpu(f"{table}, CPU", name, {**cpu, **rest})
    if load.failures:
        report.faults.append(f"{table}, {name}: {load.failures} predictions failed")


if __name__ == "__main__":
    run(main)
