"""The service under a benchmark: started and taken down by the kit's own code, loaded by the kit, read by role."""

import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from loadtest.figures.figures import CellFigures
from loadtest.machine.processes import family, kill, undisturbed, wait_for_end
from loadtest.machine.resources import ResourceSampler
from loadtest.measure.runner import run_plan
from loadtest.measure.target import RunningTarget, running_target
from loadtest.plan.plan import Plan
from loadtest.plan.targets import Role, Target
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
from tests.benchmarks.report import GENERATOR, OTHERS, ROOT, progress

# Relative, as they are written into the report; every benchmark runs in the project folder.
CONFIGS = Path("configs")
SHIPPED = (CONFIGS / "one_replica.yaml", CONFIGS / "two_replicas.yaml")
START_S = 600
STOP_S = 40
CHILD_STOP_S = 10
WITH_REDIS = "{python} -m loadtest.machine.with_redis"
PLAIN = "plain-uvicorn"
BARE = "bare-engine"

_COMMANDS = {
    "HAProxyManager": "^ray::HAProxyManager",
    "fallback-ProxyActor": "^ray::ProxyActor",
    "controller": "^ray::ServeController",
    "agents": "^ray::DashboardAgent|^ray::RuntimeEnvAgent",
    "log-and-autoscaler-monitors": r"log_monitor\.py|autoscaler/_private/monitor\.py",
    "dashboard": r"dashboard/dashboard\.py|ray-dashboard-|multiprocessing\.",
    "raylet-and-GCS": "core/src/ray/raylet/raylet|gcs/gcs_server",
    "launcher": "-m serve_app",
    "HAProxy": "bin/haproxy",
    "redis": "valkey-server|redis-server|loadtest.machine.with_redis",
    PLAIN: "plain_users_server",
    BARE: "bare_engine",
}


def roles_of(config: Path) -> list[Role]:
    """Return the roles of a service's processes: one for the replicas of each application, named as it is."""
    names = [application["name"] for application in _read(config)["applications"]]
    replicas = [Role(name=name, command=f"^ray::ServeReplica:{name}:") for name in names]
    return [*replicas, *(Role(name=name, command=command) for name, command in _COMMANDS.items())]


@contextmanager
def running_service(
    config: Path, *, folder: Path, start: str = "{python}", environment: dict[str, str] | None = None
) -> Iterator[RunningTarget]:
    """Serve `config` while the block runs, with its database in `folder`; yield once every application is ready.

    `start` comes before `-m serve_app`. `environment` is set over what serve.env beside the config says. Raises
    CellFailedError when the port is in use, or when the launcher ends early.
    """
    wanted = _read(config)
    target = Target(
        name="service",
        start=f"{start} -m serve_app {config}",
        environment={**_own(folder), **(environment or {})},
        url=f"http://127.0.0.1:{wanted['http_options']['port']}",
        ready=[f"{application['route_prefix']}/ready" for application in wanted["applications"]],
        ready_timeout_s=START_S,
        stop_timeout_s=STOP_S,
    )
    running = None
    try:
        with running_target(target, folder / "service.log") as running:
            running.wait_until_ready()
            yield running
    finally:
        for note in running.notes if running else []:
            progress(note)


def check_config(config: Path, folder: Path) -> None:
    """Have the service check `config` in the environment of `running_service`. Raises RuntimeError with its faults."""
    done = subprocess.run(
        [sys.executable, "-m", "serve_app", "--check", str(config)], cwd=ROOT, env=service_environment(folder),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the service cannot start here:\n{done.stderr.strip()}")


@contextmanager
def running_child(command: list[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a helper process in a group of its own while the block runs, then end it and what it started."""
    child = subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **options)
    try:
        yield child
    finally:
        with undisturbed():
            child.terminate()
            kill(wait_for_end(family(child.pid), CHILD_STOP_S))
            child.wait()


def hear(child: "subprocess.Popen[str]") -> dict[str, float]:
    """Return the line of JSON that a helper process prints next. Raises RuntimeError if it has ended."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise RuntimeError(f"a helper process ended with code {child.wait()}")
    heard: dict[str, float] = json.loads(line)
    return heard


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder for databases, outputs and configs that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="serve-app-benchmark-") as name:
        yield Path(name)


def write_config(folder: Path, shipped: Path, variants: dict[str, dict[str, Any]]) -> Path:
    """Write the config `shipped` with an application for each variant in place of its own, and return its path.

    A variant is what it changes in the application `model`; it is served below /NAME/model, so that the kit's
    workload finds it at the URL /NAME.
    """
    config, model = _read(shipped), application_of(shipped, "model")
    config["applications"] = [
        {**model, "name": name, "route_prefix": f"/{name}/model", **changes} for name, changes in variants.items()
    ]
    path = folder / "benchmark.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def application_of(config: Path, name: str) -> dict[str, Any]:
    """Return the part of a config file that describes the application `name`."""
    found: dict[str, Any] = next(found for found in _read(config)["applications"] if found["name"] == name)
    return found


def service_environment(folder: Path) -> dict[str, str]:
    """Return this environment with a database of the benchmark's own in `folder`, and without Redis."""
    return {**os.environ, **_own(folder)}


class Rounds:
    """Rounds of predictions under the kit's load, each a run folder of its own with one cell."""

    def __init__(self, folder: Path, config: Path, *, pool: int = 64, is_repeated: bool = False) -> None:
        """Begin in `folder`; pictures are drawn from a pool, and differ in every request unless `is_repeated`."""
        self._folder = folder
        self._roles = [role.model_dump() for role in roles_of(config)]
        self._is_repeated = is_repeated
        self._options = {"picture-pool": pool, "pictures": "repeated" if is_repeated else "distinct"}
        self._count = 0

    def measure(self, url: str, *, users: int, round_s: float, warm_up_s: float = 0, pause_s: float = 0) -> CellFigures:
        """Return the figures of `users` who send pictures, each its next one `pause_s` after its last answer.

        The figures are of `round_s` seconds, after `warm_up_s` of the same load. Raises BadInputError.
        """
        self._count += 1
        folder = RunFolder(self._folder / f"round-{self._count}")
        plan = Plan.model_validate(
            {
                "title": "One round of a benchmark",
                "targets": [{"name": "service", "url": url, "ready": ["/model/ready"], "cached": self._is_repeated}],
                "users": [users],
                "spawn_rate_per_s": 1000,
                "settle_s": warm_up_s,
                "duration_s": math.ceil(warm_up_s + round_s + users / 1000),
                "warmup": {"duration_s": 0},
                "workload": {
                    "locustfile": "loadtest/locustfile.py",
                    "wait_s": [pause_s, pause_s],
                    "endpoints": {"predict": {"request": "POST /model/predict"}},
                    "options": self._options,
                },
                "roles": self._roles,
            }
        )
        run_plan(plan, Path(__file__), folder)
        (figures,) = summarize(folder).cells
        return figures


@contextmanager
def cpu_by_role(roles: Sequence[Role]) -> Iterator[dict[str, float]]:
    """Yield a dict that after the block holds each role's CPU use during it, in percent of one core.

    GENERATOR is this process with the children that ended in the block; OTHERS is the rest of the machine.
    """
    usage: dict[str, float] = {}
    sampler, ended_s, began_s = ResourceSampler(list(roles)), _ended_children_s(), time.monotonic()
    yield usage
    elapsed_s = time.monotonic() - began_s
    used = {row.role: row.cpu_percent for row in sampler.sample()}
    whole = used.pop("machine")
    used.pop("stolen")
    generator = used.pop("kit") + 100 * (_ended_children_s() - ended_s) / elapsed_s
    usage |= {**used, GENERATOR: generator, OTHERS: max(0.0, whole - sum(used.values()) - generator)}


def _ended_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _own(folder: Path) -> dict[str, str]:
    found = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"DATABASE_URL": "", "REDIS_URL": "", "SERVE_APP_DATA_DIR": str(folder), "PYTHONPATH": found}


def _read(config: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    return found
