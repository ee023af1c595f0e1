"""The result of an audit: findings with their calculation, the rules behind them, and how numbers are shown.

Made by the rules, printed by `terminal` and `markdown`; its JSON is what `--format json` prints.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loadtest.plan.keys import Strict


class Finding(Strict):
    """A figure or a sentence of the report that cannot be as it is printed."""

    rule: str
    row: str
    """Which row, or which claim."""
    says: str
    """What is wrong, in one sentence."""
    sums: list[str]
    """The calculation, one step a line."""
    numbers: dict[str, float]
    """Those that the sentence rests on; the unit is the end of the name."""
    instead: str
    """What must be true instead."""


@dataclass(frozen=True)
class Rule:
    """One kind of check, as its reader needs it."""

    name: str
    formula: str
    source: str
    tolerance: str
    """What it allows for, and why so much."""

    def finding(self, row: str, says: str, sums: Sequence[str], instead: str, **numbers: float) -> Finding:
        """Return a finding of this rule."""
        return Finding(rule=self.name, row=row, says=says, sums=list(sums), numbers=numbers, instead=instead)


@dataclass(frozen=True)
class Checked:
    """A rule that was applied to a report."""

    rule: Rule
    findings: Sequence[Finding]
    count: int
    """Rows or claims that print what the rule needs."""


class CycleLine(Strict):
    """Where one row leaves the time of its users, seconds per request."""

    row: str
    by: str
    """How long the run was taken to be."""
    cycle_s: float
    wait_s: float
    latency_s: float
    hidden_s: float
    least_s: float
    """After all allowances; above 0 the statistics hide time."""
    most_s: float
    """With all allowances; below 0 the row is impossible."""


class RuleResult(Strict):
    """A rule with the number of its findings."""

    rule: str
    checked: int
    """Rows or claims that print what the rule needs."""
    findings: int
    formula: str
    source: str
    tolerance: str


class RowLine(Strict):
    """One row as it was read."""

    row: str
    requests: int | None
    rps: float | None
    failures: str
    median_ms: float | None
    avg_ms: float | None
    endpoints: str


class Audit(Strict):
    """All that an audit found."""

    file: str
    title: str
    stated: list[str]
    """What the report says of its test."""
    rows: list[RowLine]
    claims: list[str]
    findings: list[Finding]
    cycles: list[CycleLine]
    rules: list[RuleResult]
    notes: list[str]
    """What could not be checked, and why."""


def show(value: float) -> str:
    """Return a number for a reader with a calculator: about three digits, never fewer than before the point."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "?")
    size = abs(value)
    decimals = next((digits for digits, below in ((3, 0.0995), (2, 9.995), (1, 999.95)) if size < below), 0)
    text = f"{value:.{decimals}f}"
    if float(text) == int(float(text)):
        text = f"{float(text):.0f}"
    return "0" if text == "-0" else text.replace("-", "−")


def show_s(value: float) -> str:
    """Return seconds that are to be added up: to a millisecond."""
    if not math.isfinite(value):
        return show(value)
    return f"{value:.3f}".rstrip("0").rstrip(".").replace("-", "−")


def show_exact(value: float) -> str:
    """Return a number that was printed to many digits."""
    return f"{value:.10g}".replace("-", "−")


def show_range(low: float, high: float, shown: Callable[[float], str] = show) -> str:
    """Return a range, or the one number that it is."""
    return shown(low) if shown(low) == shown(high) else f"{shown(low)} to {shown(high)}"
