"""A thousand jobs over HTTP to configs/two_replicas.yaml, while replicas and Redis are killed with SIGKILL.

Redis has its append-only file on, with fsync for every answer. Random weights unless --weights says otherwise: what is
shown does not depend on them. Exit code 0 when every job ended exactly once with the right results and nothing is left.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from loadtest.load.pictures import PicturePool
from loadtest.machine.environment import read_environment
from tests.benchmarks.report import command_line, progress, run
from tests.job_faults import Account, Plan, alternate, describe, make_uploads, run_jobs
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.service import adapted, launcher, own_environment, service, write_config

POOL = 20


def main() -> int:
    parser = command_line("durable_jobs", __doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--replica-kills", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--redis-kills", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--every-s", type=float, default=8, help="between two faults (default: %(default)s)")
    parser.add_argument("--submit-per-s", type=float, default=14, help="(default: %(default)s)")
    parser.add_argument(
        "--limit-s", type=float, default=600, help="longest wait for the last job (default: %(default)s)"
    )
    parser.add_argument("--weights", default="random", help="(default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="durable-jobs-") as name:
        account = measure(Path(name), arguments)
    rows = describe(account)
    width = max(len(row) for row, _ in rows)
    print("\n".join(f"{row:<{width}}  {value}" for row, value in rows))
    if arguments.json:
        told = {"environment": read_environment().model_dump(), "account": vars(account), "is_clean": account.is_clean}
        arguments.json.write_text(json.dumps(told, indent=1, default=vars), encoding="utf-8")
    print("CLEAN" if account.is_clean else "NOT CLEAN")
    return 0 if account.is_clean else 1


def measure(folder: Path, arguments: argparse.Namespace) -> Account:
    """Start Redis and the service, run the jobs, stop both."""
    redis = RedisServer(folder, "--appendonly", "yes", "--appendfsync", "always")
    try:
        port = free_port()
        bounds = {"max_waiting": 2 * arguments.jobs}
        config = adapted("two_replicas.yaml", port=port, model_args={"weights": arguments.weights, "jobs": bounds})
        environment = own_environment(folder) | {"REDIS_URL": redis.url}
        with service(launcher(write_config(folder, config)), environment, folder, port) as running:
            progress("starting the service")
            running.wait_until_ready()
            uploads = make_uploads(arguments.jobs, PicturePool(POOL).next_picture)
            progress(f"{arguments.jobs} jobs")
            faults = alternate(arguments.replica_kills, arguments.redis_kills)
            plan = Plan(faults, arguments.every_s, arguments.limit_s, arguments.submit_per_s)
            account = asyncio.run(run_jobs(running, redis, uploads, plan))
            progress("stopping the service")
            began_s = time.monotonic()
            running.stop()
            progress(f"stopped after {time.monotonic() - began_s:.1f} s")
            return account
    finally:
        redis.close()


if __name__ == "__main__":
    sys.exit(run(main))
