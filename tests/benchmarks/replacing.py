"""What clients lose while replicas are replaced: shifts between the two shipped configs under a steady load.

httpx with kept connections and short pauses, which never sends a request again by itself: unlike Locust's and
browsers' clients, it shows each connection that closes under a request. 20 clients look users up, 4 send a picture.
"""

import argparse
import asyncio
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx

from loadtest.load.pictures import PicturePool
from tests.benchmarks.report import ROOT, Report, begin, command_line, finish, progress, run
from tests.benchmarks.service import SHIPPED, running_service, scratch_folder

LOOKUPS, PREDICTS = 20, 4
MOST_PAUSE_S = 0.3
BEFORE_S, AFTER_S = 3, 8
REDEPLOY_S = 200
TIMEOUT_S = 30
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
    report.notes.append("lost: no whole answer; refused: 503 in the error shape")
    return finish(report, arguments.json)


async def measure(report: Report, url: str, arguments: argparse.Namespace) -> None:
    """Shift between the configs and add what became of the requests."""
    outcomes: dict[str, Counter[str]] = {"lookup": Counter(), "predict": Counter()}
    finished = asyncio.Event()
    clients = [asyncio.create_task(look_up(url, outcomes["lookup"], finished)) for _ in range(LOOKUPS)]
    pictures = PicturePool(PREDICTS, seed=0)
    clients += [
        asyncio.create_task(predict(url, pictures.next_picture(), outcomes["predict"], finished))
        for _ in range(PREDICTS)
    ]
    await asyncio.sleep(BEFORE_S)
    for shift in range(arguments.shifts):
        config = SHIPPED[(shift + 1) % 2]
        await asyncio.to_thread(redeploy, config)
        await asyncio.sleep(AFTER_S)
        progress(f"shift {shift + 1} of {arguments.shifts}, to {config.stem}: {outcomes}")
    finished.set()
    await asyncio.gather(*clients)
    for name, counted in outcomes.items():
        report.append("Requests", name, "all", "requests", counted.total())
        report.append("Requests", name, "lost", "requests", counted["lost"])
        report.append("Requests", name, "refused", "requests", counted["503"])
        if others := counted.total() - counted["200"] - counted["lost"] - counted["503"]:
            report.faults.append(f"{name}: {others} with another status: {dict(counted)}")


async def look_up(url: str, outcomes: Counter[str], finished: asyncio.Event) -> None:
    """Look a user up again and again."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
        while not finished.is_set():
            await count(http.build_request("GET", f"/user/{random.randint(1, 1000)}"), http, outcomes)


async def predict(url: str, picture: bytes, outcomes: Counter[str], finished: asyncio.Event) -> None:
    """Send a picture again and again."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as http:
        while not finished.is_set():
            await count(http.build_request("POST", "/model/predict", files={"file": picture}), http, outcomes)


async def count(request: httpx.Request, http: httpx.AsyncClient, outcomes: Counter[str]) -> None:
    """Send a request, note what becomes of it, and pause."""
    try:
        outcomes[str((await http.send(request)).status_code)] += 1
    except httpx.HTTPError:
        outcomes["lost"] += 1
    await asyncio.sleep(random.uniform(0, MOST_PAUSE_S))


def redeploy(config: Path) -> None:
    """Give the running service another config. Raises RuntimeError."""
    command = [sys.executable, "-m", "serve_app.redeploy", str(config)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=REDEPLOY_S)
    if done.returncode:
        raise RuntimeError(f"redeploy ended with {done.returncode}: {done.stderr.strip()}")


if __name__ == "__main__":
    run(main)
