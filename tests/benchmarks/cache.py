"""What the prediction cache in Redis gains and costs: pictures that repeat, pictures that never do, and no cache.

Two classifiers in one service, with the same settings but for the cache; only one of them has work at a time. Rounds go
through the sides forwards, then backwards. Then bursts of one new picture from many connections at once: how many of
its answers were computed.
"""

import argparse
import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import urlsplit

import yaml

from loadtest.load.pictures import PicturePool
from tests.benchmarks.prediction_load import HEADERS, TIMEOUT_S, Pace, PredictionLoad, run_predictions
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import SHIPPED, Service, running_service, scratch_folder, write_config
from tests.redis_server import RedisServer

OFF, MISSES, HITS = "no cache", "cache, new pictures", "cache, known pictures"
ROUTES = {OFF: "/off/predict", MISSES: "/on/predict", HITS: "/on/predict"}
CACHES = {"off": {"store": "off"}, "on": {"store": "redis"}}
POOL_SIZE = 64
NOTES = [
    "rate between two moments of full load; pictures differ in every request but for those of the known ones",
    "computed: answers that say `cached: false`, of one burst of equal pictures that come at the same moment",
]


@dataclass(frozen=True)
class _Exchange:
    ended: float
    cached: bool


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
        redis = RedisServer(folder, "--maxmemory", "256mb", "--maxmemory-policy", "volatile-lru")
        try:
            config = write_config(folder, both_variants(arguments.config))
            progress("starting two classifiers")
            with running_service(config, folder=folder, environment={"REDIS_URL": redis.url}) as service:
                measure(report, arguments, service)
                burst(report, arguments, service)
                if "without the shared cache" in service.printed():
                    report.faults.append("Redis did not answer in time at least once, so misses were no lookups then")
        finally:
            redis.close()
    return finish(report, arguments.json)


def both_variants(shipped: Path) -> dict[str, Any]:
    """Return the shipped config with a classifier for each variant in place of its own."""
    config: dict[str, Any] = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    model = next(application for application in config["applications"] if application["name"] == "model")
    config["applications"] = [
        {**model, "name": name, "route_prefix": f"/{name}", "args": {**(model.get("args") or {}), "cache": cache}}
        for name, cache in CACHES.items()
    ]
    return config


def measure(report: Report, arguments: argparse.Namespace, service: Service) -> None:
    """Measure all sides in turn, with each number of connections, after a short round that does not count."""
    new, known = PicturePool(POOL_SIZE), PicturePool(POOL_SIZE, distinct=False)
    pools = {OFF: new, MISSES: new, HITS: known}
    for side, pool in pools.items():
        run_predictions(service, ROUTES[side], pool.next_picture, Pace(max(arguments.connections), 0, 4))
    for connections in arguments.connections:
        table = f"{connections} connection{'s' if connections > 1 else ''}"
        progress(table)
        pace = Pace(connections, arguments.warm_up_s, arguments.round_s)
        for side in interleave(list(ROUTES), arguments.rounds):
            load = run_predictions(service, ROUTES[side], pools[side].next_picture, pace)
            progress(f"  {side}: {load.images_per_s:.1f} img/s, p50 {load.p50_ms:.1f} ms, p95 {load.p95_ms:.1f} ms")
            append_round(report, table, side, load)
        for side in (MISSES, HITS):
            report.append_ratios(table, side, OFF, "rate")
            report.append_ratios(table, side, OFF, "p50")
            report.append_ratios(table, side, OFF, "CPU of the replica")


def append_round(report: Report, table: str, side: str, load: PredictionLoad) -> None:
    """Add what one round of one side showed."""
    report.append(table, side, "rate", "img/s", load.images_per_s)
    for column, value in (("p50", load.p50_ms), ("p95", load.p95_ms), ("p99", load.p99_ms)):
        report.append(table, side, column, "ms", value)
    busy_percent = load.cpu_percent[f"replica {ROUTES[side].split('/')[1]}"]
    report.append(table, side, "CPU of the replica", "ms/img", 10 * busy_percent / load.images_per_s)
    report.append_cpu(f"{table}, CPU", side, load.cpu_percent)
    if load.failures:
        report.faults.append(f"{table}, {side}: {load.failures} predictions failed")


def burst(report: Report, arguments: argparse.Namespace, service: Service) -> None:
    """Send bursts of a picture that nobody sent before, each from as many connections at the same moment."""
    pictures = PicturePool(arguments.bursts)
    table, size = "Equal pictures at the same moment", arguments.burst_size
    progress(f"{arguments.bursts} bursts of {size}")
    with ThreadPoolExecutor(size) as pool:
        for _ in range(arguments.bursts):
            picture, together = pictures.next_picture(), Barrier(size + 1)
            runs = [pool.submit(_send_one, service.url, picture, together) for _ in range(size)]
            together.wait()
            began = time.monotonic()
            exchanges = [run.result() for run in runs]
            computed = sum(not exchange.cached for exchange in exchanges)
            report.append(table, f"{size} answers", "computed", "answers", computed)
            last_ms = 1000 * (max(exchange.ended for exchange in exchanges) - began)
            report.append(table, f"{size} answers", "until the last", "ms", last_ms)
            if computed != 1:
                report.faults.append(f"{computed} of {size} equal pictures were computed")


def _send_one(url: str, picture: bytes, together: Barrier) -> _Exchange:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
    connection.connect()
    together.wait()
    connection.request("POST", ROUTES[MISSES], picture, HEADERS)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return _Exchange(time.monotonic(), bool(answer["cached"]))


if __name__ == "__main__":
    run(main)
