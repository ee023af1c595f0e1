"""What a backlog of jobs costs predictions, and how fast it is worked off, by the size of the jobs' batches.

One client sends a prediction every --pause-s: with an idle service, then with more jobs than end meanwhile. Then the
backlog alone. For each size the service is started anew.
"""

import argparse
import time
from contextlib import suppress
from pathlib import Path

import httpx

from loadtest.load.pictures import PicturePool
from tests.benchmarks.report import Report, begin, command_line, finish, progress, run
from tests.benchmarks.service import (
    SHIPPED,
    WITH_REDIS,
    Rounds,
    application_of,
    running_service,
    scratch_folder,
    write_config,
)

POOL = 20
FILES = 100
WARM_UP_S = 3
IDLE, BACKLOG, JOBS = "no jobs", "with a backlog", "Jobs"


def main() -> int:
    parser = command_line("jobs_beside_predictions", __doc__)
    parser.add_argument("--config", type=Path, default=SHIPPED[0], help="where settings are from (%(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8], help="(default: %(default)s)")
    parser.add_argument("--duration-s", type=float, default=40, help="of each part (default: %(default)s)")
    parser.add_argument("--pause-s", type=float, default=0.5, help="between predictions (default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("jobs_beside_predictions", arguments)
    for batch in arguments.batches:
        progress(f"batches of {batch}")
        with scratch_folder() as folder:
            measure(report, folder, batch, arguments)
    report.notes.append(f"pictures differ in every request; the jobs have {FILES} pictures each")
    return finish(report, arguments.json)


def measure(report: Report, folder: Path, batch: int, arguments: argparse.Namespace) -> None:
    """Start everything with one size of batch; measure predictions without and with jobs, and jobs without them."""
    args = {**application_of(arguments.config, "model")["args"], "weights": "random", "jobs": {"max_batch": batch}}
    config = write_config(folder, arguments.config, {"beside": {"args": args}})
    rounds, row = Rounds(folder, config), f"batches of {batch}"
    load = {"users": 1, "round_s": arguments.duration_s, "warm_up_s": WARM_UP_S, "pause_s": arguments.pause_s}
    with running_service(config, folder=folder, start=f"{WITH_REDIS} {{python}}") as service:
        url = f"{service.target.urls[0]}/beside"
        report.append_cell(IDLE, row, rounds.measure(url, **load))
        with httpx.Client(base_url=f"{url}/model", timeout=60, trust_env=False) as http:
            jobs = submit_backlog(http, int(60 * arguments.duration_s) // FILES)
            before, began_s = count_done(http, jobs), time.monotonic()
            report.append_cell(BACKLOG, row, rounds.measure(url, **load))
            between, then_s = count_done(http, jobs), time.monotonic()
            time.sleep(arguments.duration_s / 2)
            after, ended_s = count_done(http, jobs), time.monotonic()
            for job in jobs:
                with suppress(httpx.HTTPError):
                    http.delete(f"/jobs/{job}")
    report.append(JOBS, row, "beside predictions", "img/s", (between - before) / (then_s - began_s))
    report.append(JOBS, row, "alone", "img/s", (after - between) / (ended_s - then_s))


def submit_backlog(http: httpx.Client, count: int) -> list[str]:
    """Submit `count` jobs of FILES pictures and return their ids."""
    pictures, jobs = PicturePool(POOL), []
    for _ in range(count):
        answer = http.post("/jobs", files=[("file", pictures.next_picture()) for _ in range(FILES)])
        jobs.append(str(answer.raise_for_status().json()["id"]))
    return jobs


def count_done(http: httpx.Client, jobs: list[str]) -> int:
    """Return how many pictures of all jobs are done. Raises RuntimeError when all are: the backlog was too short."""
    done = sum(http.get(f"/jobs/{job}").json()["files_done"] for job in jobs)
    if done == FILES * len(jobs):
        raise RuntimeError("the backlog was worked off before the end; make it longer")
    return int(done)


if __name__ == "__main__":
    run(main)
