"""Audits a file: reads it by its kind, applies every rule, and hands over what it found. Called by `command`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from loadtest.audit import claims, counts, cycles, latencies, own_report, rates, untimed
from loadtest.audit.finding import Audit, Finding, Row, Rule, RuleResult, show
from loadtest.audit.locust_stats import RunFacts, read_locust_stats
from loadtest.audit.published import read_published
from loadtest.audit.table import Printed, Table
from loadtest.audit.table import Row as TableRow
from loadtest.errors import BadInputError

_ROW_RULES: Sequence[tuple[Rule, Callable[[TableRow], list[Finding] | None]]] = (
    (counts.COUNTS, counts.check_counts),
    (rates.IMPLIED_DURATION, rates.check_duration),
    (cycles.IMPOSSIBLE_RATE, cycles.check_limit),
    (cycles.HIDDEN_TIME, cycles.check_hidden_time),
    (latencies.WEIGHTED_MEAN, latencies.check_weighted_mean),
    (latencies.MIXTURE_MEDIAN, latencies.check_mixture_median),
    (latencies.POSSIBLE_MEAN, latencies.check_possible_means),
    (latencies.PERCENTILE_ORDER, latencies.check_percentile_order),
)

_CLAIM_RULES: Sequence[tuple[Rule, Callable[[Table], list[Finding] | None], Callable[[Table], int]]] = (
    (rates.THROUGHPUT_RATIO, rates.check_ratios, rates.count_pairs),
    (claims.CAPPED, claims.check_capped, lambda table: len(table.claims)),
    (claims.CLAIMED_NUMBER, claims.check_numbers, claims.count_statements),
    (claims.CLAIMED_WINNER, claims.check_winners, lambda table: len(table.claims)),
    (claims.CONTRADICTION, claims.check_contradictions, lambda table: len(table.claims) + len(table.conclusions)),
)


def audit_file(path: Path, facts: RunFacts) -> Audit:
    """Return what arithmetic has against a report: .json is ours, .csv Locust's `_stats.csv`, .yaml a table.

    `facts` says of a Locust run what its CSV does not. Raises BadInputError for a file that cannot be read, or that has
    nothing to check.
    """
    if path.suffix == ".json":
        figures = own_report.read_own_report(path)
        checked = (own_report.DERIVED, own_report.check_derived(figures), own_report.count_derived(figures))
        return _audit(path, own_report.tabulate(figures), _row_results, [checked])
    if path.suffix == ".csv":
        return _audit(path, read_locust_stats(path, facts), _row_results, [])
    if path.suffix in {".yaml", ".yml"}:
        return _audit(path, read_published(path), _all_results, [])
    raise BadInputError(
        f"{path}: neither .json (our report.json), .csv (Locust's _stats.csv) nor .yaml (a table of a report)"
    )


_Result = tuple[Rule, list[Finding], int]
"""A rule, what it found, and how often it had what it needs."""


def _row_results(table: Table) -> list[_Result]:
    results = []
    for rule, check in _ROW_RULES:
        outcomes = [outcome for row in table.rows if (outcome := check(row)) is not None]
        results.append((rule, [finding for outcome in outcomes for finding in outcome], len(outcomes)))
    return results


def _all_results(table: Table) -> list[_Result]:
    results = _row_results(table)
    for rule, check, count in _CLAIM_RULES:
        found = check(table)
        results.append((rule, found or [], 0 if found is None else count(table)))
    return results


def _audit(path: Path, table: Table, apply: Callable[[Table], list[_Result]], further: list[_Result]) -> Audit:
    results = [*apply(table), *further]
    has_requests = any(row.all.requests for row in table.rows)
    if not any(checked for _, _, checked in results) or not (has_requests or further):
        why = "does not print two figures that could be compared" if has_requests else "counts no request"
        raise BadInputError(f"{path}: {why}, so there is nothing to check")
    return Audit(
        file=path.as_posix(),
        title=table.title,
        stated=list(table.stated),
        rows=[_shown_row(row) for row in table.rows],
        claims=[f"{claim.where}: “{claim.text}”{_told_winner(table, claim.winner)}" for claim in table.claims]
        + [f"{one.where}: “{one.text}”" for one in table.conclusions],
        findings=[finding for _, found, _ in results for finding in found],
        cycles=[line for row in table.rows for line in cycles.list_cycles(row)],
        rules=[
            RuleResult(
                rule=rule.name,
                checked=checked,
                findings=len(found),
                formula=rule.formula,
                source=rule.source,
                tolerance=rule.tolerance,
            )
            for rule, found, checked in results
        ],
        notes=[*table.notes, *claims.list_unread(table), *untimed.list_untimed(table)],
    )


def _told_winner(table: Table, winner: str | None) -> str:
    return "" if winner is None else f" (winner: {table.names.get(winner, winner)})"


def _shown_row(row: TableRow) -> Row:
    return Row(
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
