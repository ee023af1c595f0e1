"""Audits a file: reads it by its kind, applies every rule, and returns the result. Called by `command`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loadtest.audit import claims, counts, cycles, latencies, rates, untimed
from loadtest.audit.derived import check_derived
from loadtest.audit.finding import Audit, Checked, Finding, RowLine, Rule, RuleResult, show
from loadtest.audit.locust_stats import RunFacts, read_locust_stats
from loadtest.audit.own_report import read_own_report
from loadtest.audit.published import read_published
from loadtest.audit.table import Claim, Printed, Row, Table
from loadtest.errors import BadInputError

_ROW_RULES: Mapping[Rule, Callable[[Row], list[Finding] | None]] = {
    counts.COUNTS: counts.check_counts,
    rates.IMPLIED_DURATION: rates.check_duration,
    cycles.IMPOSSIBLE_RATE: cycles.check_limit,
    cycles.HIDDEN_TIME: cycles.check_hidden_time,
    latencies.WEIGHTED_MEAN: latencies.check_weighted_mean,
    latencies.MIXTURE_MEDIAN: latencies.check_mixture_median,
    latencies.POSSIBLE_MEAN: latencies.check_possible_means,
    latencies.PERCENTILE_ORDER: latencies.check_percentile_order,
}
"""Each returns None for a row that does not print what it needs."""

_CLAIM_RULES: Sequence[Callable[[Table], Checked]] = (
    rates.check_ratios,
    claims.check_capped,
    claims.check_numbers,
    claims.check_winners,
    claims.check_contradictions,
)


def audit_file(path: Path, facts: RunFacts) -> Audit:
    """Return what arithmetic has against a report: .json is ours, .csv Locust's `_stats.csv`, .yaml a table.

    `facts` says of a Locust run what its CSV does not. Raises BadInputError for a file that cannot be read, or that has
    nothing to check.
    """
    if path.suffix == ".json":
        report = read_own_report(path)
        return _audit(path, report.tabulate(), [check_derived(report)])
    if path.suffix == ".csv":
        return _audit(path, read_locust_stats(path, facts))
    if path.suffix in {".yaml", ".yml"}:
        table = read_published(path)
        return _audit(path, table, [check(table) for check in _CLAIM_RULES])
    raise BadInputError(
        f"{path}: neither .json (our report.json), .csv (Locust's _stats.csv) nor .yaml (a table of a report)"
    )


def _check_rows(table: Table, rule: Rule, check: Callable[[Row], list[Finding] | None]) -> Checked:
    results = [findings for row in table.rows if (findings := check(row)) is not None]
    return Checked(rule, [finding for findings in results for finding in findings], len(results))


def _audit(path: Path, table: Table, further: Sequence[Checked] = ()) -> Audit:
    results = [*(_check_rows(table, rule, check) for rule, check in _ROW_RULES.items()), *further]
    has_requests = any(row.all.requests for row in table.rows)
    if not any(one.count for one in results) or not (has_requests or path.suffix == ".json"):
        why = "does not print two figures that could be compared" if has_requests else "counts no request"
        raise BadInputError(f"{path}: {why}, so there is nothing to check")
    return Audit(
        file=path.as_posix(),
        title=table.title,
        stated=list(table.stated),
        rows=[_shown_row(row) for row in table.rows],
        claims=[_quoted(table, claim) for claim in (*table.claims, *table.conclusions)],
        findings=[finding for one in results for finding in one.findings],
        cycles=[line for row in table.rows for line in cycles.list_cycles(row)],
        rules=[_result(one) for one in results],
        notes=[*table.notes, *claims.list_unread(table), *untimed.list_untimed(table)],
    )


def _quoted(table: Table, claim: Claim) -> str:
    winner = "" if claim.winner is None else f" (winner: {table.title_of(claim.winner)})"
    return f"{claim.where}: “{claim.text}”{winner}"


def _result(one: Checked) -> RuleResult:
    rule = one.rule
    return RuleResult(
        rule=rule.name,
        checked=one.count,
        findings=len(one.findings),
        formula=rule.formula,
        source=rule.source,
        tolerance=rule.tolerance,
    )


def _shown_row(row: Row) -> RowLine:
    return RowLine(
        row=row.name,
        requests=row.all.requests,
        rps=row.all.rps.value if row.all.rps else None,
        failures=_failures(row.all),
        median_ms=row.all.median_ms.value if row.all.median_ms else None,
        avg_ms=row.all.avg_ms.value if row.all.avg_ms else None,
        endpoints="; ".join(f"{name}: {cycles.describe_figures(part)}" for name, part in row.parts.items()),
    )


def _failures(figures: Printed) -> str:
    if figures.failures_percent is not None:
        return f"{show(figures.failures_percent.value)} %"
    return "" if figures.failures is None else str(figures.failures)
