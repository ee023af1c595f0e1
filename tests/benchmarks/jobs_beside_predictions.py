"""What a backlog of jobs costs predictions, and how fast it is worked off, by the size of the jobs' batches.

One client sends a prediction every --pause-s to configs/one_replica.yaml: with an idle service, then with more jobs
than end meanwhile. Then the backlog alone. For each size the service is started anew.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np

from loadtest.load.pictures import PicturePool
from tests.benchmarks.report import Report, begin, command_line, finish, progress, run
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.service import adapted, launcher, own_environment, service, write_config

POOL = 20
FILES = 100
IDLE, BACKLOG = "idle", "with a backlog of jobs"
LATENCY, SPEED = "POST /model/predict, one client", "Jobs"


def main() -> int:
    parser = command_line("jobs_beside_predictions", __doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], help="(default: %(default)s)")
    parser.add_argument("--duration-s", type=float, default=20, help="of each part (default: %(default)s)")
    parser.add_argument("--pause-s", type=float, default=0.5, help="between predictions (default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("jobs_beside_predictions", arguments)
    for batch in arguments.batches:
        progress(f"batches of {batch}")
        with tempfile.TemporaryDirectory(prefix="jobs-beside-") as name:
            measure(report, Path(name), batch, arguments)
    report.notes.append("pictures differ in every request; the jobs have 100 pictures each")
    return finish(report, arguments.json)


def measure(report: Report, folder: Path, batch: int, arguments: argparse.Namespace) -> None:
    """Start everything with one size of batch and add what was found."""
    redis = RedisServer(folder)
    try:
        port = free_port()
        model_args: dict[str, object] = {"weights": "random", "jobs": {"max_batch": batch}}
        config = adapted("one_replica.yaml", port=port, model_args=model_args)
        environment = own_environment(folder) | {"REDIS_URL": redis.url}
        with service(launcher(write_config(folder, config)), environment, folder, port) as running:
            running.wait_until_ready()
            asyncio.run(compare(report, running.url, batch, arguments))
            running.stop()
    finally:
        redis.close()


async def compare(report: Report, url: str, batch: int, arguments: argparse.Namespace) -> None:
    """Measure predictions without and with jobs, and jobs without predictions."""
    pictures, row = PicturePool(POOL), f"batches of {batch}"
    async with httpx.AsyncClient(base_url=f"{url}/model", timeout=60) as http:
        await predict_for(http, pictures, 3, 0)
        idle_ms = await predict_for(http, pictures, arguments.duration_s, arguments.pause_s)
        jobs = await submit_backlog(http, pictures, int(60 * arguments.duration_s) // FILES)
        await asyncio.sleep(1)
        before, began_s = await count_done(http, jobs), time.monotonic()
        busy_ms = await predict_for(http, pictures, arguments.duration_s, arguments.pause_s)
        between, then_s = await count_done(http, jobs), time.monotonic()
        await asyncio.sleep(arguments.duration_s / 2)
        after, ended_s = await count_done(http, jobs), time.monotonic()
        for job in jobs:
            with suppress(httpx.HTTPError):
                await http.delete(f"/jobs/{job}")
    for side, found_ms in ((IDLE, idle_ms), (BACKLOG, busy_ms)):
        for percent in (50, 95):
            report.append(LATENCY, row, f"{side} p{percent}", "ms", float(np.percentile(found_ms, percent)))
    report.append(SPEED, row, "beside predictions", "img/s", (between - before) / (then_s - began_s))
    report.append(SPEED, row, "alone", "img/s", (after - between) / (ended_s - then_s))


async def predict_for(http: httpx.AsyncClient, pictures: PicturePool, duration_s: float, pause_s: float) -> list[float]:
    """Send one prediction after the other and return their latencies, ms."""
    found_ms, until_s = [], time.monotonic() + duration_s
    while time.monotonic() < until_s:
        began_s = time.perf_counter()
        answer = await http.post("/predict", content=pictures.next_picture())
        found_ms.append(1000 * (time.perf_counter() - began_s))
        answer.raise_for_status()
        await asyncio.sleep(pause_s)
    return found_ms


async def submit_backlog(http: httpx.AsyncClient, pictures: PicturePool, count: int) -> list[str]:
    """Submit `count` jobs of FILES pictures and return their ids."""
    jobs = []
    for _ in range(count):
        answer = await http.post("/jobs", files=[("file", pictures.next_picture()) for _ in range(FILES)])
        answer.raise_for_status()
        jobs.append(str(answer.json()["id"]))
    return jobs


async def count_done(http: httpx.AsyncClient, jobs: list[str]) -> int:
    """Return how many pictures of all jobs are done; the backlog must be longer."""
    done = [(await http.get(f"/jobs/{job}")).json()["files_done"] for job in jobs]
    if sum(done) == FILES * len(jobs):
        raise RuntimeError("the backlog was worked off before the end; make it longer")
    return sum(done)


if __name__ == "__main__":
    sys.exit(run(main))
