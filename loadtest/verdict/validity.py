"""Why a cell says nothing about its target: the load was not what the plan asked for, or the target was not.

Called by `summary` for each cell that was measured. Every reason is a sentence with its numbers, and a code.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from loadtest.figures.caching import find_cache_faults, find_cache_notes
from loadtest.figures.figures import (
    GeneratorFigures,
    Reason,
    ReasonCode,
    Traffic,
    show_count,
    show_ms,
    show_percent,
    show_rps,
)
from loadtest.figures.generators import compute_late_percent, name_generator, split_seconds
from loadtest.plan.plan import MOST_LATE_PERCENT, Plan
from loadtest.plan.target_key import VARIABLE
from loadtest.plan.targets import STOLEN, Target
from loadtest.rows.columns import GeneratorRow, ResourceRow, is_rejection
from loadtest.rows.run_folder import ArrivalCounts, CellRecord, ClockRecord

LEAST_DURATION_SHARE = 0.98
"""Of the duration asked for: what a load that was not cut short lasts."""

MOST_GENERATOR_CPU_PERCENT = 90.0
"""Locust runs on one core; above this its event loop is late so often that it measures itself."""

NOTED_LATE_PERCENT = 1.0
"""Of the time: from here on p99 may be the generator's own."""

LEAST_RATE_SHARE = 0.95
"""Of the rate asked for: less is another load than the plan names."""

MOST_USERS_ASTRAY_PERCENT = 5.0
"""By how much the users that the figures explain may differ from those asked for, beyond chance."""

SIGMAS = 3.0
"""Chance alone goes beyond this in 3 of 1,000 cells."""

NOTED_STOLEN_PERCENT = 10.0
"""Of one core: less is usual on a virtual machine."""

NOTED_OTHER_SHARE = 0.5
"""Of the other work that the plan allows: from here on a reader should know of it."""

LEAST_REQUESTS = 10
"""Of an endpoint in the steady window; with fewer, even the median moves with every single request."""

_MOST_NAMES = 5

_DRAIN_SLACK_S = 0.5
"""How much before its end a drain that ends by itself must have ended, to be told from one that was cut off."""

MOST_CLOCK_JUMP_S = 0.5
"""Between two seconds of the generator: a clock that is slewed moves by 0.0005 s a second, a set one jumps."""

MOST_CLOCK_UNCERTAINTY_S = 0.1
"""Of one of several generators: its rows may lie so far off the steady window's borders and the others' rows."""

NOTED_CLOCK_MS = 1.0
"""Correction of a generator's clock, or what that may be wrong by: on one machine it is less."""


@dataclass(frozen=True)
class Evidence:
    """What a measured cell left behind in its steady window."""

    record: CellRecord
    window_s: float
    """Its length."""
    steady: Traffic
    endpoints: dict[str, Traffic]
    latencies_ms: NDArray[np.float64]
    """Of all requests that have one, failed ones too."""
    errors: Mapping[str, Counter[tuple[int, str]]]
    """By endpoint: the failed requests by status and error."""
    names: Counter[str]
    """Requests of the whole run by endpoint, or by Locust's name where the plan counts no such request."""
    under_way: float
    """Requests under way, on average over the time."""
    answers: int
    """Answers that arrived, to requests sent before it too."""
    generator: Sequence[GeneratorRow]
    generators: Sequence[GeneratorFigures]
    """Of several; empty where one makes the load."""
    resources: Sequence[ResourceRow]

    @property
    def users(self) -> int:
        """Return the number of users asked for."""
        return self.record.cell.users

    @property
    def arrivals(self) -> ArrivalCounts | None:
        """Return what became of the arrivals of an open loop."""
        return self.record.moments.arrivals if self.record.moments else None

    @property
    def late_percent(self) -> float:
        """Return for how much of the time the generator's event loop was late; of several, the latest one's."""
        return compute_late_percent(self.generator, self.window_s)

    @property
    def clocks(self) -> list[ClockRecord]:
        """Return the several generators with their clocks; empty where one makes the load."""
        return self.record.moments.clocks if self.record.moments else []

    @property
    def generator_cpu_percent(self) -> float | None:
        """Return the mean CPU of the generator, 100 being one core; of several, that of the busiest."""
        if self.clocks:
            return max((figures.cpu_percent for figures in self.generators), default=None)
        return self.cpu_percent("load_generator")

    def cpu_percent(self, role: str) -> float | None:
        """Return the mean CPU of a role, 100 being one core; None without a sample."""
        used = [row.cpu_percent for row in self.resources if row.role == role]
        return fmean(used) if used else None


def find_load_reasons(plan: Plan, record: CellRecord, generator: Sequence[GeneratorRow]) -> list[Reason]:
    """Return why the load as a whole was not the one asked for: it failed, came short of users, or ended early."""
    if record.status == "failed":
        return [Reason(record.reason or "the cell failed, and its record does not say why", record.failure)]
    if record.moments is None:
        return [Reason("cell.json does not say when the load began and ended", "unreadable")]
    users, moments = record.cell.users, record.moments
    reasons = []
    if moments.spawned_unix_s is None:
        each = [max(row.users for row in rows) for rows in split_seconds(generator).values()]
        most = sum(each) if each else None
        told = f": {most} at most" if most is not None else ""
        reasons.append(Reason(f"not all {users} users came{told}", "users_missing"))
    elif moments.spawned_unix_s + plan.settle_s >= moments.stopping_unix_s:
        words = "the load ended before all users had come and settled, so there is no steady window"
        reasons.append(Reason(words, "no_steady_window"))
    lasted_s = moments.stopping_unix_s - moments.started_unix_s
    if lasted_s < LEAST_DURATION_SHARE * plan.duration_s:
        words = f"the load ended early: after {lasted_s:.1f} s of {plan.duration_s:g} s"
        reasons.append(Reason(words, "ended_early"))
    reasons += find_missing_answers(moments.drained_s, plan.drain_s)
    return [*reasons, *_clock_faults(moments.clocks, generator)]


def find_missing_answers(drained_s: float, drain_s: float) -> list[Reason]:
    """Return why requests have no row: their answers were still due when a drain of at most `drain_s` was ended.

    `drained_s` is the time since the last request was sent, or since the load ended.
    """
    if drained_s <= drain_s - _DRAIN_SLACK_S:
        return []
    words = (
        f"answers were still due {drained_s:.1f} s after the sending ended; those requests have no row: make drain_s "
        "longer than the clients' own time limit"
    )
    return [Reason(words, "answers_missing")]


def find_unsent(arrivals: ArrivalCounts | None, users: int) -> list[Reason]:
    """Return why arrivals of an open loop have no row: they were never sent, so their latencies have no end."""
    if arrivals is None or arrivals.unsent <= 0:
        return []
    words = (
        f"the target did not keep up: {arrivals.unsent} of {arrivals.due} arrivals were never sent, because "
        f"{_busy(users)} until the end"
    )
    return [Reason(words, "target_behind")]


def find_steady_reasons(plan: Plan, evidence: Evidence) -> list[Reason]:
    """Return why the steady window is no measurement: generator, pace, replicas, other load, number of samples."""
    checks: list[Callable[[Plan, Evidence], Iterator[Reason]]] = [
        _generator_faults,
        _pace_faults,
        _replica_faults,
        _answer_faults,
        lambda plan, evidence: find_cache_faults(plan, _target(plan, evidence), evidence.record.about),
        _machine_faults,
        _sample_faults,
    ]
    return [reason for check in checks for reason in check(plan, evidence)]


def find_notes(plan: Plan, evidence: Evidence) -> list[str]:
    """Return what a reader of the figures should know of a cell that is valid all the same."""
    notes = []
    late_percent = evidence.late_percent
    if NOTED_LATE_PERCENT < late_percent <= plan.most_generator_late_percent:
        share = f"{show_percent(late_percent)} % of the time"
        notes.append(
            f"the load generator's event loop was late for {share}, so p99 and the largest latency may be its own"
        )
    most_ms = max((1000 * abs(clock.ahead_s) for clock in evidence.clocks), default=0.0)
    unsure_ms = max((1000 * clock.uncertainty_s for clock in evidence.clocks), default=0.0)
    if max(most_ms, unsure_ms) >= NOTED_CLOCK_MS:
        notes.append(
            f"times of {len(evidence.clocks)} load generators were corrected by {show_ms(most_ms)} ms at most, which "
            f"may be wrong by {show_ms(unsure_ms)} ms"
        )
    arrivals = evidence.arrivals
    if arrivals and arrivals.queued + arrivals.unsent:
        notes.append(
            f"of {arrivals.due} arrivals, {arrivals.queued} were sent late and {arrivals.unsent} never, because all "
            f"{evidence.users} users were busy: latencies from the scheduled time hold the wait of the late"
        )
    other_percent = _other_cpu_percent(plan, evidence)
    if other_percent is not None and other_percent > NOTED_OTHER_SHARE * plan.most_other_cpu_percent:
        notes.append(f"other work on this machine used {show_percent(round(other_percent))} % of one core")
    stolen_percent = evidence.cpu_percent(STOLEN)
    if stolen_percent is not None and stolen_percent > NOTED_STOLEN_PERCENT:
        told = f"{show_percent(round(stolen_percent))} % of one core that this machine had work for"
        notes.append(f"the host of this virtual machine gave {told} to others, so latencies are longer than its own")
    return [*notes, *find_cache_notes(plan, _target(plan, evidence), evidence.record.about)]


def _clock_faults(clocks: Sequence[ClockRecord], generator: Sequence[GeneratorRow]) -> Iterator[Reason]:
    for number, rows in split_seconds(generator).items():
        jumps_s = [
            (later.unix_s - earlier.unix_s) - (later.monotonic_s - earlier.monotonic_s)
            for earlier, later in pairwise(rows)
        ]
        largest_s = max(jumps_s, key=abs, default=0.0)
        if abs(largest_s) > MOST_CLOCK_JUMP_S:
            whose = "the machine's clock" if number is None else f"the clock of {name_generator(number, len(clocks))}"
            yield Reason(
                f"{whose} jumped by {largest_s:+.2f} s during the load, so its times cannot be compared",
                "clock_jumped",
            )
    for clock in clocks:
        if clock.uncertainty_s > MOST_CLOCK_UNCERTAINTY_S:
            name, drift_s = name_generator(clock.generator, len(clocks)), clock.ahead_at_end_s - clock.ahead_s
            drifted = abs(drift_s) > MOST_CLOCK_UNCERTAINTY_S / 2
            why = f"it drifted by {drift_s:+.2f} s during the load" if drifted else "its machine answers too slowly"
            yield Reason(
                f"the clock of {name} is known to ± {clock.uncertainty_s:.2f} s only, "
                f"± {MOST_CLOCK_UNCERTAINTY_S:g} s are allowed: {why}",
                "clock_unknown",
            )


def _generator_faults(plan: Plan, evidence: Evidence) -> Iterator[Reason]:
    if evidence.clocks:
        yield from _faults_of_several(plan, evidence)
        return
    if not evidence.generator:
        yield Reason(
            "generator.csv has no row of the steady window, so whether the generator was late is not known",
            "generator_unseen",
        )
    else:
        yield from _late_faults(plan, "the load generator", evidence.generator, evidence.late_percent)
    cpu_percent = evidence.generator_cpu_percent
    if cpu_percent is None:
        yield Reason(
            "resources.csv has no row of the load generator in the steady window, so its CPU is not known",
            "generator_unseen",
        )
    else:
        yield from _cpu_faults("the load generator", cpu_percent)


def _faults_of_several(plan: Plan, evidence: Evidence) -> Iterator[Reason]:
    """Judge each of several generators by itself: the figures are those of all of them together."""
    clocks, split = evidence.clocks, split_seconds(evidence.generator)
    figures = {one.name: one for one in evidence.generators}
    for clock in clocks:
        name, rows = name_generator(clock.generator, len(clocks)), split.get(clock.generator)
        if not rows:
            yield Reason(
                f"generator.csv has no row of {name} in the steady window, so whether it was late is not known",
                "generator_unseen",
            )
            continue
        own = figures[f"{clock.generator} of {len(clocks)}"]
        yield from _late_faults(plan, name, rows, own.late_percent)
        yield from _cpu_faults(name, own.cpu_percent)
        if not own.requests and evidence.steady.requests >= LEAST_REQUESTS * len(clocks):
            sent = show_count(evidence.steady.requests)
            yield Reason(f"{name} sent none of {sent} requests in the steady window", "generator_lost")


def _late_faults(plan: Plan, name: str, rows: Sequence[GeneratorRow], late_percent: float) -> Iterator[Reason]:
    if late_percent > plan.most_generator_late_percent:
        longest_ms = max(row.lag_ms for row in rows)
        yield Reason(
            f"{name} was late: its event loop for {show_percent(late_percent)} % of the time "
            f"(by {show_ms(longest_ms)} ms at most), {show_percent(plan.most_generator_late_percent)} % are allowed "
            "(most_generator_late_percent)",
            "generator_late",
        )


def _cpu_faults(name: str, cpu_percent: float) -> Iterator[Reason]:
    if cpu_percent > MOST_GENERATOR_CPU_PERCENT:
        yield Reason(
            f"{name} was short of CPU: it used {show_percent(cpu_percent)} % of one core, "
            f"{show_percent(MOST_GENERATOR_CPU_PERCENT)} % are allowed",
            "generator_cpu",
        )


def _machine_faults(plan: Plan, evidence: Evidence) -> Iterator[Reason]:
    other_percent = _other_cpu_percent(plan, evidence)
    if other_percent is not None and other_percent > plan.most_other_cpu_percent:
        yield Reason(
            f"other work on this machine used {show_percent(round(other_percent))} % of one core, "
            f"{show_percent(plan.most_other_cpu_percent)} % are allowed (most_other_cpu_percent); "
            "where that is the target's own, name it by a role with `anywhere: true`",
            "other_load",
        )
    stolen_percent = evidence.cpu_percent(STOLEN)
    if stolen_percent is not None and stolen_percent > plan.most_stolen_cpu_percent:
        yield Reason(
            f"the host of this virtual machine gave {show_percent(round(stolen_percent))} % of one core to others, "
            f"{show_percent(plan.most_stolen_cpu_percent)} % are allowed (most_stolen_cpu_percent)",
            "other_load",
        )


def _other_cpu_percent(plan: Plan, evidence: Evidence) -> float | None:
    """Return what was used beside all known roles, on average; None where the target is not among them.

    A target that the kit did not start may be one of the others, unless it runs elsewhere.
    """
    by_sample: dict[float, dict[str, float]] = {}
    for row in evidence.resources:
        by_sample.setdefault(row.unix_s, {})[row.role] = row.cpu_percent
    known = [
        sample["machine"] - fsum(percent for role, percent in sample.items() if role not in ("machine", STOLEN))
        for sample in by_sample.values()
        if "machine" in sample
    ]
    return max(0.0, fmean(known)) if known and _target(plan, evidence).start is not None else None


def _pace_faults(plan: Plan, evidence: Evidence) -> Iterator[Reason]:
    if plan.workload.rate_per_user_rps is not None:
        yield from _rate_faults(plan.workload.rate_per_user_rps, evidence)
    elif plan.workload.wait_s is not None:
        yield from _think_time_faults(plan.workload.wait_s, evidence)
    elif plan.workload.rate_rps is not None:
        yield from _open_loop_faults(plan.workload.rate_rps, evidence)


def _open_loop_faults(rate_rps: float, evidence: Evidence) -> Iterator[Reason]:
    """Compare what was sent with the rate asked for, less what chance takes from a Poisson process."""
    asked = rate_rps * evidence.window_s
    too_few = evidence.steady.requests < LEAST_RATE_SHARE * asked - SIGMAS * math.sqrt(asked)
    arrivals = evidence.arrivals
    if arrivals is None:
        yield Reason("cell.json has no counts of the arrivals", "unreadable")
    elif unsent := find_unsent(arrivals, evidence.users):
        yield from unsent
    elif too_few and arrivals.queued:
        yield Reason(
            f"the target did not keep up: {arrivals.queued} of {arrivals.due} arrivals were sent late, because "
            f"{_busy(evidence.users)}; lower rate_rps, or raise users",
            "target_behind",
        )
    elif too_few:
        yield Reason(
            f"the load generator held back: {show_rps(evidence.steady.requests / evidence.window_s)} of "
            f"{show_rps(rate_rps)} requests/s",
            "generator_held_back",
        )


def _busy(users: int) -> str:
    return f"all {users} users were busy with earlier requests"


def _rate_faults(rate_per_user_rps: float, evidence: Evidence) -> Iterator[Reason]:
    """Compare the rate with the one asked for, less what the borders of the window may cut off each user."""
    users, window_s = evidence.users, evidence.window_s
    asked_rps = users * rate_per_user_rps
    least = LEAST_RATE_SHARE * asked_rps * window_s - users
    if evidence.steady.requests < least:
        limited, code = _what_limited(rate_per_user_rps, evidence)
        yield Reason(
            f"the rate asked for was not reached: {show_rps(evidence.steady.requests / window_s)} of "
            f"{show_rps(asked_rps)} requests/s; {limited}",
            code,
        )


def _what_limited(rate_per_user_rps: float, evidence: Evidence) -> tuple[str, ReasonCode]:
    """Say what held the users back: the generator first, for the latencies that a busy one measures are its own.

    A user sends again after max(latency, 1 ÷ rate); so the latencies alone allow users ÷ mean of that. A generator that
    stays below even this is the limit itself, and its lateness is in those latencies.
    """
    cpu_percent = evidence.generator_cpu_percent or 0.0
    late_percent = evidence.late_percent
    seen = f"{show_percent(cpu_percent)} % of a core, event loop late for {show_percent(late_percent)} % of the time"
    if cpu_percent > MOST_GENERATOR_CPU_PERCENT or late_percent > MOST_LATE_PERCENT:
        return f"the load generator limited it ({seen})", "rate_not_reached"
    period_s = 1 / rate_per_user_rps
    latencies_s = evidence.latencies_ms / 1000
    if not latencies_s.size:
        words = f"no request sent in the steady window has a latency, so what limited it is not known ({seen})"
        return words, "rate_not_reached"
    cycle_s = float(np.maximum(latencies_s, period_s).mean())
    if period_s / cycle_s < LEAST_RATE_SHARE:
        allowed_rps = evidence.users / cycle_s
        if evidence.steady.requests < LEAST_RATE_SHARE * allowed_rps * evidence.window_s - evidence.users:
            return (
                f"the load generator limited it: with the latencies that it measured, {show_rps(allowed_rps)} "
                f"requests/s were possible ({seen})"
            ), "rate_not_reached"
        return (
            f"the target limited it: with a mean latency of {show_ms(1000 * latencies_s.mean())} ms, users who are "
            f"to send every {show_ms(1000 * period_s)} ms cannot send more than {show_rps(allowed_rps)} requests/s"
        ), "target_behind"
    return f"the target answered in time, so the load generator held back ({seen})", "rate_not_reached"


def _think_time_faults(wait_s: tuple[float, float], evidence: Evidence) -> Iterator[Reason]:
    """Apply the interactive response time law, N = X (R + Z), Lazowska et al. 1984, chapter 3.

    X R is counted as the requests under way, so that it holds while latencies still grow. What thinking users there
    are beyond X Z at the borders of the window is less than one think time for each user.
    """
    users, window_s = evidence.users, evidence.window_s
    mean_wait_s = sum(wait_s) / 2
    explained = evidence.under_way + evidence.answers / window_s * mean_wait_s
    deviation_s = (wait_s[1] - wait_s[0]) / math.sqrt(12)
    chance = SIGMAS * deviation_s * math.sqrt(evidence.answers) / (users * window_s)
    borders = mean_wait_s / window_s
    allowed = MOST_USERS_ASTRAY_PERCENT / 100 + chance + borders
    if abs(explained - users) > allowed * users:
        held_back = explained < users
        did = "held back" if held_back else "sent more than the think time lets them"
        yield Reason(
            f"the load generator {did}: {evidence.answers} answers in {window_s:.1f} s, {evidence.under_way:.1f} "
            f"requests under way and {mean_wait_s:g} s of think time explain {explained:.1f} users of {users}; "
            f"± {allowed * users:.1f} are allowed",
            "generator_held_back" if held_back else "too_many_requests",
        )


def _replica_faults(plan: Plan, evidence: Evidence) -> Iterator[Reason]:
    record = evidence.record
    if record.replicas_asked is not None and record.replicas_found != record.replicas_asked:
        found = "their number is not known" if record.replicas_found is None else f"{record.replicas_found} ran"
        yield Reason(f"{record.replicas_asked} replica(s) were asked for; before the load {found}", "replicas")
    replicas = _target(plan, evidence).replicas
    if replicas is None:
        return
    # A role without a process has no row in a sample.
    seen = {row.unix_s: row.processes for row in evidence.resources if row.role == replicas.role}
    counts = [seen.get(unix_s, 0) for unix_s in {row.unix_s for row in evidence.resources}]
    if not counts:
        yield Reason("resources.csv has no row of the steady window, so the replicas are not known", "generator_unseen")
    elif others := [count for count in counts if count != replicas.count]:
        ran = f"{min(others)}" if min(others) == max(others) else f"{min(others)} to {max(others)}"
        yield Reason(
            f"in {len(others)} of {len(counts)} seconds of the steady window {ran} instead of "
            f"{replicas.count} process(es) of the role {replicas.role} ran",
            "replicas",
        )


def _answer_faults(plan: Plan, evidence: Evidence) -> Iterator[Reason]:
    """Tell which endpoints were refused: their figures would be those of refusals."""
    failed = {name: traffic for name, traffic in evidence.endpoints.items() if traffic.requests == traffic.failures > 0}
    refused = [name for name in failed if all(is_rejection(status) for status, _ in evidence.errors[name])]
    for name in refused:
        requests, told = show_count(failed[name].requests), _most_frequent(evidence.errors[name])
        yield Reason(f"nothing of {name} was measured: all {requests} requests were refused, {told}", "refused")
    if len(failed) == len(plan.workload.endpoints) > len(refused):
        errors = sum((evidence.errors[name] for name in failed), Counter[tuple[int, str]]())
        requests = show_count(sum(traffic.requests for traffic in failed.values()))
        yield Reason(f"none of {requests} requests was answered right: {_most_frequent(errors)}", "none_right")


def _most_frequent(errors: Counter[tuple[int, str]]) -> str:
    ((status, error), count) = errors.most_common(1)[0]
    hint = f"; see {VARIABLE}" if status in {401, 403} else ""
    return f"{show_count(count)} × {error}{hint}"


def _target(plan: Plan, evidence: Evidence) -> Target:
    return next(target for target in plan.targets if target.name == evidence.record.cell.target)


def _sample_faults(plan: Plan, evidence: Evidence) -> Iterator[Reason]:
    for endpoint in plan.workload.endpoints:
        requests = evidence.endpoints[endpoint].requests
        if evidence.names and endpoint not in evidence.names:
            yield Reason(_tell_names(plan, endpoint, evidence.names), "few_samples")
        elif requests < LEAST_REQUESTS:
            yield Reason(
                f"too few samples: {show_count(requests)} request(s) of {endpoint} in the steady window, "
                f"at least {LEAST_REQUESTS} are needed",
                "few_samples",
            )


def _tell_names(plan: Plan, endpoint: str, names: Counter[str]) -> str:
    """Return what Locust calls its requests, those first that no endpoint of the plan counts."""
    endpoints = plan.workload.endpoints
    by_use = sorted(names, key=lambda name: (name in endpoints, -names[name], name))
    shown = [f"`{endpoints[name].request if name in endpoints else name}`" for name in by_use[:_MOST_NAMES]]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (
        f"no request of {endpoint}: Locust counted none named `{endpoints[endpoint].request}`, but "
        f"{', '.join(shown)}{more}; set workload.endpoints.{endpoint}.request to the name that Locust counts"
    )
