"""What the prediction cache in Redis gains and costs: pictures that repeat, pictures that never do, and no cache.

Two classifiers in one service, with the same settings but for the cache; only one of them has work at a time. Rounds go
through the sides forwards, then backwards. Then bursts of one new picture from many connections at once: how many of
its answers were computed.
"""

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import httpx

from loadtest.load.pictures import PicturePool
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import (
    SHIPPED,
    WITH_REDIS,
    Rounds,
    application_of,
    running_service,
    scratch_folder,
    write_config,
)

OFF, MISSES, HITS = "no cache", "cache, new pictures", "cache, known pictures"
PATHS = {OFF: "off", MISSES: "on", HITS: "on"}
CACHES = {"off": {"store": "off"}, "on": {"store": "redis"}}
TIMEOUT_S = 60
KNOWN = 8
"""Pictures: so few that all of them are computed in the round that does not count, on any machine."""
NOTES = [
    f"pictures differ in every request but for the {KNOWN} known ones; CPU in percent of one core",
    "computed: answers that say `cached: false`, of one burst of equal pictures that come at the same moment",
]


def main() -> int:
    parser = command_line("cache", __doc__)
    parser.add_argument("--config", type=Path, default=SHIPPED[0], help="where settings are from (%(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each side (default: %(default)s)")
    parser.add_argument("--round-s", type=float, default=10, help="length of a round (default: %(default)s)")
    parser.add_argument("--warm-up-s", type=float, default=2, help="load before a round counts (default: %(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16], help="(default: %(default)s)")
    parser.add_argument("--bursts", type=int, default=10, help="bursts of equal pictures (default: %(default)s)")
    parser.add_argument("--burst-size", type=int, default=100, help="pictures in a burst (default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("cache", arguments)
    report.notes += NOTES
    with scratch_folder() as folder:
        config = write_config(folder, arguments.config, variants(arguments.config))
        progress("starting two classifiers")
        with running_service(config, folder=folder, start=f"{WITH_REDIS} {{python}}") as service:
            measure(report, arguments, folder, config, service.target.urls[0])
            asyncio.run(burst(report, arguments, service.target.urls[0]))
        if "without the shared cache" in service.log.read_text(errors="replace"):
            report.faults.append("Redis did not answer in time at least once, so misses were no lookups then")
    return finish(report, arguments.json)


def variants(shipped: Path) -> dict[str, dict[str, Any]]:
    """Return what each application changes in the shipped `model`."""
    args = application_of(shipped, "model").get("args") or {}
    return {name: {"args": {**args, "cache": cache, "jobs": {"queue": name}}} for name, cache in CACHES.items()}


def measure(report: Report, arguments: argparse.Namespace, folder: Path, config: Path, url: str) -> None:
    """Measure all sides in turn, with each number of connections, after a short round that does not count."""
    new, known = Rounds(folder / "new", config), Rounds(folder / "known", config, pool=KNOWN, is_repeated=True)
    rounds = {OFF: new, MISSES: new, HITS: known}
    for side, path in PATHS.items():
        rounds[side].measure(f"{url}/{path}", users=max(arguments.connections), round_s=4)
    for connections in arguments.connections:
        table = f"{connections} connection{'s' if connections > 1 else ''}"
        for side in interleave(list(PATHS), arguments.rounds):
            cell = rounds[side].measure(
                f"{url}/{PATHS[side]}", users=connections, round_s=arguments.round_s, warm_up_s=arguments.warm_up_s
            )
            images_per_s = report.append_cell(table, side, cell)
            busy_percent = sum(role.cpu_percent for role in cell.roles if role.role == PATHS[side])
            report.append(table, side, "CPU of the replica", "ms/img", 10 * busy_percent / images_per_s)
            progress(f"{table}, {side}: {images_per_s:.1f} img/s")
        for side in (MISSES, HITS):
            for column in ("rate", "p50", "CPU of the replica"):
                report.append_ratios(table, side, OFF, column)


async def burst(report: Report, arguments: argparse.Namespace, url: str) -> None:
    """Send bursts of a picture that nobody sent before, each over as many connections at the same moment."""
    pictures = PicturePool(arguments.bursts)
    table, size = "Equal pictures at the same moment", arguments.burst_size
    limits = httpx.Limits(max_connections=size, max_keepalive_connections=size, keepalive_expiry=TIMEOUT_S)
    progress(f"{arguments.bursts} bursts of {size}")
    async with httpx.AsyncClient(base_url=f"{url}/on/model", limits=limits, timeout=TIMEOUT_S, trust_env=False) as http:
        for _ in range(arguments.bursts):
            await asyncio.gather(*(http.get("/") for _ in range(size)))  # so that every connection is open
            picture, began_s = pictures.next_picture(), time.monotonic()
            answers = await asyncio.gather(*(http.post("/predict", content=picture) for _ in range(size)))
            report.append(table, f"{size} answers", "until the last", "ms", 1000 * (time.monotonic() - began_s))
            computed = sum(not answer.raise_for_status().json()["cached"] for answer in answers)
            report.append(table, f"{size} answers", "computed", "answers", computed)
            if computed != 1:
                report.faults.append(f"{computed} of {size} equal pictures were computed")


if __name__ == "__main__":
    run(main)
