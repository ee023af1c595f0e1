"""The figures of each fault, computed from the raw folder: faults.json."""

import math
import re
from collections import Counter
from typing import Literal

from pydantic import BaseModel, Field

from loadtest.faults.fault_plan import Fault, FaultLoad, FaultPlan, MayFail
from loadtest.faults.folder import Event, FaultFolder, StretchRecord
from loadtest.faults.process_watch import count_roles
from loadtest.faults.recovery import calm_after_s, processes_back_after_s, usual_limits_ms
from loadtest.rows.columns import ProcessRow, RequestRow
from loadtest.rows.run_folder import Environment
from loadtest.statistics.percentiles import percentile
from loadtest.verdict.validity import find_missing_answers, find_unsent

_MOST_SEEN = 8
_CHANGES = {"came": "started", "gone": "ended"}
_P95 = 0.95


class EndpointFigures(BaseModel):
    """One endpoint from the fault on, with the requests in progress when it began."""

    endpoint: str
    requests: int
    failed: int
    failed_under_way: int
    """Of the failed ones, those that had been sent before the fault."""
    errors: dict[str, int]
    longest_ms: float | None
    longest_failed_ms: float | None
    quiet_p95_ms: float | None
    """In the quiet period before the fault."""


class FaultFigures(BaseModel):
    """The figures of one fault."""

    name: str
    title: str
    group: str
    status: Literal["finished", "failed", "skipped", "not run"]
    reason: str | None = None
    struck: list[str] = []
    lasted_s: float | None = None
    watched_s: float = 0
    """From the fault to the end of the load, or to the next fault."""
    endpoints: list[EndpointFigures] = []
    recovered_after_s: float | None = None
    """None when not within watched_s."""
    processes_back_after_s: float | None = None
    seen: list[str] = []
    missed: list[str] = []
    """Which of the plan's limits do not hold."""


class AllFaults(BaseModel):
    """The figures of a fault run."""

    title: str
    users: int
    environment: Environment
    differing: list[str] = Field(default=[], exclude_if=lambda keys: not keys)
    """In what the environment of some faults was another one, because the run was resumed elsewhere."""
    faults: list[FaultFigures]

    @property
    def all_hold(self) -> bool:
        """Return whether every fault that was carried out stayed within its limits, and none failed to be."""
        return any(fault.status == "finished" for fault in self.faults) and not any(
            fault.missed or fault.status == "failed" for fault in self.faults
        )


def read_faults(folder: FaultFolder) -> AllFaults:
    """Return the figures of a folder. Raises BadInputError, OSError and ValueError."""
    plan = folder.read_plan(FaultPlan)
    found, differing = [], set()
    for group in plan.groups:
        for fault in group.faults:
            record = folder.read_record(fault.name)
            figures = FaultFigures(name=fault.name, title=fault.label, group=group.name, status="not run")
            if record is not None:
                figures.status, figures.reason = record.status, record.reason
                differing |= {*record.differing}
            if record is not None and record.status == "finished":
                rows, processes = folder.read_requests(fault.name), folder.read_processes(fault.name)
                seen = Seen(plan, record, rows, processes)
                figures = figures_of(figures, fault, seen, record.events[0])
                figures.missed += find_failed_before(rows, record) + untested(figures, seen) + find_lost(plan, record)
            found.append(figures)
    return AllFaults(
        title=plan.title,
        users=plan.users,
        environment=folder.read_environment(),
        differing=sorted(differing),
        faults=found,
    )


class Seen:
    """The raw data of one load: requests in the order of their sending, and the processes."""

    def __init__(
        self,
        load: FaultLoad,
        record: StretchRecord,
        rows: list[RequestRow],
        processes: list[ProcessRow],
    ) -> None:
        self.endpoints = list(load.workload.endpoints)
        self.steady_roles = load.steady_roles
        self.rows = rows
        self.processes = processes
        self.ended_unix_s = record.stopping_unix_s or 0.0
        quiet_end = min((event.began_unix_s for event in record.events if event.began_unix_s), default=0.0)
        self.quiet = [
            row for row in rows if (record.complete_unix_s or 0.0) <= row.start_unix_s and row.ended_unix_s < quiet_end
        ]


def figures_of(
    figures: FaultFigures, fault: Fault, seen: Seen, event: Event, until_unix_s: float | None = None
) -> FaultFigures:
    """Return `figures` of the time from the event to the next at `until_unix_s`, or to the end of the load.

    A request that fails after the next event began counts for that one.
    """
    began, until = event.began_unix_s, until_unix_s or seen.ended_unix_s
    rows = [row for row in seen.rows if row.ended_unix_s >= began and row.start_unix_s < until]
    if until_unix_s is not None:
        rows = [row for row in rows if not (row.error and row.ended_unix_s >= until_unix_s)]
    limits_ms = usual_limits_ms(seen.quiet)
    calm_s = calm_after_s(rows, limits_ms, began, until)
    back_s = processes_back_after_s(seen.processes, seen.steady_roles, began, until)
    recovered_s = None if calm_s is None or back_s is None else round(max(calm_s, back_s), 1)
    endpoints = [_endpoint(name, rows, seen.quiet, began) for name in seen.endpoints]
    return figures.model_copy(
        update={
            "struck": event.struck,
            "lasted_s": None if event.ended_unix_s is None else round(event.ended_unix_s - began, 1),
            "watched_s": round(until - began, 1),
            "endpoints": endpoints,
            "recovered_after_s": recovered_s,
            "processes_back_after_s": None if back_s is None else round(back_s, 1),
            "seen": _seen(seen.processes, {*seen.steady_roles, fault.role}, event, until),
            "missed": _missed(fault, rows, recovered_s, began) + _unharmed(fault, seen.processes, event, until),
        }
    )


def untested(figures: FaultFigures, seen: Seen) -> list[str]:
    """Return which endpoints had no right answer before the fault or no request after it: nothing was tested."""
    before = {row.endpoint for row in seen.quiet if not row.error}
    told = [f"no {name} was answered right in the quiet period" for name in seen.endpoints if name not in before]
    return told + [
        f"no {found.endpoint} was sent after the fault began" for found in figures.endpoints if not found.requests
    ]


def find_failed_before(rows: list[RequestRow], record: StretchRecord) -> list[str]:
    """Return how many requests failed before the first fault of a load: they are in the figures of no fault."""
    first = min((event.began_unix_s for event in record.events if event.began_unix_s), default=math.inf)
    failed = sum(bool(row.error) and row.ended_unix_s < first for row in rows)
    return [f"{failed} requests failed before the quiet period ended"] if failed else []


def find_lost(load: FaultLoad, record: StretchRecord) -> list[str]:
    """Return why requests of a load have no row, so that no figure counts them."""
    missing = [] if record.drained_s is None else find_missing_answers(record.drained_s, load.drain_s)
    return [*missing, *find_unsent(record.arrivals, load.users)]


def _endpoint(name: str, rows: list[RequestRow], quiet: list[RequestRow], began_unix_s: float) -> EndpointFigures:
    mine = [row for row in rows if row.endpoint == name]
    failed = [row for row in mine if row.error]
    return EndpointFigures(
        endpoint=name,
        requests=len(mine),
        failed=len(failed),
        failed_under_way=sum(row.start_unix_s < began_unix_s for row in failed),
        errors=dict(Counter(row.error for row in failed).most_common()),
        longest_ms=percentile([row.latency_ms for row in mine], 1),
        longest_failed_ms=percentile([row.latency_ms for row in failed], 1),
        quiet_p95_ms=percentile([row.latency_ms for row in quiet if row.endpoint == name], _P95),
    )


def _missed(fault: Fault, rows: list[RequestRow], recovered_s: float | None, began_unix_s: float) -> list[str]:
    inexcusable: Counter[str] = Counter()
    for row in rows:
        if row.error and not _is_excused(row, fault.may_fail.get(row.endpoint), began_unix_s):
            inexcusable[row.endpoint] += 1
    missed = [
        f"{count} {endpoint} failed, which may_fail does not permit" for endpoint, count in sorted(inexcusable.items())
    ]
    within_s = fault.recover_within_s
    if within_s is not None and (recovered_s is None or recovered_s > within_s):
        missed.append(f"not recovered within {within_s:g} s")
    return missed


def _unharmed(fault: Fault, processes: list[ProcessRow], event: Event, until_unix_s: float) -> list[str]:
    """Return that a kill ended no process, if so: then nothing was tested."""
    if fault.kill is None or not event.pids or _signalled_ends(processes, event, until_unix_s):
        return []
    return [f"no signalled process ended within {until_unix_s - event.began_unix_s:.0f} s"]


def _signalled_ends(processes: list[ProcessRow], event: Event, until_unix_s: float) -> list[ProcessRow]:
    return [
        row
        for row in processes
        if row.pid in event.pids and row.change == "gone" and event.began_unix_s <= row.unix_s < until_unix_s
    ]


def _is_excused(row: RequestRow, may_fail: MayFail | None, began_unix_s: float) -> bool:
    return (
        may_fail is not None
        and (may_fail.sent_within_s is None or row.start_unix_s <= began_unix_s + may_fail.sent_within_s)
        and (may_fail.within_ms is None or row.latency_ms <= may_fail.within_ms)
        and re.search(may_fail.error, row.error) is not None
    )


def _seen(processes: list[ProcessRow], roles: set[str | None], event: Event, until_unix_s: float) -> list[str]:
    """Return which processes of the roles ended and started from the fault on."""
    changes = [row for row in processes if row.role in roles and event.began_unix_s <= row.unix_s < until_unix_s]
    struck = _signalled_ends(processes, event, until_unix_s)
    lines = [] if struck or not event.pids else ["the signalled processes survived"]
    for row in changes:
        told = " (signalled)" if row in struck else ""
        lines.append(f"{row.role} {row.pid} {_CHANGES[row.change]} after {row.unix_s - event.began_unix_s:.1f} s{told}")
    before = count_roles(processes, event.began_unix_s)
    after = count_roles(processes, until_unix_s)
    lines += [
        f"{role}: {before[role]} before, {after[role]} at the end"
        for role in sorted(before.keys() | after.keys())
        if before[role] != after[role] and role in roles
    ]
    return lines if len(lines) <= _MOST_SEEN else [*lines[:_MOST_SEEN], f"… and {len(lines) - _MOST_SEEN} more"]
