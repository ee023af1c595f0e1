"""Rules on claims: what a report says of its rows against the rows, and against what it says elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from loadtest.audit.cycles import CAPPED_SHARE, is_capped, think_time_limit_rps
from loadtest.audit.finding import Checked, Finding, Rule, show, show_exact
from loadtest.audit.interval import Interval, exact
from loadtest.audit.rates import contradicts_duration
from loadtest.audit.table import Claim, Printed, Row, Statement, Table

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
    throughput_by: Literal["RPS", "requests"] | None = None


@dataclass(frozen=True)
class _Said:
    """What a claim with a winner says, and the ways to take it from the winner's row and another one."""

    claim: Claim
    statement: Statement
    readings: list[_Reading]


@dataclass(frozen=True)
class _Meaning:
    """A reading with what its two figures make of a statement."""

    reading: _Reading
    sum: str
    value: Interval
    """In the unit of the statement; of a statement without a number, winner ÷ other."""
    holds: bool


def check_numbers(table: Table) -> Checked:
    """Compare every number that a claim names, and words such as `same`, with the rows."""
    said = list(_said(table))
    return Checked(CLAIMED_NUMBER, [finding for one in said for finding in _check_number(table, one)], len(said))


def check_capped(table: Table) -> Checked:
    """Report where a winner is named by the throughput of rows in which the users set the pace."""
    claims = [claim for claim in table.claims if claim.names_winner]
    by_throughput = [claim for claim in claims if any(one.quantity == "throughput" for one in claim.says)]
    findings = [_capped(table, claim) for claim in by_throughput if _is_capped_level(table, claim)]
    return Checked(CAPPED, findings, len(claims))


def check_winners(table: Table) -> Checked:
    """Report where the winner of a claim is worse in every figure."""
    claims = [claim for claim in table.claims if claim.names_winner]
    return Checked(CLAIMED_WINNER, [one for claim in claims for one in _check_winner(table, claim)], len(claims))


def check_contradictions(table: Table) -> Checked:
    """Report where two claims, or a claim and the conclusion, cannot both be true."""
    findings = [finding for one in table.conclusions for finding in _check_conclusion(table, one)]
    findings += [finding for first, second in combinations(_said(table), 2) for finding in _check_pair(first, second)]
    return Checked(CONTRADICTION, findings, len(table.claims) + len(table.conclusions))


def list_unread(table: Table) -> list[str]:
    """Return a note for each part of a claim that has nothing to be compared with."""
    compared = [one.statement for one in _said(table)]
    notes = [
        f"{claim.where}: “{statement.text}” has no rows, or no figures in them, to be compared with"
        for claim in table.claims
        for statement in claim.says
        if not any(statement is one for one in compared)
    ]
    return notes + [
        f"{one.where}: “{one.text}” does not name one target for all levels, so not checked"
        for one in table.conclusions
        if one.target is None or not one.all_levels
    ]


def _said(table: Table) -> Iterator[_Said]:
    for claim in table.claims:
        rows = table.level(claim.users)
        winner = rows.pop(claim.winner or "", None)
        if winner is None:
            continue
        for statement in claim.says:
            readings = [one for other in rows.values() for one in _pair_readings(statement, winner, other)]
            if readings:
                yield _Said(claim, statement, readings)


def _check_number(table: Table, said: _Said) -> Iterator[Finding]:
    statement = said.statement
    meanings = [meaning for one in said.readings for meaning in _meanings(one, statement)]
    rps_is_doubtful = any(contradicts_duration(row) for row in table.level(said.claim.users).values())
    by_requests = [one for one in meanings if one.reading.throughput_by == "requests"]
    by_rps = [one for one in meanings if one.reading.throughput_by == "RPS"]
    overruled = rps_is_doubtful and bool(by_requests and by_rps)
    if any(one.holds for one in meanings if not overruled or one not in by_rps):
        return
    firsts = list({meaning.reading.name: meaning for meaning in reversed(meanings)}.values())[::-1]
    flips = {meaning.value.value > 0 for meaning in firsts} == {True, False}
    rows = "; ".join(f"by {one.reading.name} {_told(statement, one.value.value)}" for one in firsts)
    instead = f"The rows say: {rows}."
    if overruled:
        instead += (
            " As the RPS of this level contradicts the stated duration, the claim would have to hold by the requests, "
            f"where it is {_told(statement, by_requests[0].value.value)}."
        )
    yield CLAIMED_NUMBER.finding(
        said.claim.where,
        f"“{statement.text}” is not what the rows say" + (": they do not even agree on the sign" if flips else ""),
        [f"by {meaning.reading.name}: {meaning.sum}" for meaning in firsts],
        instead,
        **{f"by_{meaning.reading.name.replace(' ', '_')}": meaning.value.value for meaning in firsts},
    )


def _told(statement: Statement, value: float) -> str:
    """Return a value as the statement would put it."""
    if statement.times is not None:
        return f"{show(value)}x"
    word = {"more": ("more", "less"), "less": ("less", "more"), "same": ("apart", "apart")}[statement.sense]
    return f"{show(abs(value))} % {word[0] if value >= 0 else word[1]}"


def _pair_readings(statement: Statement, winner: Row, other: Row) -> Iterator[_Reading]:
    read = {"throughput": _throughputs, "failures": _failures, "latency": _latencies}[statement.quantity]
    if statement.endpoint is None:
        yield from read("", winner.all, other.all)
    is_of_any = statement.quantity == "latency" and statement.endpoint is None
    for name in winner.parts:
        if name in other.parts and (statement.endpoint == name or is_of_any):
            yield from read(f"{name} ", winner.parts[name], other.parts[name])


def _throughputs(name: str, winner: Printed, other: Printed) -> Iterator[_Reading]:
    if winner.rps and other.rps and other.rps.value > 0:
        yield _Reading(f"{name}RPS", winner.rps, other.rps, "RPS")
    if winner.requests and other.requests:
        yield _Reading(f"{name}requests", exact(winner.requests), exact(other.requests), "requests")


def _failures(name: str, winner: Printed, other: Printed) -> Iterator[_Reading]:
    if winner.failures_percent is not None and other.failures_percent is not None:
        yield _Reading(f"{name}failures in %", winner.failures_percent, other.failures_percent)


def _latencies(name: str, winner: Printed, other: Printed) -> Iterator[_Reading]:
    others = dict(other.percentiles_ms)
    for share, value in winner.percentiles_ms:
        if share in others:
            percentile = "median" if share == 0.5 else f"p{100 * share:g}"  # noqa: PLR2004 # the median
            yield _Reading(f"{name}{percentile}", value, others[share])
    if winner.avg_ms is not None and other.avg_ms is not None:
        yield _Reading(f"{name}mean", winner.avg_ms, other.avg_ms)


def _meanings(reading: _Reading, statement: Statement) -> list[_Meaning]:
    """Return what two figures make of a statement: first as its words mean it, then as others may mean them."""
    ratio, inverse = reading.winner / reading.other, reading.other / reading.winner
    one, two = show_exact(reading.winner.value), show_exact(reading.other.value)
    more = statement.sense == "more"
    if statement.sense == "same":
        apart = ratio.through(lambda value: 100 * (value - 1))
        holds = ratio.low <= 1 + SAME_SHARE and inverse.low <= 1 + SAME_SHARE
        return [_Meaning(reading, f"{one} ÷ {two} − 1 = {show(apart.value)} %", apart, holds)]
    if statement.times is not None:
        value, terms = (ratio, f"{one} ÷ {two}") if more else (inverse, f"{two} ÷ {one}")
        return [_meaning(reading, statement, f"{terms} = {show(value.value)}x", value)]
    sign = 1 if more else -1
    of_other = ratio.through(lambda value: sign * 100 * (value - 1))
    of_winner = inverse.through(lambda value: sign * 100 * (1 - value))
    top = f"{one} − {two}" if more else f"{two} − {one}"
    return [
        _meaning(reading, statement, f"({top}) ÷ {two} = {show(of_other.value)} %", of_other),
        _meaning(reading, statement, f"({top}) ÷ {one} = {show(of_winner.value)} %", of_winner),
    ]


def _meaning(reading: _Reading, statement: Statement, text: str, value: Interval) -> _Meaning:
    amount = statement.amount
    return _Meaning(reading, text, value, value.high >= 0 if amount is None else value.overlaps(amount))


def _is_capped_level(table: Table, claim: Claim) -> bool:
    rows = table.level(claim.users).values()
    return len(rows) > 1 and all(is_capped(row) for row in rows)


def _capped(table: Table, claim: Claim) -> Finding:
    rows = list(table.level(claim.users).values())
    limit_rps, wait = think_time_limit_rps(rows[0]) or 0.0, show(rows[0].mean_wait_s or 0.0)
    rates = {table.title_of(row.target): row.all.rps.value for row in rows if row.all.rps}
    limit = f"{claim.users} users ÷ {wait} s mean wait = {show(limit_rps)} requests/s, however fast the service is"
    shares = [
        f"{name}: {show_exact(rps)} ÷ {show(limit_rps)} = {100 * rps / limit_rps:.0f} %, at least "
        f"{100 * CAPPED_SHARE:.0f} %"
        for name, rps in rates.items()
    ]
    return CAPPED.finding(
        f"{claim.where} ({' and '.join(row.name for row in rows)})",
        f"at {claim.users} users the think time sets the throughput, so it cannot tell {' and '.join(rates)} apart",
        [limit, *shares],
        f"“{claim.text}” says of the throughput what would be true of every service that answers in well under {wait} "
        "s. Throughput can only be compared where the service limits it: with more users or shorter waits.",
        limit_rps=limit_rps,
        **{f"{name}_rps": rps for name, rps in rates.items()},
    )


def _check_winner(table: Table, claim: Claim) -> Iterator[Finding]:
    rows = table.level(claim.users)
    winner = rows.pop(claim.winner or "", None)
    if winner is None:
        return
    for other in rows.values():
        compared = _all_readings(winner, other)
        if compared and all(_is_worse(one) for one in compared):
            yield CLAIMED_WINNER.finding(
                claim.where,
                f"{table.title_of(winner.target)} is the named winner and worse in every figure",
                [
                    f"{one.name}: {show_exact(one.winner.value)} against {show_exact(one.other.value)}"
                    for one in compared
                ],
                f"At {claim.users} users the rows speak for {table.title_of(other.target)}.",
            )


def _all_readings(winner: Row, other: Row) -> list[_Reading]:
    """Return each figure of both rows that can speak for one of them.

    Equal failures speak for neither; requests do not either, as the runs may have differed in length.
    """
    return [
        *(one for one in _throughputs("", winner.all, other.all) if one.throughput_by == "RPS"),
        *_pair_readings(Statement(text="", quantity="latency", sense="less"), winner, other),
        *(one for one in _failures("", winner.all, other.all) if one.winner.value != one.other.value),
    ]


def _is_worse(one: _Reading) -> bool:
    """Return whether the winner is worse beyond rounding: a lower throughput, or more of anything else."""
    return one.winner.high < one.other.low if one.throughput_by else one.winner.low > one.other.high


def _check_conclusion(table: Table, conclusion: Claim) -> Iterator[Finding]:
    if conclusion.target is None or not conclusion.all_levels:
        return
    for claim in table.claims:
        if not claim.names_winner or claim.winner == conclusion.target:
            continue
        winner = table.title_of(claim.winner)
        yield CONTRADICTION.finding(
            f"{conclusion.where} and {claim.where}",
            f"“{conclusion.text}” contradicts the report's own winner at {claim.users} users, {winner}",
            [f"{claim.where}: winner {winner}, “{claim.text}”", f"{conclusion.where}: “{conclusion.text}”"],
            f"The recommendation leaves {claim.users} users out, or {winner} is not the winner there.",
        )


def _check_pair(first: _Said, second: _Said) -> Iterator[Finding]:
    one, two = first.statement, second.statement
    if _subject(first) != _subject(second) or one.amount is None or two.amount is None:
        return
    less, more = sorted((one.amount.value, two.amount.value))
    halves = (one.half_unit, two.half_unit)
    if more - less >= sum(halves):
        explained = f"{show(halves[0])} + {show(halves[1])} = {show(sum(halves))}"
        yield CONTRADICTION.finding(
            f"{first.claim.where} and {second.claim.where}",
            f"“{one.text}” and “{two.text}” are said of the same rows",
            [f"{show(more)} − {show(less)} = {show(more - less)}; rounding explains less than {explained}"],
            "One quantity of two rows has one value; at most one of the two is it.",
            first=one.amount.value,
            second=two.amount.value,
        )


def _subject(said: _Said) -> tuple[object, ...]:
    one = said.statement
    return said.claim.users, said.claim.winner, one.quantity, one.endpoint, one.sense, one.times is None
