"""Two API keys, one of them at ten times the capacity: what each of them is answered, with shares and without.

The kit's generator runs once for each key. `flood` sends an open loop of --times the capacity, which 16 clients without
think time show first; `light` sends one picture a second, from before the flood until after it. The service has one
replica of one thread (configs/one_thread.yaml); the generators need the other core.
"""

import argparse
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from loadtest.errors import CellFailedError
from loadtest.load.generator import Generator, Load, running_generator
from loadtest.plan.plan import Plan
from loadtest.plan.target_key import VARIABLE
from loadtest.plan.targets import Target
from loadtest.rows.columns import RequestRow, read_rows
from tests.benchmarks.report import Report, begin, command_line, finish, progress, run
from tests.benchmarks.service import CONFIGS, running_service, scratch_folder
from tests.ports import free_port

SHIPPED = CONFIGS / "one_thread.yaml"
KEYS_VARIABLE = "FAIR_SHARES_KEYS"
KEYS = {name: f"{name}-key-of-this-benchmark" for name in ("flood", "light")}
SATURATING_USERS, SATURATING_S = 16, 20
LIGHT_RPS = 1.0
BEFORE_S, AFTER_S = 5, 5
LEAST_IN_FLIGHT = 200
DRAIN_S = 60


def main() -> int:
    parser = command_line("fair_shares", __doc__)
    parser.add_argument("--times", type=float, default=10, help="the capacity (default: %(default)g)")
    parser.add_argument("--seconds", type=int, default=60, help="of each flood (default: %(default)s)")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.5, 1.0], help="1 is no bound (default: %(default)s)"
    )
    arguments = parser.parse_args()
    report = begin("fair_shares", arguments)
    for share in arguments.shares:
        with scratch_folder() as folder:
            config = write_config(folder, share)
            progress(f"share {share:g}")
            with running_service(config, folder=folder, environment={KEYS_VARIABLE: keys_text()}) as service:
                measure(report, service.target, folder, share, arguments)
    report.notes.append("429: the key had its share; 503: the service was full; latencies are of right answers")
    return finish(report, arguments.json)


def keys_text() -> str:
    """Return the keys as the service reads them from the environment."""
    return ", ".join(f"{name}: {key}" for name, key in KEYS.items())


def write_config(folder: Path, share: float) -> Path:
    """Return the shipped config with both keys and `share`, in `folder`."""
    config = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    config["http_options"]["port"] = free_port()
    for application in config["applications"]:
        application["args"]["auth"] = {"keys_env": KEYS_VARIABLE, "share": share}
    model = next(each for each in config["applications"] if each["name"] == "model")
    model["args"] |= {"weights": "random", "cache": {"store": "off"}}
    path = folder / "fair_shares.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Pace:
    """What one key's generator sends: the plan's words for it, how many are under way at most, and for how long."""

    workload: dict[str, object]
    users: int
    seconds: int


def measure(report: Report, target: Target, folder: Path, share: float, arguments: argparse.Namespace) -> None:
    """Find the capacity, flood the service and add what became of the requests of each key."""
    saturating = Pace({"wait_s": [0, 0]}, SATURATING_USERS, SATURATING_S)
    with load_of("flood", saturating, target, folder / "capacity") as saturated:
        wait_for(saturated)
    right = sum(not row.error for row in read_rows(saturated.load.requests, RequestRow))
    capacity_rps = right / SATURATING_S
    rate_rps = arguments.times * capacity_rps
    progress(f"  capacity {capacity_rps:.1f}/s, flood {rate_rps:.0f}/s")
    in_flight = max(LEAST_IN_FLIGHT, math.ceil(2 * rate_rps))
    constant = {"rate_rps": LIGHT_RPS, "arrivals": "constant"}
    light_pace = Pace(constant, LEAST_IN_FLIGHT, BEFORE_S + arguments.seconds + AFTER_S)
    flood_pace = Pace({"rate_rps": rate_rps, "arrivals": "poisson"}, in_flight, arguments.seconds)
    with load_of("light", light_pace, target, folder / "light") as light:
        time.sleep(BEFORE_S)
        with load_of("flood", flood_pace, target, folder / "flood") as flood:
            wait_for(flood)
        wait_for(light)
    for name, generator in (("flood", flood), ("light", light)):
        add(report, f"share {share:g}: key {name}", list(read_rows(generator.load.requests, RequestRow)))
    report.append("Capacity", f"share {share:g}", "rate", "img/s", capacity_rps)


def add(report: Report, row: str, rows: list[RequestRow]) -> None:
    """Add what became of one key's requests."""
    right_ms = [each.latency_ms for each in rows if not each.error]
    refused = Counter(each.status for each in rows if each.is_refusal)
    counts = {"sent": len(rows), "right": len(right_ms), "429": refused[429], "503": refused[503]}
    for column, count in counts.items():
        report.append("Requests", row, column, "requests", count)
    if right_ms:
        report.append("Requests", row, "p50", "ms", statistics.median(right_ms))
        report.append("Requests", row, "slowest", "ms", max(right_ms))
    if others := Counter(each.error for each in rows if each.error and not each.is_refusal):
        report.faults.append(f"{row}: {others.total()} requests failed in another way: {dict(others)}")


@contextmanager
def load_of(name: str, pace: Pace, target: Target, folder: Path) -> Iterator[Generator]:
    """Run the kit's generator with the key of this name while the block runs."""
    plan = Plan.model_validate(
        {
            "title": "One key's load",
            "targets": [{"name": "service", "url": target.urls[0], "ready": ["/model/ready"]}],
            "users": [pace.users],
            "spawn_rate_per_s": pace.users,
            "duration_s": pace.seconds,
            "drain_s": DRAIN_S,
            "workload": {
                "locustfile": "loadtest/locustfile.py",
                "endpoints": {"predict": {"request": "POST /model/predict"}},
                "options": {"errors": "checked"},
                **pace.workload,
            },
        }
    )
    folder.mkdir()
    os.environ[VARIABLE] = KEYS[name]  # a generator takes it as it starts
    load = Load(pace.users, float(pace.users), pace.seconds, plan.seed, folder, "requests")
    with running_generator(plan, target, load) as generator:
        yield generator


def wait_for(generator: Generator) -> None:
    """Return when a generator has made its load. Raises CellFailedError."""
    end_s = time.monotonic() + generator.load.duration_s + 2 * DRAIN_S
    while generator.is_running():
        if time.monotonic() > end_s:
            raise CellFailedError(f"the load did not end: {generator.load.log}")
        time.sleep(0.2)


if __name__ == "__main__":
    run(main)
