"""Lookups per second: GET /user/?limit=20 through Ray Serve as shipped, and from plain uvicorn beside it.

Both serve the same API from the same SQLite file, both are up all the time (the table shows what the waiting one
costs), and rounds alternate: A B B A. wrk asks over 16 kept connections from one thread; predictions are idle.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from loadtest.measure.target import RunningTarget
from loadtest.plan.targets import Target
from serve_app.users.settings import UsersSettings
from tests.benchmarks.report import Report, begin, command_line, finish, interleave, progress, run
from tests.benchmarks.service import (
    SHIPPED,
    application_of,
    cpu_by_role,
    roles_of,
    running_child,
    running_service,
    scratch_folder,
    service_environment,
)
from tests.benchmarks.wrk import WrkLoad, require_wrk, run_lookups
from tests.ports import free_port

PLAIN, SERVE, SERVE_PYTHON_PROXY = "plain uvicorn", "Ray Serve", "Ray Serve with its Python proxy"
QUERY = "?limit=20"
WARM_UP_S = 2
PLAIN_START_S = 30
NOTES = [
    "wrk, HAProxy, the replica and uvicorn share the machine's cores; CPU in percent of one core",
    "wrk corrects its percentiles for requests that a slow answer kept from being sent",
]


def main() -> int:
    parser = command_line("lookups", __doc__)
    parser.add_argument("--config", type=Path, default=SHIPPED[0], help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each side (default: %(default)s)")
    parser.add_argument("--round-s", type=int, default=5, help="length of a round, whole s (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--proxy", action="store_true", help="then the same with Serve's Python proxy for HAProxy")
    arguments = parser.parse_args()
    require_wrk()
    report = begin("lookups", arguments)
    report.notes += NOTES
    compare(report, SERVE, {}, arguments)
    if arguments.proxy:
        compare(report, SERVE_PYTHON_PROXY, {"RAY_SERVE_ENABLE_HA_PROXY": "0"}, arguments)
    return finish(report, arguments.json)


def compare(report: Report, name: str, environment: dict[str, str], arguments: argparse.Namespace) -> None:
    """Measure Serve, started with `environment`, and plain uvicorn in turn."""
    table = f"GET /user/{QUERY}: {name} and {PLAIN}"
    progress(f"starting: {name}")
    with (
        scratch_folder() as folder,
        running_service(arguments.config, folder=folder, environment=environment) as service,
        plain_server(arguments.config, folder) as plain_url,
    ):
        urls = {name: f"{service.target.urls[0]}/user/{QUERY}", PLAIN: f"{plain_url}/{QUERY}"}
        check_same_answer(urls)
        for url in urls.values():
            run_lookups(url, connections=arguments.connections, duration_s=WARM_UP_S)
        for side in interleave(list(urls), arguments.rounds):
            with cpu_by_role(roles_of(arguments.config)) as usage:
                load = run_lookups(urls[side], connections=arguments.connections, duration_s=arguments.round_s)
            append_round(report, table, side, load, usage)
    report.append_ratios(table, name, PLAIN, "rate")


def append_round(report: Report, table: str, side: str, load: WrkLoad, usage: dict[str, float]) -> None:
    """Add what one round of one side showed."""
    progress(f"  {side}: {load.rps:,.0f} requests/s, p99 {load.p99_ms:.1f} ms")
    report.append(table, side, "rate", "requests/s", load.rps)
    report.append(table, side, "p50", "ms", load.p50_ms)
    report.append(table, side, "p99", "ms", load.p99_ms)
    report.append(table, side, "failures", "requests", load.failures)
    report.append_cpu(f"{table}, CPU meanwhile", f"measuring {side}", usage)
    if load.failures:
        report.faults.append(f"{side}: {load.failures} requests failed")


@contextmanager
def plain_server(config: Path, folder: Path) -> Iterator[str]:
    """Run plain uvicorn with the config's settings on the database in `folder`; yield its URL."""
    settings = UsersSettings.model_validate(application_of(config, "users").get("args") or {})
    port = free_port()
    command = [sys.executable, "-m", "tests.benchmarks.plain_users_server", str(port), settings.model_dump_json()]
    target = Target(name="plain", url=f"http://127.0.0.1:{port}", ready=["/ready"], ready_timeout_s=PLAIN_START_S)
    with running_child(command, env=service_environment(folder)):
        RunningTarget(target, None, folder / "plain.log").wait_until_ready()
        yield target.urls[0]


def check_same_answer(urls: dict[str, str]) -> None:
    """Raise RuntimeError unless all URLs answer 200 with the same body."""
    answers = [httpx.get(url, trust_env=False) for url in urls.values()]
    if any(answer.status_code != httpx.codes.OK or answer.content != answers[0].content for answer in answers):
        raise RuntimeError(f"different answers: {[(answer.status_code, answer.text[:100]) for answer in answers]}")


if __name__ == "__main__":
    run(main)
