"""Whether the figures of a steady window meet an objective of the plan. Called by `summary` and by `tune`."""

from collections.abc import Sequence

from loadtest.figures.figures import EndpointFigures, LimitResult, Traffic
from loadtest.plan.limits import Limit
from loadtest.statistics.percentiles import PERCENTILES


def check_limit(limit: Limit, steady: Traffic | None, endpoints: Sequence[EndpointFigures]) -> LimitResult:
    """Return whether the figures of a steady window meet an objective; one without a figure is missed.

    A percentile with too few samples is judged by the largest of them: below that, it cannot be missed.
    """
    value = find_value(limit.endpoint, limit.metric, steady, endpoints)
    judged = value
    if value is None and limit.metric in PERCENTILES and limit.comparison in ("<=", "<"):
        judged = find_value(limit.endpoint, "max_ms", steady, endpoints)
    return LimitResult(limit=limit, value=value, met=judged is not None and limit.holds_for(judged))


def find_value(
    endpoint: str | None, metric: str, steady: Traffic | None, endpoints: Sequence[EndpointFigures]
) -> float | None:
    """Return a metric's figure, of all endpoints together or of one of them; None if there is none."""
    parts: dict[str | None, Traffic | None] = {None: steady, **{part.endpoint: part.judged for part in endpoints}}
    value: float | None = getattr(parts.get(endpoint), metric, None)
    return value
