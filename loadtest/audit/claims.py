"""Rules on claims: what a report says of its rows against the rows, and against what it says elsewhere."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from loadtest.audit.cycles import CAPPED_SHARE, is_capped, think_time_limit_rps
from loadtest.audit.finding import Finding, Rule, show, show_exact
from loadtest.audit.interval import Interval, exact
from loadtest.audit.rates import contradicts_duration
from loadtest.audit.table import Claim, Conclusion, Printed, Row, Statement, Table

SAME_SHARE = 0.1
"""By how much figures may differ that are called the same; two runs of one service differ by several percent."""

CAPPED = Rule(
    name="capped comparison",
    formula="a throughput of 90 % of users ÷ mean wait, or more, is the users' and not the service's",
    source="interactive response time law with R ≪ Z",
    tolerance=(
        "Counts only where a winner is named and throughput is among the reasons; that such rows exist is no fault. A "
        "row whose RPS contradicts its duration does not count as capped."
    ),
)

CLAIMED_NUMBER = Rule(
    name="claimed number",
    formula=(
        "`Nx` = winner ÷ other (of less: other ÷ winner); `N % more` = (winner − other) ÷ other, `N % less` = (other − "
        "winner) ÷ other; either may also be meant as a share of the other one"
    ),
    source="what the words mean; of several readings (median or mean, RPS or requests) one is enough",
    tolerance=(
        "The claimed number by half a unit of its last digit below (rounded) and a whole one above (cut off), the "
        "figures by their own rounding; `same` and `similar` by 10 %. Throughput must hold by requests where RPS "
        "contradicts the stated duration."
    ),
)

CLAIMED_WINNER = Rule(
    name="claimed winner",
    formula="the winner is better in at least one figure of its level",
    source="what winning means",
    tolerance="RPS, failures, each median and mean count. One that rounding leaves open speaks for the winner.",
)

CONTRADICTION = Rule(
    name="contradiction",
    formula="one quantity, two targets, one number of users: one number; one recommendation for all levels: one winner",
    source="logic",
    tolerance="Two numbers for the same thing by half a unit of the last digit of each.",
)


@dataclass(frozen=True)
class _Reading:
    """One way to take a quantity from the rows."""

    name: str
    winner: Interval
    other: Interval
    is_requests: bool = False
    """Whether it is throughput by the counts."""
    is_rps: bool = False


@dataclass(frozen=True)
class _Meaning:
    """A reading with what its two figures make of a statement."""

    reading: _Reading
    sum: str
    value: Interval
    """In the unit of the statement; of a statement without a number, winner ÷ other."""
    holds: bool


def check_numbers(table: Table) -> list[Finding] | None:
    """Compare every number that a claim names with what the rows make of it."""
    checked = list(_statements(table))
    if not checked:
        return None
    return [finding for claim, statement in checked for finding in _check_statement(table, claim, statement)]


def check_capped(table: Table) -> list[Finding] | None:
    """Tell where a winner is named by the throughput of rows in which the users set the pace."""
    claims = [claim for claim in table.claims if claim.winner is not None and claim.names_winner]
    if not claims:
        return None
    return [
        _capped(table, claim)
        for claim in claims
        if any(one.quantity == "throughput" for one in claim.says) and _is_capped_level(table, claim.users)
    ]


def check_winners(table: Table) -> list[Finding] | None:
    """Tell where the winner of a claim is worse in every figure."""
    claims = [claim for claim in table.claims if claim.winner is not None and claim.names_winner]
    if not claims:
        return None
    return [finding for claim in claims for finding in _check_winner(table, claim)]


def check_contradictions(table: Table) -> list[Finding] | None:
    """Tell where two claims, or a claim and the conclusion, cannot both be true."""
    if not table.conclusions and not table.claims:
        return None
    conclusions = [finding for one in table.conclusions for finding in _check_conclusion(table, one)]
    pairs = combinations(_statements(table), 2)
    return conclusions + [finding for first, second in pairs for finding in _check_pair(first, second)]


def list_unread(table: Table) -> list[str]:
    """Return a note for each part of a claim that has nothing to be compared with."""
    notes = []
    for claim in table.claims:
        compared = [one for checked, one in _statements(table) if checked is claim]
        notes += [
            f"{claim.where}: “{one.text}” has no rows, or no figures in them, to be compared with"
            for one in claim.says
            if one not in compared
        ]
    for conclusion in table.conclusions:
        if conclusion.target is None or not conclusion.covers_all_levels:
            told = f"“{conclusion.text}” does not name one target for all levels, so not checked"
            notes.append(f"{conclusion.where}: {told}")
    return notes


def count_statements(table: Table) -> int:
    """Return how many numbers, and words such as `same`, can be compared with the rows."""
    return len(list(_statements(table)))


def _statements(table: Table) -> Iterator[tuple[Claim, Statement]]:
    """Yield what claims with a winner say, where there is a row of the winner and one of another."""
    for claim in table.claims:
        rows = table.level(claim.users)
        if claim.winner in rows and len(rows) > 1:
            yield from ((claim, statement) for statement in claim.says if _readings(table, claim, statement))


def _check_statement(table: Table, claim: Claim, statement: Statement) -> Iterator[Finding]:
    meanings = [meaning for one in _readings(table, claim, statement) for meaning in _meanings(one, statement)]
    decisive = meanings
    if _rps_is_doubtful(table, claim) and any(meaning.reading.is_requests for meaning in meanings):
        decisive = [meaning for meaning in meanings if not meaning.reading.is_rps]
    if any(meaning.holds for meaning in decisive):
        return
    firsts = list({meaning.reading.name: meaning for meaning in reversed(meanings)}.values())[::-1]
    flips = {meaning.value.value > 0 for meaning in firsts} == {True, False}
    yield Finding(
        rule=CLAIMED_NUMBER.name,
        row=claim.where,
        says=f"“{statement.text}” is not what the rows say" + (": they do not even agree on the sign" if flips else ""),
        sums=[f"by {meaning.reading.name}: {meaning.sum}" for meaning in firsts],
        numbers={f"by_{meaning.reading.name.replace(' ', '_')}": meaning.value.value for meaning in firsts},
        instead=_true_instead(statement, meanings, decisive, firsts),
    )


def _true_instead(
    statement: Statement, meanings: list[_Meaning], decisive: list[_Meaning], firsts: list[_Meaning]
) -> str:
    rows = "; ".join(f"by {meaning.reading.name} {_told(statement, meaning.value.value)}" for meaning in firsts)
    if len(decisive) == len(meanings):
        return f"The rows say: {rows}."
    by_requests = next(meaning for meaning in firsts if meaning.reading.is_requests)
    return (
        f"The rows say: {rows}. As the RPS of this level contradicts the stated duration, the claim would have to hold "
        f"by the requests, where it is {_told(statement, by_requests.value.value)}."
    )


def _told(statement: Statement, value: float) -> str:
    """Return a value as the statement would put it."""
    if statement.amount is not None and statement.amount.unit == "times":
        return f"{show(value)}x"
    word = {"more": ("more", "less"), "less": ("less", "more"), "same": ("apart", "apart")}[statement.sense]
    return f"{show(abs(value))} % {word[0] if value >= 0 else word[1]}"


def _readings(table: Table, claim: Claim, statement: Statement) -> list[_Reading]:
    """Return all ways to take a statement's quantity from the winner's row and another one."""
    rows = table.level(claim.users)
    winner = rows[claim.winner or ""]
    return [
        reading
        for target, other in rows.items()
        if target != claim.winner
        for reading in _pair_readings(statement, winner, other)
    ]


def _pair_readings(statement: Statement, winner: Row, other: Row) -> list[_Reading]:
    kinds = {"": (winner.all, other.all)} if statement.endpoint is None else {}
    kinds |= {
        f"{name} ": (winner.parts[name], other.parts[name])
        for name in winner.parts
        if name in other.parts and (statement.endpoint == name or _is_any_speed(statement))
    }
    read = {"throughput": _throughputs, "failures": _failures, "latency": _latencies}[statement.quantity]
    return [reading for name, (one, two) in kinds.items() for reading in read(name, one, two)]


def _is_any_speed(statement: Statement) -> bool:
    """Return whether a statement may be about any endpoint: a `speed` without one is."""
    return statement.quantity == "latency" and statement.endpoint is None


def _throughputs(name: str, winner: Printed, other: Printed) -> list[_Reading]:
    readings = []
    if winner.rps and other.rps and other.rps.value > 0:
        readings.append(_Reading(f"{name}RPS", winner.rps, other.rps, is_rps=True))
    if winner.requests and other.requests:
        counts = (exact(winner.requests), exact(other.requests))
        readings.append(_Reading(f"{name}requests", *counts, is_requests=True))
    return readings


def _failures(name: str, winner: Printed, other: Printed) -> list[_Reading]:
    return _known(f"{name}failures in %", winner.failures_percent, other.failures_percent)


def _latencies(name: str, winner: Printed, other: Printed) -> list[_Reading]:
    others = dict(other.percentiles_ms)
    shared = [(share, value) for share, value in winner.percentiles_ms if share in others]
    readings = [
        reading for share, value in shared for reading in _known(_percentile(name, share), value, others[share])
    ]
    return readings + _known(f"{name}mean", winner.avg_ms, other.avg_ms)


def _percentile(name: str, share: float) -> str:
    return f"{name}median" if share == 0.5 else f"{name}p{100 * share:g}"  # noqa: PLR2004 # the median


def _known(name: str, winner: Interval | None, other: Interval | None) -> list[_Reading]:
    return [_Reading(name, winner, other)] if winner is not None and other is not None else []


def _meanings(reading: _Reading, statement: Statement) -> list[_Meaning]:
    """Return what two figures make of a statement: first as its words mean it, then as others may mean them."""
    winner, other = reading.winner, reading.other
    ratio, inverse = winner / other, other / winner
    one, two = show_exact(winner.value), show_exact(other.value)
    if statement.sense == "same":
        apart = ratio.through(lambda value: 100 * (value - 1))
        text = f"{one} ÷ {two} − 1 = {show(apart.value)} %"
        holds = ratio.low <= 1 + SAME_SHARE and inverse.low <= 1 + SAME_SHARE
        return [_Meaning(reading, text, apart, holds)]
    more = statement.sense == "more"
    if statement.amount is not None and statement.amount.unit == "times":
        value, terms = (ratio, f"{one} ÷ {two}") if more else (inverse, f"{two} ÷ {one}")
        return [_meaning(reading, statement, f"{terms} = {show(value.value)}x", value)]
    return _percent_meanings(reading, statement, (ratio, inverse), (one, two))


def _percent_meanings(
    reading: _Reading, statement: Statement, ratios: tuple[Interval, Interval], shown: tuple[str, str]
) -> list[_Meaning]:
    (ratio, inverse), (one, two) = ratios, shown
    sign = 1 if statement.sense == "more" else -1
    of_other = ratio.through(lambda value: sign * 100 * (value - 1))
    of_winner = inverse.through(lambda value: sign * 100 * (1 - value))
    top = f"{one} − {two}" if sign > 0 else f"{two} − {one}"
    return [
        _meaning(reading, statement, f"({top}) ÷ {two} = {show(of_other.value)} %", of_other),
        _meaning(reading, statement, f"({top}) ÷ {one} = {show(of_winner.value)} %", of_winner),
    ]


def _meaning(reading: _Reading, statement: Statement, text: str, value: Interval) -> _Meaning:
    holds = value.high >= 0 if statement.amount is None else value.overlaps(statement.amount.value)
    return _Meaning(reading, text, value, holds)


def _rps_is_doubtful(table: Table, claim: Claim) -> bool:
    return any(contradicts_duration(row) for row in table.level(claim.users).values())


def _is_capped_level(table: Table, users: int) -> bool:
    rows = table.level(users).values()
    return len(rows) > 1 and all(is_capped(row) for row in rows)


def _capped(table: Table, claim: Claim) -> Finding:
    rows = list(table.level(claim.users).values())
    limit_rps = think_time_limit_rps(rows[0]) or 0.0
    rates = {table.names.get(row.target, row.target): row.all.rps.value for row in rows if row.all.rps}
    return Finding(
        rule=CAPPED.name,
        row=f"{claim.where} ({' and '.join(row.name for row in rows)})",
        says=f"at {claim.users} users the think time sets the throughput, so it cannot tell {_listed(rates)} apart",
        sums=[
            (
                f"{claim.users} users ÷ {show(rows[0].mean_wait_s or 0.0)} s mean wait = {show(limit_rps)} requests/s, "
                "however fast the service is"
            ),
            *(
                f"{name}: {show_exact(rps)} ÷ {show(limit_rps)} = {100 * rps / limit_rps:.0f} %, at least "
                f"{100 * CAPPED_SHARE:.0f} %"
                for name, rps in rates.items()
            ),
        ],
        numbers={"limit_rps": limit_rps} | {f"{name}_rps": rps for name, rps in rates.items()},
        instead=(
            f"“{claim.text}” says of the throughput what would be true of every service that answers in well under "
            f"{show(rows[0].mean_wait_s or 0.0)} s. Throughput can only be compared where the service limits it: with "
            "more users or shorter waits."
        ),
    )


def _check_winner(table: Table, claim: Claim) -> Iterator[Finding]:
    rows = table.level(claim.users)
    winner = rows.get(claim.winner or "")
    others = [row for target, row in rows.items() if target != claim.winner]
    if winner is None or not others:
        return
    for other in others:
        figures = _all_figures(winner, other)
        if figures and all(is_worse for _, is_worse in figures):
            yield Finding(
                rule=CLAIMED_WINNER.name,
                row=claim.where,
                says=f"{table.names.get(winner.target, winner.target)} is the named winner and worse in every figure",
                sums=[text for text, _ in figures],
                numbers={},
                instead=f"At {claim.users} users the rows speak for {table.names.get(other.target, other.target)}.",
            )


def _all_figures(winner: Row, other: Row) -> list[tuple[str, bool]]:
    """Return each figure of both rows, and whether the winner's is worse beyond rounding.

    Equal failures speak for nobody; requests do not either, as the runs may have differed in length.
    """
    failures = [one for one in _failures("", winner.all, other.all) if one.winner.value != one.other.value]
    low = [*_pair_readings(Statement("", "latency", None, "less"), winner, other), *failures]
    high = [one for one in _throughputs("", winner.all, other.all) if one.is_rps]
    return [
        *((_versus(one), one.winner.high < one.other.low) for one in high),
        *((_versus(one), one.winner.low > one.other.high) for one in low),
    ]


def _versus(reading: _Reading) -> str:
    return f"{reading.name}: {show_exact(reading.winner.value)} against {show_exact(reading.other.value)}"


def _check_conclusion(table: Table, conclusion: Conclusion) -> Iterator[Finding]:
    if conclusion.target is None or not conclusion.covers_all_levels:
        return
    others = [
        claim
        for claim in table.claims
        if claim.names_winner and claim.winner is not None and claim.winner != conclusion.target
    ]
    for claim in others:
        winner = table.names.get(claim.winner or "", claim.winner or "")
        yield Finding(
            rule=CONTRADICTION.name,
            row=f"{conclusion.where} and {claim.where}",
            says=f"“{conclusion.text}” contradicts the report's own winner at {claim.users} users, {winner}",
            sums=[f"{claim.where}: winner {winner}, “{claim.text}”", f"{conclusion.where}: “{conclusion.text}”"],
            numbers={},
            instead=f"The recommendation leaves {claim.users} users out, or {winner} is not the winner there.",
        )


def _check_pair(first: tuple[Claim, Statement], second: tuple[Claim, Statement]) -> Iterator[Finding]:
    (claim, one), (other_claim, two) = first, second
    if (claim.users, claim.winner) != (other_claim.users, other_claim.winner) or _kind(one) != _kind(two):
        return
    if one.amount is None or two.amount is None:
        return
    less, more = sorted((one.amount.value.value, two.amount.value.value))
    halves = (one.amount.half_unit, two.amount.half_unit)
    if more - less >= sum(halves):
        yield Finding(
            rule=CONTRADICTION.name,
            row=f"{claim.where} and {other_claim.where}",
            says=f"“{one.text}” and “{two.text}” are said of the same rows",
            sums=[
                (
                    f"{show(more)} − {show(less)} = {show(more - less)}; "
                    f"rounding explains less than {show(halves[0])} + {show(halves[1])} = {show(sum(halves))}"
                ),
            ],
            numbers={"first": one.amount.value.value, "second": two.amount.value.value},
            instead="One quantity of two rows has one value; at most one of the two is it.",
        )


def _kind(statement: Statement) -> tuple[object, ...]:
    return statement.quantity, statement.endpoint, statement.sense, statement.amount and statement.amount.unit


def _listed(names: Mapping[str, float]) -> str:
    return " and ".join(names)
