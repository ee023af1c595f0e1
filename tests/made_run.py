"""A made run folder: what a run would have left behind, with a load that is computed instead of measured.

    python -m tests.made_run FOLDER

Written through the kit's own classes, so that it is read like a real one; the same call gives the same bytes.
`change` may spoil any cell before it is written.
"""

import random
import shutil
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from loadtest.plan.plan import Plan
from loadtest.rows.columns import GeneratorRow, RequestRow, ResourceRow, RowWriter
from loadtest.rows.evaluation import read_evaluations
from loadtest.rows.run_folder import Cell, CellRecord, Environment, Moments, RunFolder, RunRecord, Session

BASELINE = Path(__file__).parents[1] / "configs/stress/baselines/published_2026.yaml"
BEGAN_UNIX_S = 1_768_471_200.0  # 2026-01-15, 10:00 UTC
GIB = 2**30
MIB = 2**20

# Processes, CPU percent at 100 users, RSS and threads of each role, by target.
ROLES = {
    "one_replica": {
        "load_generator": (1, 9.0, 95 * MIB, 4),
        "kit": (1, 2.0, 110 * MIB, 6),
        "classifier": (1, 140.0, 1 * GIB, 48),
        "users": (1, 12.0, 190 * MIB, 30),
        "ingress": (1, 4.0, 60 * MIB, 2),
        "target_other": (6, 7.0, 900 * MIB, 160),
        "machine": (140, 178.0, 5 * GIB, 900),
        "stolen": (0, 7.0, 0, 0),
    },
    "two_replicas": {
        "load_generator": (1, 9.0, 95 * MIB, 4),
        "kit": (1, 2.0, 110 * MIB, 6),
        "classifier": (2, 152.0, 2 * GIB, 92),
        "users": (1, 12.0, 190 * MIB, 30),
        "ingress": (1, 4.0, 60 * MIB, 2),
        "target_other": (6, 7.0, 900 * MIB, 160),
        "machine": (141, 190.0, 6 * GIB, 940),
        "stolen": (0, 7.0, 0, 0),
    },
}
# Median latency of a predict and of a lookup with no other user, and by how much they grow towards 100 users.
LATENCIES_MS = {"one_replica": ((62.0, 5.2), (3.4, 1.8)), "two_replicas": ((84.0, 1.6), (3.5, 1.5))}
FAILED_SHARE = {"one_replica": 0.05, "two_replicas": 0.0}  # of the predicts at 100 users
STAGES = (("upload", 0.01), ("decode", 0.08), ("queue", 0.3), ("inference", 0.55), ("answer", 0.004))


@dataclass
class MadeCell:
    """One cell before it is written; a test changes what it likes."""

    record: CellRecord
    requests: list[RequestRow]
    generator: list[GeneratorRow]
    resources: list[ResourceRow]
    before: str = ""
    after: str = ""


def made_plan(**changes: Any) -> Plan:
    """Return a plan of two targets at four numbers of users, with `changes` for its keys."""
    return Plan.model_validate(
        {
            "title": "ResNet50 service, 1 vs 2 classifier replicas",
            "targets": [made_target("one_replica", 1), made_target("two_replicas", 2)],
            "users": [10, 25, 50, 100],
            "spawn_rate_per_s": 10,
            "duration_s": 60,
            "settle_s": 5,
            "warmup": {"users": 5, "duration_s": 10},
            "seed": 7,
            "workload": {
                "locustfile": "loadtest/locustfile.py",
                "endpoints": {
                    "predict": {"request": "POST /model/predict", "weight": 1},
                    "lookup": {"request": "GET /user/", "weight": 2},
                },
                "wait_s": [1, 5],
                "options": {"picture-pool": 32, "pictures": "distinct"},
            },
            "roles": [
                {"name": "classifier", "command": "ServeReplica:model"},
                {"name": "users", "command": "ServeReplica:users"},
                {"name": "ingress", "command": "haproxy"},
            ],
            "metrics": {
                "discovery": "prom_metrics_service_discovery.json",
                "keep": "^ray_serve",
                "counters": [
                    {"name": "ray_serve_num_http_requests_total", "by": ["route", "status_code"]},
                    {"name": "ray_serve_deployment_replica_starts_total"},
                ],
            },
            "limits": ["failures_percent <= 0", "predict.p95_ms <= 1000", "lookup.p95_ms <= 50"],
            "baseline": "baselines/published_2026.yaml",
            "packages": ["ray", "tensorflow"],
            **changes,
        }
    )


def made_target(name: str, replicas: int | None) -> dict[str, Any]:
    """Return a target as a plan states it."""
    return {
        "name": name,
        "label": {1: "1 replica", 2: "2 replicas"}.get(replicas or 0, ""),
        "start": f"{{python}} -m serve_app configs/{name}.yaml",
        "url": "http://127.0.0.1:8000",
        "ready": ["/user/ready", "/model/ready"],
        "replicas": None if replicas is None else {"role": "classifier", "count": replicas},
        "about": ["/model/"],
    }


def write_made_run(folder: Path, plan: Plan | None = None, change: Callable[[MadeCell], object] | None = None) -> Path:
    """Write a run of `plan` (`made_plan()` if None) into `folder` and return it."""
    plan = plan or made_plan()
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run.write_plan(plan)
    order = [
        Cell(target=target.name, users=users, repetition=repetition)
        for repetition in range(1, plan.repetitions + 1)
        for users in plan.users
        for target in plan.targets
    ]
    run.write_record(
        RunRecord(
            seed=plan.seed,
            order=order,
            sessions=[_session(plan)],
            evaluations=read_evaluations(plan.targets),
        )
    )
    if plan.baseline:
        shutil.copyfile(BASELINE, run.baseline_path)
    for number, cell in enumerate(order):
        made = made_cell(plan, cell, BEGAN_UNIX_S + number * (plan.duration_s + 40))
        if change:
            change(made)
        write_made_cell(run, made)
    return folder


def made_cell(plan: Plan, cell: Cell, began_unix_s: float) -> MadeCell:
    """Return what one cell would leave behind: users who send, wait for the answer and think, one by one."""
    made = _made_cell(plan.model_dump_json(), cell, began_unix_s)
    return replace(
        made,
        record=made.record.model_copy(deep=True),
        requests=[*made.requests],
        generator=[*made.generator],
        resources=[*made.resources],
    )


@lru_cache(maxsize=64)
def _made_cell(plan_json: str, cell: Cell, began_unix_s: float) -> MadeCell:
    plan = Plan.model_validate_json(plan_json)
    rng = random.Random(f"{plan.seed} {cell.id}")
    started_s = began_unix_s + 15
    moments = Moments(
        started_unix_s=started_s,
        spawned_unix_s=started_s + cell.users / plan.spawn_rate_per_s,
        stopping_unix_s=started_s + plan.duration_s,
        stopped_unix_s=started_s + plan.duration_s + 1.5,
    )
    requests = [row for user in range(cell.users) for row in _requests_of_user(plan, cell, moments, (rng, user))]
    requests.sort(key=lambda row: row.start_unix_s + row.latency_ms / 1000)
    before, after = (_exported(requests, counted=counted) for counted in (False, True))
    return MadeCell(
        record=_record(plan, cell, moments, rng),
        requests=requests,
        generator=list(_generator_rows(plan, cell, requests, moments)),
        resources=list(_resource_rows(plan, cell, moments, rng)),
        before=before,
        after=after,
    )


def write_made_cell(run: RunFolder, made: MadeCell) -> None:
    """Write the files of one cell, cell.json last."""
    folder = run.cell_path(made.record.cell)
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, rows in (
        ("requests.csv", RequestRow, made.requests),
        ("generator.csv", GeneratorRow, made.generator),
        ("resources.csv", ResourceRow, made.resources),
    ):
        moments = made.record.moments
        writer = RowWriter(folder / name, kind, of_several=bool(moments and moments.clocks))
        for row in rows:
            writer.write(row)
        writer.close()
    (folder / "metrics_before.prom").write_text(made.before, encoding="utf-8")
    (folder / "metrics_after.prom").write_text(made.after, encoding="utf-8")
    run.write_cell(made.record)


def _session(plan: Plan) -> Session:
    versions = {"locust": "2.47.0", "ray": "2.60.0", "tensorflow": "2.20.0", "numpy": "2.4.6"}
    return Session(
        started_unix_s=BEGAN_UNIX_S - 2,
        environment=Environment(
            cpu_model="Made CPU @ 2.60GHz",
            cores=2,
            ram_bytes=8 * GIB,
            os="Linux 6.1",
            python="3.11.9",
            packages={name: versions[name] for name in sorted({"locust", "numpy", *plan.packages})},
            git_commit="0123456789abcdef0123456789abcdef01234567",
        ),
    )


def _record(plan: Plan, cell: Cell, moments: Moments, rng: random.Random) -> CellRecord:
    replicas = next(target.replicas for target in plan.targets if target.name == cell.target)
    return CellRecord(
        cell=cell,
        status="finished",
        seed=rng.randrange(2**31),
        began_unix_s=moments.started_unix_s - 15,
        ended_unix_s=moments.stopped_unix_s + 12,
        ready_after_s=13.5,
        stopped_after_s=4.25,
        replicas_asked=replicas and replicas.count,
        replicas_found=replicas and replicas.count,
        moments=moments,
        metrics_after_s=10.0,
        about={"/model/": {"name": "resnet50", "engine": "tensorflow", "precision": "float32", "weights": "random"}},
    )


def _requests_of_user(
    plan: Plan, cell: Cell, moments: Moments, chance: tuple[random.Random, int]
) -> Iterator[RequestRow]:
    rng, user = chance
    workload = plan.workload
    now_s = moments.started_unix_s + user / plan.spawn_rate_per_s
    endpoints, weights = [*workload.endpoints], [endpoint.weight for endpoint in workload.endpoints.values()]
    while now_s < moments.stopping_unix_s:
        (endpoint,) = rng.choices(endpoints, weights)
        row = _request(cell, endpoint, now_s, rng)
        yield row
        pause_s = rng.uniform(*workload.wait_s) if workload.wait_s else 0.0
        pace_s = 1 / workload.rate_per_user_rps if workload.rate_per_user_rps else 0.0
        now_s += max(row.latency_ms / 1000 + pause_s, pace_s)


def _request(cell: Cell, endpoint: str, start_s: float, rng: random.Random) -> RequestRow:
    load = cell.users / 100
    predict, lookup = LATENCIES_MS.get(cell.target, LATENCIES_MS["one_replica"])
    idle_ms, growth = predict if endpoint == "predict" else lookup
    latency_ms = idle_ms * (1 + growth * load**2) * rng.lognormvariate(0, 0.25 + 0.2 * load)
    failed = endpoint == "predict" and rng.random() < FAILED_SHARE.get(cell.target, 0) * (load >= 1)
    timing = ", ".join(f"{name};dur={latency_ms * share:.3f}" for name, share in STAGES)
    return RequestRow(
        start_unix_s=round(start_s, 6),
        endpoint=endpoint,
        status=503 if failed else 200,
        latency_ms=round(latency_ms, 3),
        response_bytes=420 if endpoint == "predict" else 1830,
        error="status 503" if failed else "",
        server_timing=timing if endpoint == "predict" and not failed else "",
    )


def _generator_rows(plan: Plan, cell: Cell, requests: list[RequestRow], moments: Moments) -> Iterator[GeneratorRow]:
    sent_s = sorted(row.start_unix_s for row in requests)
    failed_s = sorted(row.start_unix_s for row in requests if row.error)
    for second in range(int(plan.duration_s) + 1):
        now_s = moments.started_unix_s + second
        yield GeneratorRow(
            unix_s=now_s,
            monotonic_s=5000.0 + now_s - BEGAN_UNIX_S,
            users=min(cell.users, int(second * plan.spawn_rate_per_s) + 1),
            requests=bisect_right(sent_s, now_s),
            failures=bisect_right(failed_s, now_s),
            lag_ms=1.5 + 3 * (second % 7 == 0),
        )


def _resource_rows(plan: Plan, cell: Cell, moments: Moments, rng: random.Random) -> Iterator[ResourceRow]:
    known = ROLES.get(cell.target, ROLES["one_replica"])
    for second in range(int(plan.duration_s) + 1):
        for role, (processes, cpu_percent, rss_bytes, threads) in known.items():
            busy = 0.05 + 0.95 * min(cell.users, 100) / 100
            yield ResourceRow(
                unix_s=moments.started_unix_s + second,
                role=role,
                processes=processes,
                cpu_percent=round(cpu_percent * busy * rng.uniform(0.85, 1.15), 1),
                rss_bytes=rss_bytes + second * 4096,
                threads=threads,
            )


def _exported(requests: list[RequestRow], *, counted: bool) -> str:
    """Return what the target exports: a count of its readiness checks first, then of the load too."""
    name = "ray_serve_num_http_requests_total"
    routes = {"lookup": "/user", "predict": "/model"}
    lines = [f"# HELP {name} Requests.", f"# TYPE {name} counter"]
    lines.extend(f'{name}{{route="{route}",status_code="200",node="a"}} 3.0' for route in routes.values())
    if counted:
        lines = lines[:2]
        kinds = sorted((routes.get(row.endpoint, "/"), str(row.status)) for row in requests)
        for (route, status), group in groupby(kinds):
            count = len(list(group)) + 3 * (status == "200")
            lines.append(f'{name}{{route="{route}",status_code="{status}",node="a"}} {float(count)}')
    starts = "ray_serve_deployment_replica_starts_total"
    lines += [f"# HELP {starts} Starts.", f"# TYPE {starts} counter", f'{starts}{{deployment="Classifier"}} 1.0']
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(write_made_run(Path(sys.argv[1])))
