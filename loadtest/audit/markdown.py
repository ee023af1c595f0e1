"""Writes an audit as a page that a reader can follow with a calculator."""

from collections.abc import Iterator

from loadtest.audit.finding import Audit, CycleLine, Finding, RowLine, RuleResult, show, show_exact
from loadtest.page.markdown import make_table

_NOTHING = "—"


def render_markdown(audit: Audit) -> str:
    """Return the page. The same audit gives the same bytes."""
    sections = [_head(audit), _input(audit), _findings(audit), _cycles(audit), _checked(audit), _rules(audit)]
    return "\n\n".join(block for section in sections for block in section) + "\n"


def _head(audit: Audit) -> Iterator[str]:
    yield f"# Audit of “{audit.title}”"
    yield f"Made by `python -m loadtest audit {audit.file} --format markdown`; the file holds the figures as printed."
    found = len(audit.findings)
    if not found:
        yield "**No findings.** What arithmetic can check agrees with itself."
        return
    by_rule = ", ".join(f"{rule.rule} {rule.findings}" for rule in audit.rules if rule.findings)
    yield (
        f"**{found} finding{'s' * (found != 1)}**: {by_rule}. Each names the row, the sum to redo with a calculator, "
        "and what must be true instead. A range after a sum is what rounding leaves open."
    )


def _input(audit: Audit) -> Iterator[str]:
    yield "## What the report says"
    if audit.stated:
        yield "\n".join(f"- {line}" for line in audit.stated)
    yield make_table(
        ("row", "requests", "RPS", "failures", "median, ms", "mean, ms", "endpoints"), map(_row_cells, audit.rows)
    )
    if audit.claims:
        yield "\n".join(f"- {claim}" for claim in audit.claims)


def _row_cells(row: RowLine) -> tuple[str, ...]:
    numbers = (row.requests, row.rps, row.median_ms, row.avg_ms)
    requests, rps, median, mean = (_NOTHING if number is None else show_exact(number) for number in numbers)
    return (row.row, requests, rps, row.failures or _NOTHING, median, mean, row.endpoints or _NOTHING)


def _findings(audit: Audit) -> Iterator[str]:
    if audit.findings:
        yield "## Findings"
    for number, finding in enumerate(audit.findings, start=1):
        yield _finding(number, finding)


def _finding(number: int, finding: Finding) -> str:
    sums = "\n".join(finding.sums)
    says = finding.says[0].upper() + finding.says[1:]
    return (
        f"### {number}. {finding.row}: {finding.rule}\n\n{says}.\n\n```text\n{sums}\n```\n\n"
        f"What must be true instead: {finding.instead}"
    )


def _cycles(audit: Audit) -> Iterator[str]:
    """Show the cycles of every row, so that a reader sees where nothing is hidden, too."""
    if not audit.cycles:
        return
    yield "## Where the time of a user goes"
    yield (
        "Seconds per request. Hidden = cycle − wait − latency. “Surely” is what remains after every allowance of the "
        "rule *hidden time*, “at most” with every allowance of the rule *think-time limit*. Where “surely” is not "
        "above 0, rounding, chance and the ends of the run may explain it all. A row whose requests ÷ RPS contradicts "
        "the stated duration is listed twice, since either may be right: the second time with the "
        "shortest duration for the cycle and “surely”, with the longest for “at most”."
    )
    header = ("row", "by", "cycle", "wait", "latency", "hidden", "surely", "at most", "so")
    yield make_table(header, map(_cycle_cells, audit.cycles))


def _cycle_cells(line: CycleLine) -> tuple[str, ...]:
    numbers = (line.cycle_s, line.wait_s, line.latency_s, line.hidden_s, line.least_s, line.most_s)
    verdict = "time is hidden" if line.least_s > 0 else "impossible" if line.most_s < 0 else "nothing shown"
    return (line.row, line.by, *map(show, numbers), verdict)


def _checked(audit: Audit) -> Iterator[str]:
    yield "## What was checked"
    rows = ((rule.rule, str(rule.checked) if rule.checked else _NOTHING, str(rule.findings)) for rule in audit.rules)
    yield make_table(("rule", "rows or claims that print what it needs", "findings"), rows)
    if audit.notes:
        yield "\n".join(f"- {note}" for note in audit.notes)


def _rules(audit: Audit) -> Iterator[str]:
    yield "## The rules"
    for rule in audit.rules:
        yield _rule(rule)


def _rule(rule: RuleResult) -> str:
    return f"**{rule.rule}** — {rule.formula}.\n\n- Source: {rule.source}.\n- Tolerance: {rule.tolerance}"
