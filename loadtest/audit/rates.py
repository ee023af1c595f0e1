"""Rules on rates: requests ÷ RPS must be the length of the run, and rows must compare alike by RPS and by requests."""

from collections.abc import Callable
from itertools import combinations

from loadtest.audit.finding import Checked, Finding, Rule, show, show_exact, show_range
from loadtest.audit.interval import Interval, exact
from loadtest.audit.table import Printed, Row, Table

CLOCK_S = 1.0
"""Locust looks about once a second whether the time is up."""

GAPS = 10.0
"""Answers that come at random leave a gap of more than 10 mean gaps in 1 of 22,000 cases (e⁻¹⁰)."""

LATENCY_FACTOR = 3.0
"""How much longer than the mean of the slowest endpoint an answer may be under way, where no maximum is printed."""

IMPLIED_DURATION = Rule(
    name="implied duration",
    formula="requests ÷ RPS = duration",
    source="what a rate is; Locust's own RPS of a run is its requests ÷ (last answer − start)",
    tolerance=(
        "RPS by half a unit of its last digit. The run may seem shorter than stated by the ramp (users ÷ spawn rate; "
        "`--reset-stats` begins to count after it), by 1 s (Locust looks once a second whether the time is up), and by "
        "the gap after the last answer (10 ÷ rate, or the mean latency if that is longer). It may seem longer by 1 s "
        "and by the longest answer under way (the printed maximum, else 3 × the largest mean of an endpoint)."
    ),
)

THROUGHPUT_RATIO = Rule(
    name="throughput ratio",
    formula="for runs of the same stated duration: RPS ÷ RPS = requests ÷ requests",
    source="what a rate is",
    tolerance=(
        "Only where a row's implied duration contradicts the stated one; otherwise the runs may have differed in "
        "length within the stated range. RPS by half a unit of its last digit; the durations by 1 s and 10 ÷ rate."
    ),
)


def implied_duration_s(figures: Printed) -> Interval | None:
    """Return requests ÷ RPS; None when one of them is not printed, or nothing was sent."""
    if not figures.requests or figures.rps is None:
        return None
    return exact(figures.requests) / figures.rps


def longest_latency_s(row: Row) -> float:
    """Return how long a request may be under way: the printed maximum, else LATENCY_FACTOR × the largest mean."""
    if row.all.max_ms is not None:
        return row.all.max_ms.high / 1000
    means_ms = [part.avg_ms.high for part in (row.all, *row.parts.values()) if part.avg_ms is not None]
    return LATENCY_FACTOR * max(means_ms, default=0.0) / 1000


def allowed_duration_s(row: Row) -> Interval | None:
    """Return what requests ÷ RPS may be in an honest row; None when it states no duration."""
    stated = row.window.stated_s
    if stated is None or row.window.is_exact or not row.all.requests:
        return stated
    low = stated.low - row.window.ramp_s - CLOCK_S - _last_gap_s(row, stated)
    return Interval(max(0.0, low), stated.value, stated.high + CLOCK_S + longest_latency_s(row))


def contradicts_duration(row: Row) -> bool:
    """Return whether requests ÷ RPS is outside what the stated duration allows."""
    implied, allowed = implied_duration_s(row.all), allowed_duration_s(row)
    return implied is not None and allowed is not None and not implied.overlaps(allowed)


def check_duration(row: Row) -> list[Finding] | None:
    """Compare the implied duration with the stated one, and that of each endpoint with the row's."""
    implied = implied_duration_s(row.all)
    if implied is None:
        return None
    parts = {name: implied_duration_s(part) for name, part in row.parts.items()} if row.parts_share_window else {}
    known = {name: part for name, part in parts.items() if part is not None}
    if row.window.stated_s is None and not known:
        return None
    findings = [_other_duration(row, implied)] if contradicts_duration(row) else []
    return findings + [
        _other_part(row, name, part, implied) for name, part in known.items() if not part.overlaps(implied)
    ]


def check_ratios(table: Table) -> Checked:
    """Compare each two targets at the same number of users by RPS and by requests."""
    rows = [row for row in table.rows if implied_duration_s(row.all) and row.window.stated_s]
    pairs = [
        (one, two)
        for users in dict.fromkeys(row.users for row in rows)
        for one, two in combinations([row for row in rows if row.users == users], 2)
        if one.window.stated_s == two.window.stated_s
    ]
    findings = [
        _other_ratio(table, one, two)
        for one, two in pairs
        if (contradicts_duration(one) or contradicts_duration(two)) and not _length_s(one).overlaps(_length_s(two))
    ]
    return Checked(THROUGHPUT_RATIO, findings, len(pairs))


def _last_gap_s(row: Row, stated: Interval) -> float:
    """Return how long before the end of a run its last answer may come."""
    mean_ms = row.all.avg_ms or row.mixed_avg_ms()
    assert row.all.requests, "only of rows with requests"
    return max(GAPS * stated.high / row.all.requests, mean_ms.high / 1000 if mean_ms else 0.0)


def _length_s(row: Row) -> Interval:
    """Return how long the run of a row may have lasted by its requests and RPS."""
    implied = implied_duration_s(row.all)
    assert implied is not None and row.all.requests, "only of rows that print both"  # noqa: PT018
    margin_s = CLOCK_S + GAPS * implied.value / row.all.requests
    return Interval(implied.low - margin_s, implied.value, implied.high + margin_s)


def _division(figures: Printed, shown: Callable[[float], str] = show_exact) -> str:
    implied = implied_duration_s(figures)
    assert implied is not None and figures.rps is not None, "only of rows that print both"  # noqa: PT018
    return f"{figures.requests} requests ÷ {show_exact(figures.rps.value)} requests/s = {shown(implied.value)} s"


def _other_duration(row: Row, implied: Interval) -> Finding:
    stated, allowed, rps = row.window.stated_s, allowed_duration_s(row), row.all.rps
    assert stated and allowed and rps and row.all.requests, "only of rows that print all of them"  # noqa: PT018
    shown = show_exact if row.window.is_exact else show
    needed = exact(row.all.requests) / stated
    rounding = f"; with the rounding of RPS {show_range(implied.low, implied.high)} s" if rps.is_rounded else ""
    return IMPLIED_DURATION.finding(
        row.name,
        f"requests and RPS imply a run of {shown(implied.value)} s, but {show_range(stated.low, stated.high, shown)} s "
        "are stated",
        [
            _division(row.all, shown) + rounding,
            *([] if row.window.is_exact else _allowance_sums(row, stated, allowed)),
        ],
        f"If the requests and the duration are right, the RPS was {show_range(needed.low, needed.high, shown)}; if the "
        f"RPS is right, the run lasted {shown(implied.value)} s. (Locust shows two: the RPS of the run, and that of "
        "its last 10 s.)",
        requests=row.all.requests,
        rps=rps.value,
        implied_s=implied.value,
        stated_least_s=stated.low,
        stated_most_s=stated.high,
        allowed_least_s=allowed.low,
        allowed_most_s=allowed.high,
    )


def _allowance_sums(row: Row, stated: Interval, allowed: Interval) -> list[str]:
    ramp, gap, longest = row.window.ramp_s, _last_gap_s(row, stated), longest_latency_s(row)
    least = (
        f"{show(stated.low)} s stated − {show(ramp)} s ramp − {show(CLOCK_S)} s clock − {show(gap)} s after the last"
    )
    most = f"{show(stated.high)} s stated + {show(CLOCK_S)} s clock + {show(longest)} s for the last"
    return [
        f"at least: {least} answer = {show(allowed.low)} s",
        f"at most: {most} answer = {show(allowed.high)} s",
    ]


def _other_part(row: Row, name: str, part: Interval, implied: Interval) -> Finding:
    return IMPLIED_DURATION.finding(
        f"{row.name}, {name}",
        f"the figures of {name} imply another length of the same run than those of all requests",
        [f"{name}: {_division(row.parts[name])}", f"all: {_division(row.all)}"],
        "All endpoints were asked in the same run, so requests ÷ RPS must be the same for each of them: one of the "
        "four numbers is of another time.",
        part_s=part.value,
        all_s=implied.value,
    )


def _other_ratio(table: Table, first: Row, second: Row) -> Finding:
    """Write down both ratios, so that the first is the faster one by RPS."""
    if first.all.rps and second.all.rps and first.all.rps.value < second.all.rps.value:
        first, second = second, first
    rps = (first.all.rps, second.all.rps)
    requests = (first.all.requests, second.all.requests)
    assert rps[0] and rps[1] and requests[0] and requests[1], "only of rows that print all of them"  # noqa: PT018
    by_rps, by_requests = rps[0] / rps[1], requests[0] / requests[1]
    one, other = table.title_of(first.target), table.title_of(second.target)
    instead = (
        f"Runs of the same length have the same ratio by both. By the counts it is {show(by_requests)}x; for the RPS "
        "to hold, the runs must have lasted as long as each row's requests ÷ RPS, which is not what is stated."
    )
    rounding = f"with rounding {show_range(by_rps.low, by_rps.high)}"
    flips = by_rps.low > 1 > by_requests
    if flips:
        instead = (
            f"If both runs lasted as long, {other} served {show(1 / by_requests)}x as much as {one}; as RPS and "
            "requests contradict each other, these rows name no winner in throughput."
        )
    return THROUGHPUT_RATIO.finding(
        f"{one} and {other}, {first.users} users",
        f"by RPS {one} sends {show(by_rps.value)}x as much as {other}, by requests {show(by_requests)}x"
        + (": the sign flips" if flips else ""),
        [
            f"by RPS: {show_exact(rps[0].value)} ÷ {show_exact(rps[1].value)} = {show(by_rps.value)}; {rounding}",
            f"by requests: {requests[0]} ÷ {requests[1]} = {show(by_requests)}",
        ],
        instead,
        by_rps=by_rps.value,
        by_requests=by_requests,
    )
