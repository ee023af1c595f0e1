"""A closed loop of users and a service, simulated event by event, and reported as Locust reports.

Users come in batches once a second, send at once, wait for the answer, think, and send again. Light requests have a
server of their own, heavy ones queue for a few. Statistics begin with the first user, count an answer when it comes,
and forget what is under way at the end, as Locust does. A hidden call before each request is in no statistics.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

SHARES = (0.5, 0.66, 0.75, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999, 1.0)
ENDPOINTS = {"predict": 1, "lookup": 2}
PREDICT_SHARE = ENDPOINTS["predict"] / sum(ENDPOINTS.values())


@dataclass(frozen=True)
class Experiment:
    """One run."""

    seed: int
    users: int
    duration_s: float = 150
    spawn_rate_per_s: int = 5
    wait_s: tuple[float, float] = (1.0, 5.0)
    servers: int = 1
    predict_s: float = 0.1
    """Mean service time of a heavy request, exponential."""
    lookup_s: float = 0.01
    failed_share: float = 0.0
    """Of the heavy requests; they fail at once."""
    hidden_s: float = 0.0
    """How long the uncounted call before each request takes."""


@dataclass
class Kind:
    """What was counted of one kind of requests."""

    latencies_ms: list[float] = field(default_factory=list)
    failures: int = 0

    @cached_property
    def rounded_ms(self) -> list[int]:
        return sorted(map(bucket_ms, self.latencies_ms))

    @property
    def requests(self) -> int:
        return len(self.latencies_ms)

    @property
    def avg_ms(self) -> float:
        return sum(self.latencies_ms) / self.requests

    def percentile_ms(self, share: float) -> int:
        """Return a percentile as Locust takes it: of rounded latencies, from the top."""
        return self.rounded_ms[min(self.requests - 1, int(self.requests * share))]

    def median_ms(self) -> float:
        """Return the median as Locust prints it: not outside what was measured."""
        return min(max(self.percentile_ms(0.5), min(self.latencies_ms)), max(self.latencies_ms))


@dataclass
class Outcome:
    """What Locust would know after a run."""

    experiment: Experiment
    kinds: dict[str, Kind]
    last_answer_s: float

    @cached_property
    def all(self) -> Kind:
        latencies_ms = [value for kind in self.kinds.values() for value in kind.latencies_ms]
        return Kind(latencies_ms, sum(kind.failures for kind in self.kinds.values()))

    def rps(self, kind: Kind) -> float:
        return kind.requests / self.last_answer_s


def bucket_ms(latency_ms: float) -> int:
    """Round a latency as Locust keeps it."""
    digits = 0 if latency_ms < 100 else -1 if latency_ms < 1000 else -2 if latency_ms < 10000 else -3
    return int(round(latency_ms, digits))


def simulate(experiment: Experiment) -> Outcome:
    """Return what is counted in one run."""
    return _Simulation(experiment).run()


class _Simulation:
    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._rng = random.Random(experiment.seed)
        self._free_s = [0.0] * experiment.servers
        self._outcome = Outcome(experiment, {name: Kind() for name in ENDPOINTS}, 0.0)

    def run(self) -> Outcome:
        one = self._experiment
        sends = [(float(user // one.spawn_rate_per_s), user) for user in range(one.users)]
        heapq.heapify(sends)
        while sends and sends[0][0] < one.duration_s:
            now_s, user = heapq.heappop(sends)
            begin_s = now_s + one.hidden_s
            answered_s = self._answer(begin_s)
            heapq.heappush(sends, (answered_s + self._rng.uniform(*one.wait_s), user))
        return self._outcome

    def _answer(self, begin_s: float) -> float:
        """Return when a request that is sent at `begin_s` is answered, and count it if that is in time."""
        one = self._experiment
        name = "predict" if self._rng.random() < PREDICT_SHARE else "lookup"
        failed = name == "predict" and self._rng.random() < one.failed_share
        if name == "lookup" or failed:
            end_s = begin_s + self._rng.expovariate(1 / one.lookup_s)
        else:
            start_s = max(begin_s, heapq.heappop(self._free_s))
            end_s = start_s + self._rng.expovariate(1 / one.predict_s)
            heapq.heappush(self._free_s, end_s)
        if end_s <= one.duration_s:
            kind = self._outcome.kinds[name]
            kind.latencies_ms.append(1000 * (end_s - begin_s))
            kind.failures += failed
            self._outcome.last_answer_s = max(self._outcome.last_answer_s, end_s)
        return end_s


def tabulate(runs: Sequence[tuple[int, Outcome]], duration_s: float | tuple[float, float]) -> dict[str, Any]:
    """Return runs as a YAML table with the rounding of the published one: a run of so many instances each."""
    first = runs[0][1].experiment
    return {
        "title": "simulated",
        "endpoints": {name: {"method": "GET", "path": f"/{name}"} for name in ENDPOINTS},
        "test": {
            "users": sorted({outcome.experiment.users for _, outcome in runs}),
            "spawn_rate_per_s": first.spawn_rate_per_s,
            "duration_s": duration_s if isinstance(duration_s, float) else list(duration_s),
        },
        "workload": {"wait_s": list(first.wait_s), "weights": dict(ENDPOINTS)},
        "results": [_result(instances, outcome) for instances, outcome in runs],
        "claims": [],
    }


def locust_csv(outcome: Outcome) -> str:
    """Return a run as Locust's `_stats.csv`."""
    percentiles = ",".join(f"{100 * share:.6g}%" for share in SHARES)
    head = (
        "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,"
        f"Max Response Time,Average Content Size,Requests/s,Failures/s,{percentiles}"
    )
    kinds = [("GET", f"/{name}", kind) for name, kind in sorted(outcome.kinds.items())]
    lines = [_csv_line(outcome, *line) for line in (*kinds, ("", "Aggregated", outcome.all))]
    return "\n".join([head, *lines]) + "\n"


def _result(instances: int, outcome: Outcome) -> dict[str, Any]:
    whole = outcome.all
    return {
        "instances": instances,
        "users": outcome.experiment.users,
        "requests": whole.requests,
        "failures_percent": round(100 * whole.failures / whole.requests),
        "median_ms": bucket_ms(whole.median_ms()),
        "rps": round(outcome.rps(whole), 1),
        **{
            name: {"median_ms": bucket_ms(kind.median_ms()), "avg_ms": int(kind.avg_ms)}
            for name, kind in outcome.kinds.items()
        },
    }


def _csv_line(outcome: Outcome, method: str, name: str, kind: Kind) -> str:
    values = (
        *(kind.requests, kind.failures, kind.median_ms(), kind.avg_ms, min(kind.latencies_ms), max(kind.latencies_ms)),
        *(2.0, outcome.rps(kind), kind.failures / outcome.last_answer_s),
        *(kind.percentile_ms(share) for share in SHARES),
    )
    return ",".join([method, name, *map(str, values)])
