"""Exports what the service counts as Serve metrics; Serve adds deployment, replica and application as labels."""

import logging
import threading
import time
from collections import Counter as Counts
from functools import cache

from ray.serve import metrics as serve_metrics

from serve_app.metrics import Counter, Gauge, Histogram, Metrics

logger = logging.getLogger(__name__)

_EVERY_S = 0.5
"""Ray itself passes on what it was given every 5 s."""


class ServeMetrics(Metrics):
    """The metrics of this process, which holds one replica.

    A thread hands them to Ray. Each value costs a call that gives up the interpreter lock, and an event loop that must
    get it back from decoding threads lost a seventh of its time with that.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: Counts[tuple[Counter, str]] = Counts()
        self._latest: dict[tuple[Gauge, str], float] = {}
        self._observed: list[tuple[Histogram, str, float]] = []
        threading.Thread(target=self._hand_over_for_ever, name="metrics", daemon=True).start()

    def count(self, counter: Counter, value: str = "") -> None:
        """See Metrics."""
        with self._lock:
            self._counted[counter, value] += 1

    def set(self, gauge: Gauge, value: float, label_value: str = "") -> None:
        """See Metrics."""
        with self._lock:
            self._latest[gauge, label_value] = value

    def observe(self, histogram: Histogram, value: float, label_value: str = "") -> None:
        """See Metrics."""
        with self._lock:
            self._observed.append((histogram, label_value, value))

    def _hand_over_for_ever(self) -> None:
        while True:
            time.sleep(_EVERY_S)
            try:
                self._hand_over()
            except Exception:  # what was counted meanwhile must not pile up
                logger.exception("metrics were lost")

    def _hand_over(self) -> None:
        with self._lock:
            counted, self._counted = self._counted, Counts()
            latest, self._latest = self._latest, {}
            observed, self._observed = self._observed, []
        for (counter, label_value), count in counted.items():
            _counter(counter).inc(count, tags=_tags(counter.label, label_value))
        for (gauge, label_value), value in latest.items():
            _gauge(gauge).set(value, tags=_tags(gauge.label, label_value))
        for histogram, label_value, value in observed:
            _histogram(histogram).observe(value, tags=_tags(histogram.label, label_value))


@cache
def _counter(counter: Counter) -> serve_metrics.Counter:
    return serve_metrics.Counter(counter.name, counter.meaning, _keys(counter.label))


@cache
def _gauge(gauge: Gauge) -> serve_metrics.Gauge:
    return serve_metrics.Gauge(gauge.name, gauge.meaning, _keys(gauge.label))


@cache
def _histogram(histogram: Histogram) -> serve_metrics.Histogram:
    return serve_metrics.Histogram(histogram.name, histogram.meaning, list(histogram.bounds), _keys(histogram.label))


def _keys(label: str) -> tuple[str] | None:
    return (label,) if label else None


def _tags(label: str, value: str) -> dict[str, str]:
    return {label: value} if label else {}
