"""Which batcher: the project's MicroBatcher, Ray's @serve.batch, or none, with 1, 4 and 16 connections.

Each is an application of its own in one service, with the same settings, engine, decoding and API; only one of them has
work at a time. Rounds go through the variants forwards, then backwards. The ratio is to the MicroBatcher.
"""

import argparse
from pathlib import Path
from typing import Any

from serve_app.deployments.options import CLASSIFIER, CLASSIFIER_NAME
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import SHIPPED, Rounds, application_of, running_service, scratch_folder, write_config

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
PATHS = {name: application for name, application, _, _ in VARIANTS}


def main() -> int:
    parser = command_line("batching", __doc__)
    parser.add_argument("--config", type=Path, default=SHIPPED[0], help="where settings are from (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of each variant (default: %(default)s)")
    parser.add_argument("--round-s", type=float, default=10, help="length of a round (default: %(default)s)")
    parser.add_argument("--warm-up-s", type=float, default=2, help="load before a round counts (default: %(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 4, 16], help="(default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("batching", arguments)
    with scratch_folder() as folder:
        config = write_config(folder, arguments.config, variants(arguments.config))
        rounds = Rounds(folder, config)
        progress(f"starting {len(VARIANTS)} classifiers")
        with running_service(config, folder=folder) as service:
            for application in PATHS.values():  # so that each has worked a little
                rounds.measure(f"{service.target.urls[0]}/{application}", users=max(arguments.connections), round_s=4)
            for connections in arguments.connections:
                measure(report, arguments, rounds, service.target.urls[0], connections)
    report.notes.append("CPU in percent of one core")
    return finish(report, arguments.json)


def variants(shipped: Path) -> dict[str, dict[str, Any]]:
    """Return what each application changes in the shipped `model`."""
    args = application_of(shipped, "model").get("args") or {}
    deployments = [{"name": CLASSIFIER_NAME, "num_replicas": 1, "ray_actor_options": CLASSIFIER.ray_actor_options}]
    return {
        application: {
            "import_path": f"{APPLICATIONS}:{builder}", "args": {**args, **changes}, "deployments": deployments
        }
        for _, application, builder, changes in VARIANTS
    }  # fmt: skip


def measure(report: Report, arguments: argparse.Namespace, rounds: Rounds, url: str, connections: int) -> None:
    """Measure every variant with this many connections."""
    table = f"{connections} connection{'s' if connections > 1 else ''}"
    for name in interleave(list(PATHS), arguments.rounds):
        cell = rounds.measure(
            f"{url}/{PATHS[name]}", users=connections, round_s=arguments.round_s, warm_up_s=arguments.warm_up_s
        )
        progress(f"{table}, {name}: {report.append_cell(table, name, cell):.1f} img/s")
    for name in PATHS:
        if name != MICRO:
            report.append_ratios(table, name, MICRO, "rate")


if __name__ == "__main__":
    run(main)
