"""Exports what the service counts as Serve metrics; Serve adds deployment, replica and application as labels."""

from functools import cache

from ray.serve import metrics as serve_metrics

from serve_app.metrics import Counter, Gauge, Histogram, Metrics


class ServeMetrics(Metrics):
    """The metrics of this process, which holds one replica."""

    def count(self, counter: Counter, value: str = "") -> None:
        """See Metrics."""
        _counter(counter).inc(tags=_tags(counter.label, value))

    def set(self, gauge: Gauge, value: float) -> None:
        """See Metrics."""
        _gauge(gauge).set(value)

    def observe(self, histogram: Histogram, value: float, label_value: str = "") -> None:
        """See Metrics."""
        _histogram(histogram).observe(value, tags=_tags(histogram.label, label_value))


@cache
def _counter(counter: Counter) -> serve_metrics.Counter:
    return serve_metrics.Counter(counter.name, counter.meaning, _keys(counter.label))


@cache
def _gauge(gauge: Gauge) -> serve_metrics.Gauge:
    return serve_metrics.Gauge(gauge.name, gauge.meaning)


@cache
def _histogram(histogram: Histogram) -> serve_metrics.Histogram:
    return serve_metrics.Histogram(histogram.name, histogram.meaning, list(histogram.bounds), _keys(histogram.label))


def _keys(label: str) -> tuple[str] | None:
    return (label,) if label else None


def _tags(label: str, value: str) -> dict[str, str]:
    return {label: value} if label else {}
