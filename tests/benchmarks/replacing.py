"""What clients lose while replicas are replaced: shifts between the two shipped configs under a steady load.

20 clients look users up, 4 send a picture, each with short pauses (`tests.benchmarks.clients`).
"""

import argparse
import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

from loadtest.load.pictures import PicturePool
from tests.benchmarks.clients import ANSWERED, LOST, Outcome, look_up, predict
from tests.benchmarks.report import ROOT, Report, begin, command_line, finish, progress, run
from tests.benchmarks.service import SHIPPED, running_service, scratch_folder

LOOKUPS, PREDICTS = 20, 4
MOST_PAUSE_S = 0.3
BEFORE_S, AFTER_S = 3, 8
REDEPLOY_S = 200
DRAINING = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"


def main() -> int:
    parser = command_line("replacing", __doc__)
    parser.add_argument("--shifts", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument(
        "--draining-s", type=float, default=1, help="what an old replica lives on (default: %(default)s)"
    )
    arguments = parser.parse_args()
    report = begin("replacing", arguments)
    with scratch_folder() as folder:
        environment = {DRAINING: f"{arguments.draining_s:g}"}
        with running_service(SHIPPED[0], folder=folder, environment=environment) as service:
            asyncio.run(measure(report, service.target.urls[0], arguments))
    report.notes.append("lost: no whole answer, or 502 replica_lost; refused: 503 in the error shape")
    return finish(report, arguments.json)


async def measure(report: Report, url: str, arguments: argparse.Namespace) -> None:
    """Shift between the configs and add what became of the requests."""
    outcomes: dict[str, list[Outcome]] = {"lookup": [], "predict": []}
    finished = asyncio.Event()
    clients = [
        asyncio.create_task(look_up(url, outcomes["lookup"], finished, most_pause_s=MOST_PAUSE_S))
        for _ in range(LOOKUPS)
    ]
    pictures = PicturePool(PREDICTS, seed=0)
    clients += [
        asyncio.create_task(
            predict(url, pictures.next_picture(), outcomes["predict"], finished, most_pause_s=MOST_PAUSE_S)
        )
        for _ in range(PREDICTS)
    ]
    await asyncio.sleep(BEFORE_S)
    for shift in range(arguments.shifts):
        config = SHIPPED[(shift + 1) % 2]
        await asyncio.to_thread(redeploy, config)
        await asyncio.sleep(AFTER_S)
        progress(f"shift {shift + 1} of {arguments.shifts}, to {config.stem}: {_count(outcomes)}")
    finished.set()
    await asyncio.gather(*clients)
    for name, counted in _count(outcomes).items():
        refused = sum(times for told, times in counted.items() if told.startswith("503 "))
        report.append("Requests", name, "all", "requests", counted.total())
        report.append("Requests", name, "lost", "requests", counted[LOST])
        report.append("Requests", name, "refused", "requests", refused)
        if counted.total() - counted[ANSWERED] - counted[LOST] - refused:
            report.faults.append(f"{name}: some with another status: {dict(counted)}")


def _count(outcomes: dict[str, list[Outcome]]) -> dict[str, Counter[str]]:
    return {name: Counter(outcome.told for outcome in each) for name, each in outcomes.items()}


def redeploy(config: Path) -> None:
    """Give the running service another config. Raises RuntimeError."""
    command = [sys.executable, "-m", "serve_app.redeploy", str(config)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=REDEPLOY_S)
    if done.returncode:
        raise RuntimeError(f"redeploy ended with {done.returncode}: {done.stderr.strip()}")


if __name__ == "__main__":
    run(main)
