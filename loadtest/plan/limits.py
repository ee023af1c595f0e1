"""Objectives of a plan, such as `lookup.p95_ms <= 50`."""

import operator
import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

from loadtest.plan.keys import Strict

METRICS = ("failures_percent", "rps", "median_ms", "avg_ms", "p95_ms", "p99_ms", "max_ms")
_COMPARE = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}
_LIMIT = re.compile(
    r"(?:(?P<endpoint>[\w-]+)\.)?(?P<metric>\w+)\s*(?P<comparison><=|>=|<|>)\s*(?P<value>\d+\.?\d*|\.\d+)"
)


class Limit(Strict):
    """One objective, written `failures_percent <= 0` or `lookup.p95_ms <= 50`; it holds for every cell."""

    endpoint: str | None
    metric: str
    comparison: Literal["<=", "<", ">=", ">"]
    value: float

    def __str__(self) -> str:
        prefix = f"{self.endpoint}." if self.endpoint else ""
        value = f"{self.value:.9f}".rstrip("0").rstrip(".")
        return f"{prefix}{self.metric} {self.comparison} {value}"

    def holds_for(self, value: float) -> bool:
        """Return whether a measured value meets the objective."""
        return bool(_COMPARE[self.comparison](value, self.value))


def read_limit(text: object) -> Limit:
    """Return the objective that `text` states. Raises ValueError with what is allowed."""
    if isinstance(text, Limit):
        return text
    found = _LIMIT.fullmatch(str(text).strip())
    if not found or found["metric"] not in METRICS:
        raise ValueError(
            f"{text!r} is not of the form `[endpoint.]metric <= number`; metrics: {', '.join(METRICS)}; "
            "comparisons: <= < >= >"
        )
    return Limit.model_validate(found.groupdict())


StatedLimit = Annotated[Limit, BeforeValidator(read_limit), PlainSerializer(str, return_type=str)]
"""An objective that files hold as it is written."""
