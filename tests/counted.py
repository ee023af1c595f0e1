"""Metrics that keep what they are told, for the tests."""

from collections import Counter

from serve_app import metrics as metric


class Counted(metric.Metrics):
    """Keeps every count, by metric and label, and every other value in its order."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.values: dict[str, list[float]] = {}

    def count(self, counter: metric.Counter, value: str = "") -> None:
        assert bool(value) == bool(counter.label), f"{counter.name} has the label {counter.label!r}, got {value!r}"
        self.of(counter)[value] += 1

    def set(self, gauge: metric.Gauge, value: float, label_value: str = "") -> None:
        assert bool(label_value) == bool(gauge.label), f"{gauge.name}: {gauge.label!r}, {label_value!r}"
        self.told(gauge, label_value).append(value)

    def observe(self, histogram: metric.Histogram, value: float, label_value: str = "") -> None:
        assert bool(label_value) == bool(histogram.label), f"{histogram.name}: {histogram.label!r}, {label_value!r}"
        self.told(histogram, label_value).append(value)

    def of(self, counter: metric.Counter) -> Counter[str]:
        """Return how often each value of the label was counted; "" where it has none."""
        return self.counts.setdefault(counter.name, Counter())

    def told(self, kept: metric.Gauge | metric.Histogram, label_value: str = "") -> list[float]:
        """Return the values of a gauge or histogram."""
        return self.values.setdefault(f"{kept.name}:{label_value}", [])

    def forget(self) -> None:
        """Begin anew."""
        self.counts.clear()
        self.values.clear()

    @property
    def pictures(self) -> int:
        """How many pictures the engine has computed for clients."""
        return int(sum(self.told(metric.BATCH_PICTURES)))

    @property
    def stages(self) -> frozenset[str]:
        """The stages that requests have passed through."""
        prefix = f"{metric.STAGE_MS.name}:"
        return frozenset(name.removeprefix(prefix) for name in self.values if name.startswith(prefix))

    @property
    def ended_jobs(self) -> list[str]:
        """The states of the jobs that this replica ended, sorted."""
        return sorted(self.of(metric.JOBS_ENDED).elements())
