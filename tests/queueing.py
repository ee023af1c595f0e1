"""Latency series of a service that queues, computed: what verdicts about measured ones are tried on.

A closed system: users send, wait, think; `predict` waits its turn for one of the servers (first come, first served;
Lindley 1952: an answer begins at the later of its arrival and the server's end of work before it), `lookup` does not.
So latencies follow each other as they do in a real queue. Beside it, what a machine does of its own: every repetition
has its own speed, speed wanders slowly within a repetition, and stalls of 50 to 250 ms hold everything up.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.figures.traffic import Requests, Window
from loadtest.verdict.differences import Repetition

SETTLE_S = 10.0
"""Left out at the beginning: users come one by one."""

_Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Service:
    """How the service and its machine behave."""

    servers: int = 1
    service_ms: float = 70.0
    """Mean of a predict's time on a server."""
    service_spread: float = 0.25
    """Standard deviation of its logarithm."""
    lookup_ms: float = 4.0
    predict_share: float = 1 / 3
    wait_s: tuple[float, float] = (1.0, 5.0)
    repetition_spread: float = 0.03
    """Standard deviation of the logarithm of a repetition's speed."""
    wander_spread: float = 0.03
    """The same of the speed within a repetition."""
    wander_s: float = 15.0
    """How long that speed remembers itself."""
    stalls_per_s: float = 0.05


@dataclass(frozen=True)
class Series:
    """Requests of many repetitions, one row for each, in the order of sending; beyond the end, sent_s is infinite."""

    duration_s: float
    sent_s: _Numbers
    latency_ms: _Numbers
    is_predict: NDArray[np.bool_]

    def repetition(self, row: int, slower: float = 1.0) -> Repetition:
        """Return one of them as the kit reads it, with all latencies `slower` times as long."""
        inside = (self.sent_s[row] >= SETTLE_S) & (self.sent_s[row] <= SETTLE_S + self.duration_s)
        count = int(inside.sum())
        return Repetition(
            Window(SETTLE_S, SETTLE_S + self.duration_s),
            Requests(
                sent_unix_s=self.sent_s[row, inside],
                endpoint=np.where(self.is_predict[row, inside], "predict", "lookup").astype(np.object_),
                latency_ms=self.latency_ms[row, inside] * slower,
                failed=np.zeros(count, np.bool_),
                stages_ms=np.empty(count, np.object_),
                scheduled_unix_s=np.full(count, np.nan),
            ),
        )


def simulate(service: Service, users: int, duration_s: float, repetitions: int, seed: int) -> Series:
    """Return `repetitions` independent runs of `users`, side by side, of `duration_s` seconds after SETTLE_S."""
    rng = np.random.default_rng([seed, users])
    end_s = SETTLE_S + duration_s
    row = np.arange(repetitions)
    slowness = _slowness(service, int(end_s) + 1, repetitions, rng)
    next_s = rng.uniform(0, service.wait_s[1], (repetitions, users))
    free_s = np.zeros((repetitions, service.servers))
    sent: list[_Numbers] = []
    latencies: list[_Numbers] = []
    kinds: list[NDArray[np.bool_]] = []
    while (sent_s := next_s.min(axis=1)).min() <= end_s:
        user = next_s.argmin(axis=1)
        now_slowness = slowness[row, np.minimum(sent_s, end_s).astype(np.int64)]
        is_predict = rng.random(repetitions) < service.predict_share
        work_s = service.service_ms / 1000 * now_slowness * _lognormal(rng, service.service_spread, repetitions)
        stalls = rng.random(repetitions) < service.stalls_per_s / (users / np.mean(service.wait_s))
        stalled_s = np.where(stalls, rng.uniform(0.05, 0.25, repetitions), 0.0)
        server = free_s.argmin(axis=1)
        done_s = np.maximum(sent_s, free_s[row, server]) + work_s + stalled_s
        free_s[row, server] = np.where(is_predict, done_s, free_s[row, server])
        lookup_s = service.lookup_ms / 1000 * now_slowness * _lognormal(rng, 0.35, repetitions) + stalled_s
        latency_s = np.where(is_predict, done_s - sent_s, lookup_s)
        next_s[row, user] = sent_s + latency_s + rng.uniform(*service.wait_s, repetitions)
        sent.append(sent_s)
        latencies.append(1000 * latency_s)
        kinds.append(is_predict)
    return Series(duration_s, np.stack(sent, axis=1), np.stack(latencies, axis=1), np.stack(kinds, axis=1))


def _slowness(service: Service, seconds: int, repetitions: int, rng: np.random.Generator) -> _Numbers:
    """Return by what factor work takes longer, for each repetition and second: an AR(1) series around its own level."""
    memory = np.exp(-1 / service.wander_s)
    steps = rng.normal(0, service.wander_spread, (seconds, repetitions))
    wander = steps.copy()
    for second in range(1, seconds):
        wander[second] = memory * wander[second - 1] + np.sqrt(1 - memory**2) * steps[second]
    level = rng.normal(0, service.repetition_spread, repetitions)
    slowness: _Numbers = np.exp(level + wander).T
    return slowness


def _lognormal(rng: np.random.Generator, spread: float, count: int) -> _Numbers:
    """Return factors whose mean is 1."""
    return rng.lognormal(-(spread**2) / 2, spread, count)
