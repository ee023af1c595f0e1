"""Rules on counts: failures are a part of the requests, and endpoints add up to all."""

from collections.abc import Iterator

from loadtest.audit.finding import Finding, Rule, show_exact
from loadtest.audit.interval import exact
from loadtest.audit.table import Printed, Row

COUNTS = Rule(
    name="counts",
    formula=(
        "0 ≤ failures ≤ requests; failures % = 100 × failures ÷ requests; requests and failures of all = sums over the "
        "endpoints"
    ),
    source="what a count is",
    tolerance="None for counts; percentages by half a unit of their last digit.",
)


def check_counts(row: Row) -> list[Finding] | None:
    """Check the counts of a row, of its endpoints, and their sums."""
    known = {name: figures for name, figures in row.kinds.items() if figures.requests is not None}
    compared = [one for one in known.values() if one.failures is not None or one.failures_percent is not None]
    if not compared and not (row.parts and all(part.requests is not None for part in row.parts.values())):
        return None
    own = [finding for name, figures in known.items() for finding in _check_failures(name, figures)]
    return own + [finding for what in ("requests", "failures") for finding in _check_sum(row, what)]


def _check_failures(name: str, figures: Printed) -> Iterator[Finding]:
    requests, failures, percent = figures.requests, figures.failures, figures.failures_percent
    assert requests is not None, "only of kinds that print their requests"
    if failures is not None and failures > requests:
        yield COUNTS.finding(
            name,
            f"{failures} of {requests} requests failed",
            [f"{failures} failures > {requests} requests"],
            "Only requests can fail: there are at most as many failures as requests.",
        )
    elif percent is not None and percent.low > 100:  # noqa: PLR2004 # percent
        shown = f"{show_exact(percent.value)} %"
        instead = "Only requests can fail: at most 100 % of them."
        yield COUNTS.finding(name, f"{shown} of the requests failed", [f"{shown} > 100 %"], instead)
    elif failures is not None and percent is not None and requests:
        share = exact(100 * failures / requests)
        if not share.overlaps(percent):
            yield COUNTS.finding(
                name,
                f"{failures} of {requests} requests are not {show_exact(percent.value)} %",
                [f"100 × {failures} ÷ {requests} = {show_exact(share.value)} %"],
                f"{failures} of {requests} requests are {show_exact(share.value)} %.",
            )


def _check_sum(row: Row, what: str) -> Iterator[Finding]:
    total = getattr(row.all, what)
    parts = {name: getattr(part, what) for name, part in row.parts.items()}
    if total is None or not parts or None in parts.values():
        return
    added = sum(parts.values())
    if added > total or (row.parts_are_all and added != total):
        terms = " + ".join(f"{count} ({name})" for name, count in parts.items())
        yield COUNTS.finding(
            row.name,
            f"the parts have {added} {what} together, all of them {total}",
            [f"{terms} = {added}; printed for all: {total}"],
            f"Every one of the {what} belongs to one of the parts, so there are {added}, or a part is wrong.",
        )
