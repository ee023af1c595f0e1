"""What the service takes: time to ready, memory by process, CPU while idle, time to stop.

The prepared model is in the cache: one unmeasured start comes first. Time to ready runs from the exec of
`python -m serve_app` until both applications answer 200 on /ready.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import psutil

from loadtest.machine.processes import descendants
from loadtest.machine.resources import role_of
from loadtest.measure.target import RunningTarget
from loadtest.plan.targets import Role
from tests.benchmarks.report import GENERATOR, OTHERS, Report, begin, command_line, finish, progress, run
from tests.benchmarks.service import SHIPPED, Rounds, cpu_by_role, roles_of, running_service, scratch_folder

START_AND_STOP, BY_ROLE = "Start and stop", "By role"
SERVICE, TOGETHER = "service", "all together"
CONNECTIONS = 16
MIB = 2**20
READINGS = {"RSS": "rss", "USS": "uss", "PSS": "pss"}
NOTES = [
    "RSS counts shared memory in each process that shares it, USS in none, PSS in equal parts: PSS adds up",
    "CPU in percent of one core; a role's figures are sums over its processes",
]


def main() -> int:
    parser = command_line("footprint", __doc__)
    parser.add_argument("--config", type=Path, default=SHIPPED[0], help="(default: %(default)s)")
    parser.add_argument("--starts", type=int, default=3, help="measured starts (default: %(default)s)")
    parser.add_argument("--settle-s", type=float, default=10, help="rest after each start (default: %(default)s)")
    parser.add_argument("--idle-s", type=float, default=30, help="length of the idle reading (default: %(default)s)")
    parser.add_argument("--load-s", type=float, default=10, help="predictions before memory is read a second time")
    arguments = parser.parse_args()
    report = begin("footprint", arguments)
    report.notes += NOTES
    with scratch_folder() as folder:
        progress("an unmeasured start, so that model and database are there")
        with running_service(arguments.config, folder=folder):
            pass
        for number in range(1, arguments.starts + 1):
            progress(f"start {number} of {arguments.starts}")
            measure_start(report, arguments, folder / str(number))
    return finish(report, arguments.json)


def measure_start(report: Report, arguments: argparse.Namespace, folder: Path) -> None:
    """Start once, read everything, and stop."""
    roles = roles_of(arguments.config)
    with running_service(arguments.config, folder=folder.parent) as service:
        assert service.ready_after_s
        progress(f"  ready after {service.ready_after_s:.1f} s")
        report.append(START_AND_STOP, SERVICE, "ready", "s", service.ready_after_s)
        time.sleep(arguments.settle_s)
        append_memory(report, "idle", roles)
        with cpu_by_role(roles) as usage:
            time.sleep(arguments.idle_s)
        rest = {role: usage.pop(role) for role in (GENERATOR, OTHERS)}
        append_by_role(report, "idle CPU", "%", usage)
        report.append_cpu("Beside the service", "while idle", rest)
        progress(f"  idle: {sum(usage.values()):.1f} % of one core")
        # What an engine allocates for its larger batches stays with it.
        rounds = Rounds(folder, arguments.config)
        cell = rounds.measure(service.target.urls[0], users=CONNECTIONS, round_s=arguments.load_s, warm_up_s=1)
        report.append_cell("Predictions before memory is read again", SERVICE, cell)
        append_memory(report, "used", roles)
    append_stop(report, service)


def append_memory(report: Report, moment: str, roles: list[Role]) -> None:
    """Add each role's memory at this moment."""
    sums: dict[str, dict[str, float]] = {name: defaultdict(float) for name in READINGS}
    for process in descendants():
        try:
            role, memory = role_of(process, roles), process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        for name, field in READINGS.items():
            sums[name][role] += getattr(memory, field) / MIB
    for name, by_role in sums.items():
        append_by_role(report, f"{moment} {name}", "MiB", by_role)


def append_by_role(report: Report, column: str, unit: str, by_role: dict[str, float]) -> None:
    """Add a value for each role and their sum."""
    for role, value in sorted(by_role.items(), key=lambda item: -item[1]):
        report.append(BY_ROLE, role, column, unit, value)
    report.append(BY_ROLE, TOGETHER, column, unit, sum(by_role.values()))


def append_stop(report: Report, service: RunningTarget) -> None:
    """Add how the stop went, and what the kit says of it."""
    assert service.stopped_after_s
    progress(f"  stopped after {service.stopped_after_s:.1f} s")
    report.append(START_AND_STOP, SERVICE, "stopped", "s", service.stopped_after_s)
    report.faults += service.notes


if __name__ == "__main__":
    run(main)
