"""Turns a run folder into the figures of its report. Called by the command line; writes nothing.

What a cell lacks makes that cell INVALID with a reason; only plan.json and run.json must be there.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import fsum
from pathlib import Path, PurePath
from statistics import mean
from typing import Any

import numpy as np

from loadtest.errors import BadInputError
from loadtest.figures.accuracy import compute_evaluations
from loadtest.figures.baseline import read_baseline
from loadtest.figures.caching import name_cache
from loadtest.figures.counters import read_counters
from loadtest.figures.figures import (
    CellFigures,
    CounterFigures,
    EndpointFigures,
    Facts,
    Figures,
    GeneratorFigures,
    Loss,
    PointFigures,
    Reason,
    TargetFacts,
    Traffic,
)
from loadtest.figures.generators import compute_generators, compute_late_percent, pool_generators, seconds_of
from loadtest.figures.level import Cores
from loadtest.figures.roles import compute_roles
from loadtest.figures.scrubbing import without_host, without_local_paths
from loadtest.figures.traffic import (
    Requests,
    Window,
    collect_requests,
    compute_stages,
    compute_traffic,
    count_answers,
    count_under_way,
    pool_requests,
)
from loadtest.plan.plan import Plan
from loadtest.plan.targets import Target
from loadtest.rows.columns import GeneratorRow, RequestRow, ResourceRow, Row, read_rows
from loadtest.rows.run_folder import Cell, CellRecord, Moments, RunFolder, RunRecord
from loadtest.verdict.bottleneck import add_bottlenecks
from loadtest.verdict.comparison import compare_levels
from loadtest.verdict.differences import Repetition
from loadtest.verdict.findings import conclude
from loadtest.verdict.loss import find_level_loss, find_loss
from loadtest.verdict.objectives import check_limit
from loadtest.verdict.validity import (
    Evidence,
    find_load_reasons,
    find_notes,
    find_steady_reasons,
)


@dataclass
class _Measured:
    """One cell as its files tell it."""

    cell: Cell
    record: CellRecord | None = None
    steady: Window | None = None
    whole_run: Window | None = None
    requests: Requests | None = None
    generator: list[GeneratorRow] = field(default_factory=list)
    generators: list[GeneratorFigures] = field(default_factory=list)
    resources: list[ResourceRow] = field(default_factory=list)
    counters: list[CounterFigures] = field(default_factory=list)
    hit_percent: float | None = None
    reasons: list[Reason] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def loss(self) -> Loss | None:
        """Return how the target failed, where it alone is why the cell is not valid."""
        return find_loss(self.reasons, self.requests, self.steady)

    def steady_resources(self) -> list[ResourceRow]:
        """Return the resource samples of the steady window."""
        return [row for row in self.resources if self.steady and self.steady.holds(row.unix_s)]

    def steady_seconds(self) -> list[GeneratorRow]:
        """Return what the load generators tell of the steady window; nothing without such a window."""
        return seconds_of(self.generator, self.steady) if self.steady else []


def summarize(folder: RunFolder) -> Figures:
    """Return all figures of a run. Raises BadInputError when plan, run record or baseline cannot be read."""
    plan, record, measured = _read_run(folder)
    cells = [_cell_figures(plan, one) for one in measured]
    valid = [one for one, cell in zip(measured, cells, strict=True) if cell.valid]
    points = [_point(plan, target, users, valid) for target in plan.targets for users in plan.users]
    points, cells = add_bottlenecks(plan.workload, _cores(record), points, cells, plan.targets)
    targets = [_facts(target, measured, record) for target in plan.targets]
    known = bool(plan.baseline) and folder.baseline_path.is_file()
    facts = Facts(
        title=plan.title,
        source="run folder",
        machine=_machine(plan, record),
        dates=sorted({_day(one.record.began_unix_s) for one in measured if one.record}),
        test=_test(plan, record),
        targets=targets,
        endpoints=list(plan.workload.endpoints),
        baseline=read_baseline(folder.baseline_path, plan.targets) if known else None,
        points=points,
        cells=cells,
        comparisons=compare_levels(plan.users, targets, list(plan.workload.endpoints), _repetitions(valid)),
    )
    return conclude(without_local_paths(facts))


@dataclass(frozen=True)
class RunData:
    """What a run measured, by target and users."""

    repetitions: dict[tuple[str, int], list[Repetition]]
    """Of valid cells."""
    losses: dict[tuple[str, int], Loss]
    """Where the target alone is why no cell is valid."""


def read_run_data(folder: RunFolder) -> RunData:
    """Return what the cells of a run measured. Raises BadInputError."""
    found: dict[tuple[str, int], list[Loss | None]] = defaultdict(list)
    measured = _read_run(folder)[2]
    for one in measured:
        found[one.cell.target, one.cell.users].append(one.loss)
    return RunData(
        _repetitions([one for one in measured if not one.reasons]),
        {place: loss for place, losses in found.items() if (loss := find_level_loss(losses))},
    )


def _read_run(folder: RunFolder) -> tuple[Plan, RunRecord, list[_Measured]]:
    plan, record = folder.read_plan(), folder.read_record()
    return plan, record, [_read_cell(folder, plan, cell) for cell in record.order]


def _read_cell(folder: RunFolder, plan: Plan, cell: Cell) -> _Measured:
    measured = _Measured(cell)
    try:
        measured.record = record = folder.read_cell(cell)
    except BadInputError:
        measured.reasons.append(Reason("cell.json is not what the kit writes", "unreadable"))
        return measured
    if record is None:
        measured.reasons.append(Reason("not measured yet", "not_measured"))
        return measured
    measured.notes.extend(record.notes)
    if record.status == "failed" or record.moments is None:
        measured.reasons.extend(find_load_reasons(plan, record, []))
    else:
        _read_load(measured, plan, record, record.moments, folder.cell_path(cell))
    return measured


def _read_load(measured: _Measured, plan: Plan, record: CellRecord, moments: Moments, path: Path) -> None:
    measured.whole_run = Window(moments.started_unix_s, moments.stopping_unix_s)
    measured.steady = steady = _steady_window(plan, moments)
    measured.generator = _rows(path / "generator.csv", GeneratorRow, measured.reasons) or []
    measured.resources = _rows(path / "resources.csv", ResourceRow, measured.reasons) or []
    if plan.metrics is not None:
        measured.counters, measured.hit_percent = read_counters(plan.metrics, path, measured.notes)
    measured.reasons.extend(find_load_reasons(plan, record, measured.generator))
    rows = _rows(path / "requests.csv", RequestRow, measured.reasons)
    if rows is not None:
        measured.requests = collect_requests(rows)
        measured.notes.extend(_unknown_endpoints(plan, rows))
        if steady:
            sent = Counter(row.generator for row in rows if steady.holds(row.start_unix_s))
            seconds = measured.steady_seconds()
            measured.generators = compute_generators(moments.clocks, seconds, sent, steady.length_s)
            evidence = _evidence(plan, record, steady, measured, rows)
            measured.reasons.extend(find_steady_reasons(plan, evidence))
            measured.notes.extend(find_notes(plan, evidence))


def _steady_window(plan: Plan, moments: Moments) -> Window | None:
    if moments.spawned_unix_s is None:
        return None
    begin_unix_s = moments.spawned_unix_s + plan.settle_s
    return Window(begin_unix_s, moments.stopping_unix_s) if begin_unix_s < moments.stopping_unix_s else None


def _unknown_endpoints(plan: Plan, rows: list[RequestRow]) -> Iterator[str]:
    unknown = sorted({row.endpoint for row in rows} - set(plan.workload.endpoints))
    if unknown:
        yield f"requests that the plan does not name count in the totals only: {', '.join(unknown)}"


def _rows(path: Path, kind: type[Row], reasons: list[Reason]) -> list[Row] | None:
    try:
        return list(read_rows(path, kind))
    except OSError as exc:
        reasons.append(Reason(f"{path.name} cannot be read: {exc.strerror}", "unreadable"))
    except (ValueError, csv.Error) as exc:
        reasons.append(Reason(f"{path.name} is not what the kit writes: {exc}", "unreadable"))
    return None


def _evidence(
    plan: Plan, record: CellRecord, window: Window, measured: _Measured, rows: Sequence[RequestRow]
) -> Evidence:
    requests = measured.requests
    assert requests is not None, "made of these rows"
    sent = requests.sent_in(window)
    failed = [row for row in rows if row.error and window.holds(row.start_unix_s)]
    return Evidence(
        record=record,
        window_s=window.length_s,
        steady=compute_traffic(sent, window.length_s),
        endpoints={name: compute_traffic(sent.of(name), window.length_s) for name in plan.workload.endpoints},
        latencies_ms=sent.latency_ms[~np.isnan(sent.latency_ms)],
        errors={
            name: Counter((row.status, row.error) for row in failed if row.endpoint == name)
            for name in plan.workload.endpoints
        },
        names=Counter(row.endpoint for row in rows),
        under_way=count_under_way(requests, window),
        answers=count_answers(requests, window),
        generator=measured.steady_seconds(),
        generators=measured.generators,
        resources=measured.steady_resources(),
    )


def _cell_figures(plan: Plan, measured: _Measured) -> CellFigures:
    record = measured.record
    figures = _figures(plan, [measured])
    arrivals = record.moments.arrivals if record and record.moments else None
    limits = plan.limits if record and record.status == "finished" else []
    return CellFigures(
        target=measured.cell.target,
        users=measured.cell.users,
        repetition=measured.cell.repetition,
        valid=not measured.reasons,
        reasons=[Reason(without_host(reason), reason.code) for reason in measured.reasons],
        loss=measured.loss,
        notes=[without_host(note) for note in measured.notes],
        whole_run_s=_shown_s(_length_s([measured], "whole_run")),
        ready_after_s=record and record.ready_after_s,
        replicas_asked=record and record.replicas_asked,
        replicas_found=record and record.replicas_found,
        seed=record and record.seed,
        arrivals_due=arrivals and arrivals.due,
        arrivals_queued=arrivals and arrivals.queued,
        arrivals_unsent=arrivals and arrivals.unsent,
        counters=measured.counters,
        hit_percent=measured.hit_percent,
        metrics_after_s=record and record.metrics_after_s,
        limits=[
            check_limit(limit, figures["scheduled"] or figures["steady"], figures["endpoints"]) for limit in limits
        ],
        **figures,
    )


def _point(plan: Plan, target: Target, users: int, valid: list[_Measured]) -> PointFigures:
    pooled = [one for one in valid if (one.cell.target, one.cell.users) == (target.name, users)]
    mean_wait_s = plan.workload.mean_wait_s
    return PointFigures(
        target=target.name,
        users=users,
        repetitions=len(pooled),
        think_time_limit_rps=round(users / mean_wait_s, 4) if mean_wait_s else None,
        **_figures(plan, pooled),
    )


def _figures(plan: Plan, measured: Sequence[_Measured]) -> dict[str, Any]:
    """Return what figures of a cell and of a point have in common, of the requests of all these cells together."""
    steady, whole_run, scheduled = _pool(measured, "steady"), _pool(measured, "whole_run"), _pool_scheduled(measured)
    names = plan.workload.endpoints if steady and whole_run else ()
    resources = [row for one in measured for row in one.steady_resources()]
    return {
        "steady_window_s": _shown_s(_length_s(measured, "steady")),
        "steady": steady and steady.traffic(),
        "whole_run": whole_run and whole_run.traffic(),
        "scheduled": scheduled and scheduled.traffic(),
        "endpoints": [_endpoint(name, steady, whole_run, scheduled) for name in names if steady and whole_run],
        "roles": compute_roles([role.name for role in plan.roles], resources),
        "generator_late_percent": _late_percent(measured),
        "generators": pool_generators([one.generators for one in measured]),
    }


@dataclass(frozen=True)
class _Pool:
    """Requests that were sent in one span of each of several cells."""

    requests: Requests
    length_s: float
    """Of all spans together."""

    def traffic(self, endpoint: str | None = None) -> Traffic:
        """Return the figures of one endpoint, or of all together."""
        return compute_traffic(self.requests if endpoint is None else self.requests.of(endpoint), self.length_s)


def _pool(measured: Sequence[_Measured], span: str, *, by_schedule: bool = False) -> _Pool | None:
    """Return the requests sent in the windows `span`; None where no cell has requests and that window."""
    parts = [
        (one.requests.from_schedule() if by_schedule else one.requests).sent_in(window)
        for one in measured
        if one.requests is not None and (window := getattr(one, span)) is not None
    ]
    length_s = _length_s(measured, span)
    return None if length_s is None or not parts else _Pool(pool_requests(parts), length_s)


def _pool_scheduled(measured: Sequence[_Measured]) -> _Pool | None:
    """Return the requests due in the steady windows, by the times scheduled; None in a closed loop."""
    pool = _pool(measured, "steady", by_schedule=True)
    return None if pool is None or np.isnan(pool.requests.scheduled_unix_s).all() else pool


def _length_s(measured: Sequence[_Measured], span: str) -> float | None:
    windows: list[Window] = [window for one in measured if (window := getattr(one, span)) is not None]
    return fsum(window.length_s for window in windows) if windows else None


def _shown_s(length_s: float | None) -> float | None:
    return length_s and round(length_s, 4)


def _endpoint(name: str, steady: _Pool, whole_run: _Pool, scheduled: _Pool | None) -> EndpointFigures:
    traffic, stages = steady.traffic(name), compute_stages(steady.requests.of(name))
    unexplained_ms = None
    if stages and traffic.avg_ms is not None:
        unexplained_ms = round(traffic.avg_ms - fsum(stage.avg_ms for stage in stages), 4)
    return EndpointFigures(
        endpoint=name,
        steady=traffic,
        whole_run=whole_run.traffic(name),
        scheduled=scheduled and scheduled.traffic(name),
        stages=stages,
        unexplained_ms=unexplained_ms,
    )


def _late_percent(measured: Sequence[_Measured]) -> float | None:
    """Return for how much of the time the generator was late, the mean of several cells."""
    known = [compute_late_percent(one.steady_seconds(), one.steady.length_s) for one in measured if one.steady]
    return round(mean(known), 4) if known else None


def _cores(record: RunRecord) -> Cores:
    """Return the cores of the first start."""
    if not record.sessions:
        return Cores(1)
    environment = record.sessions[0].environment
    return Cores(environment.cores, environment.usable_cores)


def _repetitions(valid: list[_Measured]) -> dict[tuple[str, int], list[Repetition]]:
    """Return what the valid cells measured in their steady windows, by target and users."""
    repetitions: dict[tuple[str, int], list[Repetition]] = {}
    for one in valid:
        if one.requests is not None and one.steady is not None:
            sent = Repetition(one.steady, one.requests.from_schedule().sent_in(one.steady))
            repetitions.setdefault((one.cell.target, one.cell.users), []).append(sent)
    return repetitions


def _facts(target: Target, measured: list[_Measured], run: RunRecord) -> TargetFacts:
    records = [one.record for one in measured if one.record and one.cell.target == target.name]
    about: dict[str, Any] = next((record.about for record in records if record.about), {})
    return TargetFacts(
        name=target.name,
        title=target.title,
        replicas=target.replicas.count if target.replicas else None,
        about=about,
        cache=name_cache(about),
        cached=target.cached,
        evaluations=compute_evaluations(run.evaluations.get(target.name, []), [record.about for record in records]),
    )


def _machine(plan: Plan, record: RunRecord) -> dict[str, Any] | None:
    """Return the machine of the first start, and in what the others differed from it."""
    if not record.sessions:
        return None
    first, *others = [session.environment.model_dump() for session in record.sessions]
    differing = sorted({key for other in others for key in first if other[key] != first[key]})
    versions = {_package(name): version for name, version in first["packages"].items()}
    named = sorted({*plan.packages, "locust"})
    return {**first, "packages": {name: versions.get(_package(name)) for name in named}, "differing": differing}


def _package(name: str) -> str:
    """Return a package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _test(plan: Plan, record: RunRecord) -> dict[str, Any]:
    raw = plan.model_dump(mode="json")
    workload = {**raw["workload"], "locustfile": PurePath(plan.workload.locustfile).name}
    kept = (
        "users",
        "spawn_rate_per_s",
        "duration_s",
        "settle_s",
        "drain_s",
        "warmup",
        "repetitions",
        "limits",
        "most_other_cpu_percent",
        "most_stolen_cpu_percent",
        "most_generator_late_percent",
    )
    several = {one.name: [*map(without_host, one.urls)] for one in plan.targets if len(one.urls) > 1}
    urls = {"urls": several} if several else {}
    generators = {"generators": {"processes": plan.generators}} if plan.has_several_generators else {}
    return {
        **{key: raw[key] for key in kept},
        **generators,
        **urls,
        "seed": record.seed,
        "workload": workload,
        "order": [cell.id for cell in record.order],
        "start": {target.name: target.start for target in plan.targets},
    }


def _day(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).date().isoformat()
