"""Every figure of a report, and nothing else: report.json is this, and report.md and report.html print it.

Made by `summary` from a run folder or by `locust_csv` from a plain Locust CSV. The unit is the end of a figure's
name; None stands for a figure that the data does not give.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainSerializer, PlainValidator

from loadtest.plan.keys import Strict
from loadtest.plan.limits import StatedLimit

UNITS = {
    "_ms": "milliseconds",
    "_s": "seconds",
    "_unix_s": "seconds since 1970-01-01 UTC",
    "_percent": "percent; of CPU: 100 is one core",
    "rps": "requests per second",
    "_rps": "requests per second",
    "_per_s": "per second",
    "_bytes": "bytes",
    "pictures": "pictures",
    "requests": "requests",
    "failures": "requests",
    "untimed": "requests",
    "users": "simulated users",
    "replicas": "processes",
    "replicas_asked": "processes",
    "replicas_found": "processes",
    "repetition": "number, from 1",
    "repetitions": "cells",
    "seed": "number without a unit",
    "weight": "share among the endpoints' weights",
    "processes": "processes",
    "threads": "threads",
    "cores": "CPU cores",
    "arrivals_due": "arrivals",
    "arrivals_queued": "arrivals",
    "arrivals_unsent": "arrivals",
    "increase": "as the metric's name says",
    "value": "as the limit's metric says",
    "values": "as the metric's name says",
    "samples": "requests",
    "about": "as the target means it",
    "options": "as the locustfile means it",
}
"""The unit of each number by the end of its name; the longest end that fits counts."""

LimitingFactor = Literal[
    "load_generator",
    "other_load",
    "thread_oversubscription",
    "role_cpu",
    "think_time",
    "stage",
    "serial_section",
    "unknown",
]
"""What can limit a level: the generator's own core; programs that are not part of the test; more busy threads than
cores; the CPU of a role; the users' pace; a stage in which the service waits for something that is not seen here, such
as a database; requests that wait for each other, at a lock for example. `unknown` when the data does not tell."""

NO_FIGURE = "—"
_THOUSAND_MIB_BYTES = 1000 * 2**20


Verdict = Literal["winner", "tie", "not enough data"]

ReasonCode = Literal[
    "not_measured",
    "failed",
    "target_failed",
    "unreadable",
    "users_missing",
    "no_steady_window",
    "ended_early",
    "answers_missing",
    "clock_jumped",
    "generator_unseen",
    "generator_late",
    "generator_cpu",
    "generator_lost",
    "generator_held_back",
    "rows_lost",
    "clock_unknown",
    "too_many_requests",
    "target_behind",
    "rate_not_reached",
    "other_load",
    "replicas",
    "refused",
    "none_right",
    "cache",
    "few_samples",
    "contradiction",
    "recorded",
]
"""What makes a cell INVALID. `target_failed`: it ended, was not ready in time, or answered nothing of the warm-up
right; `target_behind`: arrivals of an open loop found all users busy, or users who are to send at a rate waited for
answers; `rate_not_reached`: the generator kept them from it, or no latency tells what did; `generator_unseen`: rows of
the load generator, or all rows of roles, are missing; `generator_lost`: one of several generators ended, or sent
nothing; `rows_lost`: not all rows of one of several generators came; `clock_unknown`: that of one of several
generators could not be compared well enough; `recorded`: read back from a report, which holds the sentence only."""

Loss = Literal["none_right", "target_failed"]
"""How a target failed, which alone is why a cell is not valid: it answered nothing right in the steady window, or it
could not be measured."""


class Reason(str):
    """Why a cell is not valid: a sentence for the reader, with the code that decisions look at."""

    __slots__ = ("code",)
    code: ReasonCode

    def __new__(cls, words: str, code: ReasonCode = "recorded") -> Self:
        """Return the sentence `words` with its code."""
        reason = super().__new__(cls, words)
        reason.code = code
        return reason


def _read_reason(words: object) -> Reason:
    if not isinstance(words, str):
        raise ValueError("must be a sentence")  # noqa: TRY004 # pydantic tells a ValueError by its key
    return words if isinstance(words, Reason) else Reason(words)


StatedReason = Annotated[Reason, PlainValidator(_read_reason), PlainSerializer(str, return_type=str)]
"""A reason that files hold as its sentence."""


class Traffic(Strict):
    """Requests of one kind in one window of time.

    A request belongs to the window in which it was sent. Latencies are those of right answers, as order statistics
    (the smallest value with at least that share of all values at or below it); failures are counted apart. A
    percentile with fewer samples than `percentiles.LEAST_SAMPLES` asks for is None.
    """

    requests: int
    failures: int
    failures_percent: float | None = None
    failures_interval_percent: tuple[float, float] | None = None
    """With 95 % confidence (score interval), as if failures were independent of each other."""
    untimed: int = 0
    """Right answers of which the client gave no latency: they are in no figure of latencies."""
    rps: float | None = None
    """Requests (failed ones too) ÷ the window's length."""
    median_ms: float | None = None
    avg_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None

    @property
    def timed(self) -> int:
        """Return how many latencies there are: of right answers, as far as the client gave one."""
        return self.requests - self.failures - self.untimed


class Stage(Strict):
    """A stage of the target's Server-Timing: its mean over the right answers of the steady window."""

    name: str
    avg_ms: float


class EndpointFigures(Strict):
    """One endpoint at one point."""

    endpoint: str
    steady: Traffic
    whole_run: Traffic
    scheduled: Traffic | None = None
    """In an open loop: the steady window again, each latency from the scheduled time; limits look at this."""
    stages: list[Stage] = []
    """In the order of the header; empty when the answers carry none."""
    unexplained_ms: float | None = None
    """Mean latency − sum of the stages: network, ingress, and waiting on either side of the service's own clock."""

    @property
    def judged(self) -> Traffic:
        """Return the figures that limits look at."""
        return self.scheduled or self.steady

    @property
    def shown(self) -> Traffic:
        """Return the same; those of the whole run where only these have a median, as in a Locust CSV."""
        return self.whole_run if self.judged.median_ms is None else self.judged

    @property
    def shown_of(self) -> str:
        """Return what a reader is told beside a latency of `shown`."""
        return " (whole run)" if self.shown is self.whole_run and self.shown.median_ms is not None else ""


class RoleFigures(Strict):
    """What the processes of one role used in the steady window."""

    role: str
    processes: int
    """Most at a time."""
    cpu_percent: float
    """Mean; 100 is one core."""
    cpu_max_percent: float
    rss_max_bytes: int
    threads: int
    """Most at a time."""
    busy_threads: float | None = None
    """Mean number of threads that ran or waited for a core most of the time; None where the system does not tell."""
    busiest_thread_percent: float | None = None
    """Mean CPU of the thread that ran most in each second; 100 is one core."""
    runqueue_wait_percent: float | None = None
    """Mean time that threads could have run and had no core, summed over them; 100 is one thread all the time."""
    crowd_threads: float | None = None
    """Mean number of busy threads that may run on the same cores only, where they are most to a core."""
    crowd_cores: float | None = None
    """Mean number of those cores."""


class Bottleneck(Strict):
    """What limits a target at a number of users, and how that was found."""

    limit: LimitingFactor
    where: str | None
    """The role or the stage that the limit is in, where it is in one."""
    sentence: str
    evidence: list[str]
    """Sentences with the numbers; those that decided come first."""
    queue_percent: float | None
    """Share of the mean latency that passes in stages whose names say that requests wait; None without stages."""
    unexplained_percent: float | None
    """Share of the mean latency that no stage of the target explains; None without stages."""


class CounterFigures(Strict):
    """By how much one of the target's own counters grew, from before the load until after it."""

    name: str
    labels: dict[str, str]
    increase: float


class LimitResult(Strict):
    """Whether one objective was met."""

    limit: StatedLimit
    value: float | None
    met: bool

    @property
    def shown(self) -> str:
        """Return the value for a reader, with its unit."""
        return show_value(self.limit.metric, self.value)

    @property
    def told(self) -> str:
        """Return the same, or why there is no value."""
        return "too few samples" if self.value is None else self.shown


class GeneratorFigures(Strict):
    """One of several load generators, in the steady window."""

    name: str
    """`1 of 4`."""
    requests: int
    cpu_percent: float
    """Mean; 100 is one core."""
    late_percent: float
    """Of the time, at least: how long its event loop was late, its worst second left out."""


class CellFigures(Strict):
    """One cell: a target at a number of users, once."""

    target: str
    users: int
    repetition: int
    valid: bool
    reasons: list[StatedReason] = []
    """Why the cell is not valid; such cells are printed and count in no point."""
    loss: Loss | None = Field(default=None, exclude_if=lambda loss: loss is None)
    """How the target failed, where it alone is why the cell is not valid."""
    notes: list[str] = []
    steady_window_s: float | None = None
    whole_run_s: float | None = None
    ready_after_s: float | None = None
    replicas_asked: int | None = None
    replicas_found: int | None = None
    seed: int | None = None
    steady: Traffic | None = None
    """All endpoints together."""
    whole_run: Traffic | None = None
    scheduled: Traffic | None = None
    """In an open loop: the steady window again, each latency from the scheduled time."""
    arrivals_due: int | None = None
    """In an open loop: what was scheduled before the load ended."""
    arrivals_queued: int | None = None
    """Of these, sent late because all users were busy."""
    arrivals_unsent: int | None = None
    """Of these, never sent: they are in no other figure."""
    endpoints: list[EndpointFigures] = []
    roles: list[RoleFigures] = []
    counters: list[CounterFigures] = []
    hit_percent: float | None = None
    """Of the answers that the target counted: those from its cache; None where the plan or the target has no such
    counter."""
    metrics_after_s: float | None = None
    limits: list[LimitResult] = []
    generator_late_percent: float | None = None
    """Of the time, at least: how long the load generator's event loop was late, its worst second left out."""
    generators: list[GeneratorFigures] = Field(default=[], exclude_if=lambda several: not several)
    """None where one makes the load."""
    bottleneck: Bottleneck | None = None
    """None when no request was answered right."""


class PointFigures(Strict):
    """All valid repetitions of one target at one number of users, their requests pooled."""

    target: str
    users: int
    repetitions: int
    """Valid ones; with none there are no figures."""
    steady_window_s: float | None = None
    """Of all repetitions together."""
    think_time_limit_rps: float | None = None
    """Users ÷ mean think time: more cannot be asked for, whatever the target does (Little's law with no latency)."""
    steady: Traffic | None = None
    whole_run: Traffic | None = None
    scheduled: Traffic | None = None
    """In an open loop: the steady window again, each latency from the scheduled time."""
    endpoints: list[EndpointFigures] = []
    roles: list[RoleFigures] = []
    """Means and maxima over the repetitions."""
    generator_late_percent: float | None = None
    """Of the time, at least: how long the load generator's event loop was late, its worst second left out."""
    generators: list[GeneratorFigures] = Field(default=[], exclude_if=lambda several: not several)
    """Sums of requests and means over the repetitions; none where one makes the load."""
    bottleneck: Bottleneck | None = None
    """None without a valid repetition."""

    @property
    def judged(self) -> Traffic | None:
        """Return the figures that limits look at."""
        return self.scheduled or self.steady

    @property
    def shown(self) -> Traffic:
        """Return the same; those of the whole run where there is no steady window, and zeros where there is neither."""
        return self.judged or self.whole_run or Traffic(requests=0, failures=0)

    @property
    def shown_of(self) -> str:
        """Return what a reader is told beside a figure of `shown`."""
        return " (whole run)" if self.judged is None and self.whole_run is not None else ""

    @property
    def has_requests(self) -> bool:
        """Return whether any request was sent."""
        return self.shown.requests > 0

    def part(self, endpoint: str) -> EndpointFigures | None:
        """Return the figures of one endpoint."""
        return next((part for part in self.endpoints if part.endpoint == endpoint), None)


class Difference(Strict):
    """One figure of two targets at one number of users."""

    metric: str
    """Such as `predict.p95_ms`."""
    verdict: Verdict
    winner: str | None
    because: str
    """What the data lacks; empty otherwise."""
    values: dict[str, float]
    """By target, the earlier in the plan first; without those that have too few samples."""
    samples: dict[str, int]
    """By target: requests, or right answers of the endpoint."""
    difference_percent: float | None
    """Of the second target's value from the first's; of shares of failures, percentage points."""
    interval_percent: tuple[float, float] | None
    """Of that difference; all intervals of a level hold together with 95 % confidence."""


class LevelComparison(Strict):
    """The targets beside each other at one number of users."""

    users: int
    verdict: Verdict
    winner: str | None
    because: str
    differences: list[Difference]


class EvaluationFigures(Strict):
    """The accuracy of a model that was evaluated before the run."""

    file: str
    date: str
    model: str
    pictures: int
    top1_percent: float
    top1_interval_percent: tuple[float, float]
    top5_percent: float | None
    top5_interval_percent: tuple[float, float] | None
    is_of_target: bool | None
    """Whether the target serves a model of the same fingerprint; None when it tells none."""


class TargetFacts(Strict):
    """One target, as the report introduces it."""

    name: str
    title: str
    replicas: int | None = None
    about: dict[str, Any] = {}
    """What it said of itself, by path."""
    cache: str | None = None
    """What it calls the cache that it has on; `off`; None when it does not say."""
    cached: bool = False
    """Whether the plan says that it is meant to answer from a cache."""
    evaluations: list[EvaluationFigures] = []


class BaselinePoint(Strict):
    """One row of the figures printed beside ours."""

    target: str
    """The target of ours that it stands beside."""
    users: int
    requests: int
    failures_percent: float
    median_ms: float
    rps: float
    endpoints: dict[str, dict[str, float]]
    """By endpoint: median_ms and avg_ms."""


class Baseline(Strict):
    """Figures of another report."""

    title: str
    machine: dict[str, Any]
    points: list[BaselinePoint]


class Facts(Strict):
    """What was measured, and how the targets compare: a report without what follows from it."""

    title: str
    source: Literal["run folder", "Locust CSV"]
    units: dict[str, str] = UNITS
    machine: dict[str, Any] | None = None
    """CPU model, cores, ram_bytes, os, python, packages (those the plan names, and Locust), git_commit."""
    dates: list[str] = []
    """Days (UTC) on which cells were measured."""
    test: dict[str, Any]
    """Users, spawn rate, duration, warm-up, repetitions, workload, order, seed, as the plan has them."""
    targets: list[TargetFacts] = []
    endpoints: list[str] = []
    baseline: Baseline | None = None
    points: list[PointFigures] = []
    cells: list[CellFigures] = []
    comparisons: list[LevelComparison] = []

    def title_of(self, target: str) -> str:
        """Return what reports call a target."""
        return next((facts.title for facts in self.targets if facts.name == target), target)


class Figures(Facts):
    """All of a report. `findings.conclude` makes it of the facts."""

    takeaways: list[str]
    recommendations: list[str]
    bottom_line: str
    all_valid: bool
    all_limits_met: bool


def show_count(value: float | None) -> str:
    """Return a whole number for a reader, such as `1,785`."""
    return NO_FIGURE if value is None else f"{value:,.0f}"


def show_ms(value: float | None) -> str:
    """Return milliseconds for a reader, without the unit: three digits, from 100 on no fraction."""
    if value is None:
        return NO_FIGURE
    digits = next((digits for digits, below in ((2, 9.995), (1, 99.95)) if abs(value) < below), 0)
    return f"{value:,.{digits}f}"


def show_rps(value: float | None) -> str:
    """Return requests per second for a reader, without the unit."""
    return NO_FIGURE if value is None else f"{value:,.1f}"


def show_percent(value: float | None) -> str:
    """Return percent for a reader, without the sign: one decimal unless whole; a small share never becomes 0."""
    if value is None:
        return NO_FIGURE
    if 0 < abs(value) < 1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def show_bytes(value: float | None) -> str:
    """Return bytes for a reader, with the unit."""
    if value is None:
        return NO_FIGURE
    return f"{value / 2**20:,.0f} MiB" if value < _THOUSAND_MIB_BYTES else f"{value / 2**30:,.1f} GiB"


def show_bare(metric: str, value: float | None) -> str:
    """Return a metric's value for a reader, without its unit."""
    if metric.endswith("_ms"):
        return show_ms(value)
    if metric.endswith("_percent"):
        return show_percent(value)
    return show_rps(value) if metric == "rps" else show_count(value)


def show_value(metric: str, value: float | None) -> str:
    """Return the value of a latency, a share or the throughput for a reader, with its unit."""
    unit = {"ms": "ms", "percent": "%"}.get(metric.rpartition("_")[2], "requests/s")
    return NO_FIGURE if value is None else f"{show_bare(metric, value)} {unit}"


def show_difference(difference: Difference) -> str:
    """Return a difference for a reader, with its interval: `+12 % (+7.1 to +18)`, in points between shares."""
    if difference.difference_percent is None or difference.interval_percent is None:
        return NO_FIGURE
    unit = "points" if difference.metric.endswith("_percent") else "%"
    low, high = (_show_change(end) for end in difference.interval_percent)
    return f"{_show_change(difference.difference_percent)} {unit} ({low} to {high})"


def _show_change(percent: float) -> str:
    digits = 0 if abs(percent) >= 9.95 else 1 if abs(percent) >= 0.995 else 2  # noqa: PLR2004 # two digits
    return f"{percent:+,.{digits}f}".replace("-", "−")


def name_metric(metric: str) -> str:
    """Return a metric's name for a reader: `predict.p95_ms` is `predict p95`."""
    plain = {"rps": "throughput", "failures_percent": "failures"}
    *endpoint, name = metric.split(".")
    return " ".join([*endpoint, plain.get(name, name.removesuffix("_ms"))])
