"""Requests as columns, and the figures of those in a window of time: counts, rates, percentiles, stages.

Called by `summary` with the rows of a cell, or of several that it pools. Knows no plan and no cell.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from loadtest.figures.figures import Stage, Traffic
from loadtest.rows.columns import RequestRow
from loadtest.statistics.intervals import failures_interval_percent
from loadtest.statistics.percentiles import PERCENTILES, sure_percentile

# Finer than any clock behind the figures, and short enough to read in report.json.
_DECIMALS = 4

# One metric of a header: anything up to a comma that is not inside quotes.
_METRIC = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*")+')
# One parameter: likewise up to a semicolon.
_PARAMETER = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*")+')
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Window:
    """A span of time, both ends included; seconds since the epoch."""

    begin_unix_s: float
    end_unix_s: float

    @property
    def length_s(self) -> float:
        """Return its length."""
        return self.end_unix_s - self.begin_unix_s

    def holds(self, unix_s: float) -> bool:
        """Return whether a moment lies in it."""
        return self.begin_unix_s <= unix_s <= self.end_unix_s


@dataclass(frozen=True)
class Requests:
    """Requests as columns of equal length."""

    sent_unix_s: NDArray[np.float64]
    endpoint: NDArray[np.object_]
    latency_ms: NDArray[np.float64]
    """nan for right answers of which the client gave no latency."""
    failed: NDArray[np.bool_]
    stages_ms: NDArray[np.object_]
    """For each request a dict: duration by stage."""
    scheduled_unix_s: NDArray[np.float64]
    """When it should have been sent, in an open loop; nan in a closed one."""

    @property
    def answered_unix_s(self) -> NDArray[np.float64]:
        """Return when each had its whole answer."""
        return self.sent_unix_s + np.nan_to_num(self.latency_ms) / 1000

    @property
    def timed(self) -> NDArray[np.bool_]:
        """Return which are right answers with a latency."""
        return ~self.failed & ~np.isnan(self.latency_ms)

    def select(self, which: NDArray[np.bool_]) -> "Requests":
        """Return those for which `which` is true."""
        return Requests(*(getattr(self, column.name)[which] for column in fields(self)))

    def sent_in(self, window: Window) -> "Requests":
        """Return those sent within `window`."""
        return self.select((self.sent_unix_s >= window.begin_unix_s) & (self.sent_unix_s <= window.end_unix_s))

    def from_schedule(self) -> "Requests":
        """Return them as if sent when scheduled: the time until the real sending is in their latencies.

        So a stall of the target delays every request that was due in it, as it would for the people who wait
        (Tene 2013, "How NOT to measure latency"). What has no scheduled time stays as it is.
        """
        scheduled_unix_s = np.where(np.isnan(self.scheduled_unix_s), self.sent_unix_s, self.scheduled_unix_s)
        latency_ms = self.latency_ms + (self.sent_unix_s - scheduled_unix_s) * 1000
        return replace(self, sent_unix_s=scheduled_unix_s, latency_ms=latency_ms)

    def of(self, endpoint: str) -> "Requests":
        """Return those of one endpoint."""
        return self.select(self.endpoint == endpoint)


def collect_requests(rows: Iterable[RequestRow]) -> Requests:
    """Return rows as columns."""
    rows = list(rows)
    return Requests(
        sent_unix_s=np.array([row.start_unix_s for row in rows], dtype=np.float64),
        endpoint=np.array([row.endpoint for row in rows], dtype=np.object_),
        latency_ms=np.array([row.latency_ms for row in rows], dtype=np.float64),
        failed=np.array([row.error != "" for row in rows], dtype=np.bool_),
        stages_ms=np.array([read_stages_ms(row.server_timing) for row in rows], dtype=np.object_),
        scheduled_unix_s=np.array([row.scheduled_unix_s for row in rows], dtype=np.float64),
    )


def pool_requests(parts: Sequence[Requests]) -> Requests:
    """Return the requests of several cells together; at least one part."""
    return Requests(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Requests)))


def compute_traffic(requests: Requests, window_s: float) -> Traffic:
    """Return the figures of requests that were sent within `window_s` seconds.

    Percentiles are order statistics over the right answers; None with fewer samples than LEAST_SAMPLES.
    """
    count, failures = len(requests.failed), int(requests.failed.sum())
    right_ms = requests.latency_ms[requests.timed]
    percentiles_ms = {
        name: _rounded(value)
        for name, share in PERCENTILES.items()
        if (value := sure_percentile(right_ms, share)) is not None
    }
    return Traffic(
        requests=count,
        failures=failures,
        failures_percent=_rounded(100 * failures / count) if count else None,
        failures_interval_percent=failures_interval_percent(failures, count),
        untimed=count - failures - right_ms.size,
        rps=_rounded(count / window_s) if window_s > 0 else None,
        avg_ms=_rounded(right_ms.mean()) if right_ms.size else None,
        max_ms=_rounded(right_ms.max()) if right_ms.size else None,
        **percentiles_ms,
    )


def compute_stages(requests: Requests) -> list[Stage]:
    """Return the mean of each stage over the right answers, in the order of the headers.

    An answer without the stage counts as 0 ms, so that the stages and what they leave unexplained add up to the
    mean latency.
    """
    sums_ms: dict[str, float] = {}
    right = requests.stages_ms[~requests.failed]
    for stages in right:
        for name, spent_ms in stages.items():
            sums_ms[name] = sums_ms.get(name, 0.0) + spent_ms
    return [Stage(name=name, avg_ms=_rounded(spent_ms / len(right))) for name, spent_ms in sums_ms.items()]


def count_under_way(requests: Requests, window: Window) -> float:
    """Return how many requests were under way within `window`, on average over its time."""
    begin_s = np.maximum(requests.sent_unix_s, window.begin_unix_s)
    end_s = np.minimum(requests.answered_unix_s, window.end_unix_s)
    return float(np.clip(end_s - begin_s, 0, None).sum() / window.length_s)


def count_answers(requests: Requests, window: Window) -> int:
    """Return how many answers were complete within `window`, failed ones too."""
    answered = requests.answered_unix_s
    return int(((answered >= window.begin_unix_s) & (answered <= window.end_unix_s)).sum())


def read_stages_ms(header: str) -> dict[str, float]:
    """Return the durations in a Server-Timing header by name (W3C Server Timing), in its order.

    Durations of the same name are added up; what is not in the format, or has no duration, is left out.
    """
    stages_ms: dict[str, float] = {}
    for metric in _METRIC.findall(header):
        name, *parameters = [part.strip() for part in _PARAMETER.findall(metric)] or [""]
        duration_ms = _duration_ms(parameters)
        if duration_ms is not None and _NAME.fullmatch(name):
            stages_ms[name] = stages_ms.get(name, 0.0) + duration_ms
    return stages_ms


def _duration_ms(parameters: list[str]) -> float | None:
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "dur":
            try:
                duration_ms = float(value.strip().strip('"'))
            except ValueError:
                return None
            return duration_ms if math.isfinite(duration_ms) and duration_ms >= 0 else None
    return None


def _rounded(value: float) -> float:
    return round(float(value), _DECIMALS)
