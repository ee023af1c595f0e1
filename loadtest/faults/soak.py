"""The figures of a soak, computed from the raw folder: soak.json."""

from collections import Counter, defaultdict

from pydantic import BaseModel

from loadtest.errors import BadInputError
from loadtest.faults.fault_plan import SoakPlan
from loadtest.faults.figures import FaultFigures, Seen, figures_of, find_failed_before, find_lost, untested
from loadtest.faults.folder import SOAK, FaultFolder, StretchRecord
from loadtest.faults.slope import Point, means, slope_within_lives
from loadtest.plan.targets import KIT_ROLES
from loadtest.rows.columns import ProcessRow, RequestRow, ResourceRow
from loadtest.rows.run_folder import Environment
from loadtest.statistics.percentiles import percentile

MEAN_S = 10.0
YOUNG_S = 30.0
"""A life's first seconds, in which a process loads what it needs: no slope is taken from them."""
_MB_PER_H = 3600 / 1e6


class MemoryFigures(BaseModel):
    """Memory of one role's processes together, MB (10⁶ bytes)."""

    role: str
    first_mb: float
    last_mb: float
    slope_mb_per_h: float | None
    low_mb_per_h: float | None
    high_mb_per_h: float | None
    least_squares_mb_per_h: float | None
    least_squares_error_mb_per_h: float | None
    lives: int
    """Stretches between two replacements of a process that were long enough to be looked at."""


class DriftFigures(BaseModel):
    """Latencies of one kind of request in the first and the last quarter of the soak."""

    endpoint: str
    requests: int
    failed: int
    errors: dict[str, int]
    first_median_ms: float | None
    last_median_ms: float | None
    first_p95_ms: float | None
    last_p95_ms: float | None
    longest_ms: float | None


class SoakFigures(BaseModel):
    """The figures of a soak."""

    title: str
    users: int
    minutes: float
    environment: Environment
    status: str
    reason: str | None
    endpoints: list[DriftFigures] = []
    memory: list[MemoryFigures] = []
    faults: list[FaultFigures] = []
    missed: list[str] = []

    @property
    def all_hold(self) -> bool:
        """Return whether the soak went to its end and stayed within its limits."""
        return self.status == "finished" and not self.missed


def read_soak(folder: FaultFolder) -> SoakFigures:
    """Return the figures of a folder. Raises BadInputError, OSError and ValueError."""
    plan, record = folder.read_plan(SoakPlan), folder.read_record(SOAK)
    if record is None:
        raise BadInputError(f"{folder.path}: the soak has not finished; run it again")
    figures = SoakFigures(
        title=plan.title,
        users=plan.users,
        minutes=plan.minutes,
        environment=folder.read_environment(),
        status=record.status,
        reason=record.reason,
    )
    if record.status != "finished":
        return figures
    rows, processes = folder.read_requests(SOAK), folder.read_processes(SOAK)
    figures.faults = _faults(plan, record, Seen(plan, record, rows, processes))
    began, ended = record.complete_unix_s or 0.0, record.stopping_unix_s or 0.0
    figures.endpoints = [_drift(name, rows, began, ended) for name in plan.workload.endpoints]
    figures.memory = list(memory_of(folder.read_resources(SOAK), processes, began + plan.warmup_s, ended))
    figures.missed = [f"{fault.title}: {miss}" for fault in figures.faults for miss in fault.missed]
    figures.missed += [f"{fault.title}: {fault.reason}" for fault in figures.faults if fault.reason]
    figures.missed += find_failed_before(rows, record) + find_lost(plan, record)
    return figures


def _faults(plan: SoakPlan, record: StretchRecord, seen: Seen) -> list[FaultFigures]:
    known = {fault.name: fault for fault in plan.faults}
    events = record.events
    found = []
    for index, event in enumerate(events):
        fault = known[event.fault]
        figures = FaultFigures(name=fault.name, title=fault.label, group=SOAK, status="finished", reason=event.reason)
        if event.reason:
            figures.status = "failed"
        until = next((later.began_unix_s for later in events[index + 1 :] if later.began_unix_s), None)
        if event.began_unix_s:
            figures = figures_of(figures, fault, seen, event, until)
            figures.missed += untested(figures, seen)
        found.append(figures)
    return found


def _drift(name: str, rows: list[RequestRow], began_unix_s: float, ended_unix_s: float) -> DriftFigures:
    mine = [row for row in rows if row.endpoint == name]
    quarter_s = (ended_unix_s - began_unix_s) / 4
    first = [row.latency_ms for row in mine if began_unix_s <= row.start_unix_s < began_unix_s + quarter_s]
    last = [row.latency_ms for row in mine if ended_unix_s - quarter_s <= row.start_unix_s < ended_unix_s]
    errors = Counter(row.error for row in mine if row.error)
    return DriftFigures(
        endpoint=name,
        requests=len(mine),
        failed=errors.total(),
        errors=dict(errors.most_common()),
        first_median_ms=percentile(first, 0.5),
        last_median_ms=percentile(last, 0.5),
        first_p95_ms=percentile(first, 0.95),
        last_p95_ms=percentile(last, 0.95),
        longest_ms=percentile([row.latency_ms for row in mine], 1),
    )


def memory_of(
    resources: list[ResourceRow], processes: list[ProcessRow], began_unix_s: float, ended_unix_s: float
) -> list[MemoryFigures]:
    """Return the growth of each role of the target between two moments."""
    by_role: dict[str, list[ResourceRow]] = defaultdict(list)
    for row in resources:
        if row.role not in KIT_ROLES and began_unix_s <= row.unix_s < ended_unix_s:
            by_role[row.role].append(row)
    return [
        _growth(role, rows, [row for row in processes if row.role == role]) for role, rows in sorted(by_role.items())
    ]


def _growth(role: str, rows: list[ResourceRow], processes: list[ProcessRow]) -> MemoryFigures:
    changes = [row.unix_s for row in processes]
    points = []
    for row in rows:
        life = sum(change <= row.unix_s for change in changes)
        if life == 0 or row.unix_s - changes[life - 1] >= YOUNG_S:
            points.append(Point(row.unix_s, row.rss_bytes, life))
    slope = slope_within_lives(means(points, MEAN_S))
    return MemoryFigures(
        role=role,
        first_mb=round(rows[0].rss_bytes / 1e6, 1),
        last_mb=round(rows[-1].rss_bytes / 1e6, 1),
        slope_mb_per_h=slope and slope.per_s * _MB_PER_H,
        low_mb_per_h=slope and slope.low_per_s * _MB_PER_H,
        high_mb_per_h=slope and slope.high_per_s * _MB_PER_H,
        least_squares_mb_per_h=slope and slope.least_squares_per_s * _MB_PER_H,
        least_squares_error_mb_per_h=slope and slope.least_squares_error_per_s * _MB_PER_H,
        lives=len({point.life for point in points}),
    )
