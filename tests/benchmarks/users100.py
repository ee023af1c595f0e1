"""A hundred Locust users for a minute, as `loadtest/locustfile.py` has them, on each shipped config.

Locust runs headless in one process and writes its CSV; its percentiles, from which these are taken, have two digits.
Who arrives while users are still being added is in the figures.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.report import GENERATOR, ROOT, Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import (
    SHIPPED,
    Service,
    cpu_by_role,
    running_service,
    scratch_folder,
)

LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
ALL = "Aggregated"
COLUMNS = (("p50", "50%"), ("p95", "95%"), ("p99", "99%"))
# Locust ends by itself; requests under way may still take as long as the locustfile's own time limit.
GRACE_S = 90
# Above this share of one core Locust measures itself.
LOCUST_BUSY_PERCENT = 80.0


def main() -> int:
    parser = command_line("users100", __doc__)
    parser.add_argument("--configs", type=Path, nargs="+", default=list(SHIPPED), help="(default: the shipped ones)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds; every other one reversed (default: %(default)s)")
    parser.add_argument("--users", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--spawn-rate", type=float, default=20, help="new users per second (default: %(default)s)")
    parser.add_argument("--duration-s", type=int, default=60, help="whole seconds (default: %(default)s)")
    arguments = parser.parse_args()
    report = begin("users100", arguments)
    configs = {path.stem: path for path in arguments.configs}
    for name in interleave(list(configs), arguments.rounds):
        progress(f"starting {name}")
        measure(report, name, configs[name], arguments)
    report.notes.append("percentiles are Locust's, rounded to two digits; CPU in percent of one core")
    return finish(report, arguments.json)


def measure(report: Report, name: str, config: Path, arguments: argparse.Namespace) -> None:
    """Start the service, let the users loose on it, and add what both did."""
    with scratch_folder() as folder, running_service(config, folder=folder) as service:
        progress(f"  {arguments.users} users for {arguments.duration_s} s")
        with cpu_by_role(service.processes_by_role) as usage:
            rows = run_locust(service, folder, arguments)
    for row in rows:
        append_endpoint(report, name, row)
    report.append_cpu("CPU meanwhile", name, usage)
    if usage[GENERATOR] > LOCUST_BUSY_PERCENT:
        report.faults.append(f"{name}: Locust was short of CPU ({usage[GENERATOR]:.0f} % of one core)")


def run_locust(service: Service, folder: Path, arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Return the rows of Locust's statistics. Raises RuntimeError if it writes none."""
    prefix = folder / "locust"
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", service.url]
    command += ["-u", str(arguments.users), "-r", str(arguments.spawn_rate), "-t", f"{arguments.duration_s}s"]
    command += ["--csv", str(prefix), "--only-summary", "--loglevel", "WARNING"]
    # Locust's exit code is 1 also when requests failed, which is counted below.
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=arguments.duration_s + GRACE_S
    )
    stats = folder / "locust_stats.csv"
    if not stats.is_file():
        raise RuntimeError(f"Locust ended with code {done.returncode} and wrote nothing: {done.stderr[-2000:]}")
    with stats.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def append_endpoint(report: Report, name: str, row: dict[str, str]) -> None:
    """Add one line of Locust's statistics."""
    endpoint = "all" if row["Name"] == ALL else row["Name"]
    subject, table = f"{name}, {endpoint}", "Locust"
    requests, failures = int(row["Request Count"]), int(row["Failure Count"])
    if not requests:
        report.faults.append(f"{subject}: no request was made")
        return
    report.append(table, subject, "requests", "requests", requests)
    report.append(table, subject, "failures", "requests", failures)
    report.append(table, subject, "rate", "requests/s", float(row["Requests/s"]))
    for column, header in COLUMNS:
        report.append(table, subject, column, "ms", float(row[header]))
    progress(f"  {endpoint}: {requests} requests, {failures} failed, p95 {row['95%']} ms")


if __name__ == "__main__":
    run(main)
