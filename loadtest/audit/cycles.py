"""Rules on think time: what users who wait between requests can send, and how long each of their cycles takes.

The law behind them is the interactive response time law, N = X (R + Z): N users, X requests a second, R mean latency,
Z mean think time (Lazowska, Zahorjan, Graham, Sevcik: Quantitative System Performance, 1984, chapter 3; it is Little's
law for the cycle of a user). Written for one run of T seconds with n requests it says where the users' time N T went:
n (R + Z), and whatever else a cycle holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import fsum, inf, isfinite, sqrt

from loadtest.audit.finding import CycleLine, Finding, Rule, show, show_exact, show_s
from loadtest.audit.interval import Interval
from loadtest.audit.rates import LATENCY_FACTOR, contradicts_duration, implied_duration_s, longest_latency_s
from loadtest.audit.table import SIGMAS, Printed, Row

GENERATOR_S = 0.1
"""Of each cycle, for the load generator itself: one that is later than this does not measure its target."""

CAPPED_SHARE = 0.9
"""Of users ÷ mean wait: from here on at most a tenth of a cycle is the service's, so the users set the pace."""

IMPOSSIBLE_RATE = Rule(
    name="think-time limit",
    formula="RPS ≤ users ÷ (mean wait + mean latency)",
    source="interactive response time law, N = X (R + Z): Lazowska et al., Quantitative System Performance, 1984",
    tolerance=(
        "RPS by half a unit of its last digit. The last wait of each user may reach beyond the end of the run, so "
        "users × longest wait ÷ requests is added to a cycle. Chance: 4 standard deviations of the mean of that many "
        "waits, 4 × (longest − shortest) ÷ √(12 × requests), and of the mix of endpoints."
    ),
)

HIDDEN_TIME = Rule(
    name="hidden time",
    formula="users ÷ RPS − mean wait − mean latency = 0, where users ÷ RPS = users × duration ÷ requests",
    source="the same law, solved for what a cycle holds beside waiting and latency",
    tolerance=(
        "Taken off the hidden time before it counts: rounding; the ramp (users who come within r s are r ÷ 2 late on "
        "average); requests unanswered when the run ends (for each user as long as the longest answer: the printed "
        "maximum, else 3 × the largest mean of an endpoint); chance as above; 0.1 s a cycle for the load generator. "
        "Where requests ÷ RPS contradicts the stated duration, both are tried, the latter at its shortest, and both "
        "must show it."
    ),
)


@dataclass(frozen=True)
class Allowance:
    """What an honest row may lack or have in excess, seconds per request."""

    reason: str
    value_s: float
    how: str
    """Its calculation."""


@dataclass(frozen=True)
class Cycle:
    """Where the time of a row's users went, seconds per request."""

    by: str
    """How long the run was taken to be."""
    sum: str
    """How `cycle_s` is calculated."""
    cycle_s: float
    wait_s: float
    latency_s: float
    less: Sequence[Allowance]
    """What may have taken part of the rest in an honest row."""
    more: Sequence[Allowance]
    """By how much an honest row may seem to lack time."""

    @property
    def hidden_s(self) -> float:
        """Return the time that the statistics do not show."""
        return self.cycle_s - self.wait_s - self.latency_s

    @property
    def least_s(self) -> float:
        """Return what is surely hidden."""
        return self.hidden_s - fsum(allowance.value_s for allowance in self.less)

    @property
    def most_s(self) -> float:
        """Return what may be hidden at most; below 0 there were more requests than the users can send."""
        return self.hidden_s + fsum(allowance.value_s for allowance in self.more)


def think_time_limit_rps(row: Row) -> float | None:
    """Return users ÷ mean wait: what users send when answers take no time."""
    return row.users / row.mean_wait_s if row.mean_wait_s else None


def is_capped(row: Row) -> bool:
    """Return whether the users' think time set the pace of a row, by RPS and by requests."""
    limit_rps = think_time_limit_rps(row)
    return (
        limit_rps is not None
        and row.all.rps is not None
        and not contradicts_duration(row)
        and row.all.rps.value >= CAPPED_SHARE * limit_rps
    )


def find_cycles(row: Row) -> list[Cycle]:
    """Return where the users' time went, once by RPS and, if that contradicts the stated duration, once by that too.

    Nothing when the row does not print what it takes.
    """
    latency_ms = _mean_latency_ms(row)
    if not row.all.requests or row.mean_wait_s is None or latency_ms is None:
        return []
    implied, stated = implied_duration_s(row.all), row.window.stated_s
    cycles = []
    if implied is not None and isfinite(implied.high):
        cycles.append(_cycle(row, "RPS", implied, latency_ms))
    if stated is not None and (not cycles or contradicts_duration(row)):
        shortest = Interval(stated.low, stated.low, stated.high)
        cycles.append(_cycle(row, f"requests in {show(stated.low)} s", shortest, latency_ms))
    return cycles


def check_limit(row: Row) -> list[Finding] | None:
    """Tell when there are more requests than the users can have sent, whichever way the duration is taken."""
    cycles = find_cycles(row)
    if not cycles:
        return None
    return [_impossible(row, cycles)] if all(cycle.most_s < 0 for cycle in cycles) else []


def check_hidden_time(row: Row) -> list[Finding] | None:
    """Tell when each cycle surely holds time that the statistics do not show."""
    cycles = [cycle for cycle in find_cycles(row) if cycle.latency_s < inf]
    if not cycles or _has_untimed(row):
        return None
    return [_hidden(row, cycles)] if all(cycle.least_s > 0 for cycle in cycles) else []


def list_cycles(row: Row) -> list[CycleLine]:
    """Return the cycles of a row for its reader."""
    shown = ("by", "cycle_s", "wait_s", "latency_s", "hidden_s", "least_s", "most_s")
    return [CycleLine(row=row.name, **{key: getattr(cycle, key) for key in shown}) for cycle in find_cycles(row)]


def _mean_latency_ms(row: Row) -> Interval | None:
    """Return the mean latency of all requests; of those that have none printed, it may be anything from 0 on."""
    mean_ms = row.all.avg_ms or row.mixed_avg_ms()
    if mean_ms is not None and not row.has_all_times:
        return Interval(0.0, mean_ms.value, mean_ms.high)
    if mean_ms is None or not _has_untimed(row) or not row.all.requests:
        return mean_ms
    timed_share = 1 - (row.all.failures or 0) / row.all.requests
    return Interval(mean_ms.low * timed_share, mean_ms.value * timed_share, inf)


def _has_untimed(row: Row) -> bool:
    return not row.covers_failures and bool(row.all.failures)


def _cycle(row: Row, by: str, duration_s: Interval, latency_ms: Interval) -> Cycle:
    assert row.all.requests and row.wait_s and row.mean_wait_s is not None, "only of rows that print both"  # noqa: PT018
    cycle = duration_s * (row.users / row.all.requests)
    latency = latency_ms * 0.001
    chance, generator = _chance(row), _generator(row, cycle)
    longest_s, longest_wait_s = longest_latency_s(row), row.wait_s[1]
    if row.window.is_steady:
        # It begins in the middle of a cycle, of which both the request and the wait may belong to an earlier request.
        ends = (longest_s + longest_wait_s, "longest answer and wait")
        unanswered, beyond = _spread(row, "unanswered at the end", *ends), _spread(row, "beyond the end", *ends)
    else:
        how = "longest answer" if row.all.max_ms is not None else f"{show_s(LATENCY_FACTOR)} × the largest mean"
        unanswered = _spread(row, "unanswered at the end", longest_s, how)
        beyond = _spread(row, "beyond the end", longest_wait_s, "longest wait")
    return Cycle(
        by=by,
        sum=_cycle_sum(row, by, duration_s),
        cycle_s=cycle.value,
        wait_s=row.mean_wait_s,
        latency_s=latency.value,
        less=[
            _rounding(cycle.value, cycle.low, latency.high, latency.value),
            _ramp(row, duration_s.value),
            unanswered,
            chance,
            generator,
        ],
        more=[
            _rounding(cycle.high, cycle.value, latency.value, latency.low),
            beyond,
            chance,
            *([generator] if row.generator_share else []),
        ],
    )


def _rounding(longer_s: float, shorter_s: float, higher_s: float, lower_s: float) -> Allowance:
    """Return by how much a cycle may be shorter, and a latency higher, than printed."""
    how = f"cycle {show_s(longer_s)} − {show_s(shorter_s)}, latency {show_s(higher_s)} − {show_s(lower_s)}"
    return Allowance("rounding and mix", longer_s - shorter_s + higher_s - lower_s, how)


def _cycle_sum(row: Row, by: str, duration_s: Interval) -> str:
    if by == "RPS" and row.all.rps is not None:
        return f"{row.users} users ÷ {show_exact(row.all.rps.value)} requests/s"
    return f"{row.users} users × {show_s(duration_s.value)} s ÷ {row.all.requests} requests"


def _ramp(row: Row, duration_s: float) -> Allowance:
    late_s = mean_lateness_s(row.window.ramp_s, duration_s)
    allowance = _spread(row, "ramp", late_s, f"{show_s(late_s)} s late on average")
    return replace(allowance, value_s=allowance.value_s / row.window.runs)


def mean_lateness_s(ramp_s: float, duration_s: float) -> float:
    """Return how long a user is missing from a run on average, when the users come evenly within `ramp_s`.

    ramp ÷ 2; when the run ends before the ramp, users that never come are missing all the time.
    """
    if ramp_s <= duration_s:
        return ramp_s / 2
    return duration_s - duration_s**2 / (2 * ramp_s)


def _spread(row: Row, reason: str, per_user_s: float, how: str) -> Allowance:
    """Return what costs each user some seconds in each run, spread over all requests."""
    assert row.all.requests, "only of rows with requests"
    runs = f" × {row.window.runs} runs" if row.window.runs > 1 else ""
    value_s = row.users * row.window.runs * per_user_s / row.all.requests
    return Allowance(reason, value_s, f"{row.users} users × {show_s(per_user_s)} s{runs} ÷ {row.all.requests}; {how}")


def _chance(row: Row) -> Allowance:
    """Return by how much the mean of the drawn think times may differ from the mean think time.

    Uniform between a and b they have the standard deviation (b − a) ÷ √12, and the mean of n of them 1 ÷ √n of that.
    """
    assert row.wait_s is not None and row.all.requests, "only of rows that print both"  # noqa: PT018
    width_s = row.wait_s[1] - row.wait_s[0]
    value_s = SIGMAS * width_s / sqrt(12 * row.all.requests)
    return Allowance("chance", value_s, f"{show_s(SIGMAS)} × {show_s(width_s)} s ÷ √(12 × {row.all.requests})")


def _generator(row: Row, cycle: Interval) -> Allowance:
    share_s = row.generator_share * cycle.value
    how = f"{100 * row.generator_share:g} % of a cycle" if share_s > GENERATOR_S else "of each cycle"
    return Allowance("load generator", max(GENERATOR_S, share_s), how)


def _hidden(row: Row, cycles: list[Cycle]) -> Finding:
    least = min(cycles, key=lambda cycle: cycle.least_s)
    shown = f"{show(least.hidden_s)} s" if len(cycles) == 1 else f"at least {show(least.hidden_s)} s"
    return HIDDEN_TIME.finding(
        row.name,
        f"each request costs a user {shown} that neither the wait nor the latencies account for",
        [*_latency_sums(row), *(line for cycle in cycles for line in _cycle_sums(cycle))],
        f"A cycle holds at least {show_s(least.least_s)} s of something else: a call that the statistics do not count "
        "(such as a login made by another client), requests that were never answered or have no response time, or a "
        "load generator that was late. So the latencies are not all that users waited for; and if it is a call, the "
        "service did work that no figure here shows.",
        cycle_s=least.cycle_s,
        wait_s=least.wait_s,
        latency_s=least.latency_s,
        hidden_s=least.hidden_s,
        least_s=least.least_s,
    )


def _impossible(row: Row, cycles: list[Cycle]) -> Finding:
    most = max(cycles, key=lambda cycle: cycle.most_s)
    limit_rps = row.users / (most.wait_s + most.latency_s)
    sent_rps = row.users / most.cycle_s if most.cycle_s > 0 else inf
    latency = f"{show_s(most.latency_s)} s latency"
    return IMPOSSIBLE_RATE.finding(
        row.name,
        f"{row.users} users with this wait and latency send at most {show(limit_rps)} requests/s, not {show(sent_rps)}",
        [
            *_latency_sums(row),
            f"{row.users} users ÷ ({show_s(most.wait_s)} s wait + {latency}) = {show(limit_rps)} requests/s",
            _rest_sum(most),
            *(f"+ {_told(allowance)}" for allowance in most.more if allowance.value_s),
            f"= {show_s(most.most_s)} s, and below 0 s no cycle can be",
        ],
        "There were more users, or shorter waits (several requests to one wait, for instance), or fewer requests a "
        "second than this row says.",
        cycle_s=most.cycle_s,
        wait_s=most.wait_s,
        latency_s=most.latency_s,
        limit_rps=limit_rps,
    )


def _latency_sums(row: Row) -> list[str]:
    """Write down the mean latency where it is mixed from the endpoints."""
    mixed, shares = row.mixed_avg_ms(), row.shares()
    if row.all.avg_ms is not None or mixed is None or shares is None:
        return []
    counted = all(part.timed is not None for part in row.parts.values())
    weights = {name: part.timed or 0 if counted else row.weights[name] for name, part in row.parts.items()}
    terms = " + ".join(
        f"{weight:g} × {show_exact(mean.value)}" for name, weight in weights.items() if (mean := row.parts[name].avg_ms)
    )
    return [f"mean latency: ({terms}) ms ÷ {sum(weights.values()):g} = {show(mixed.value)} ms"]


def _cycle_sums(cycle: Cycle) -> list[str]:
    return [
        f"by {cycle.by}: {_rest_sum(cycle)} hidden",
        *(f"− {_told(allowance)}" for allowance in cycle.less if allowance.value_s),
        f"= {show_s(cycle.least_s)} s that are surely hidden",
    ]


def _rest_sum(cycle: Cycle) -> str:
    return (
        f"{cycle.sum} = {show_s(cycle.cycle_s)} s a cycle; {show_s(cycle.cycle_s)} − {show_s(cycle.wait_s)} wait − "
        f"{show_s(cycle.latency_s)} latency = {show_s(cycle.hidden_s)} s"
    )


def _told(allowance: Allowance) -> str:
    return f"{show_s(allowance.value_s)} s {allowance.reason}: {allowance.how}"


def describe_figures(figures: Printed) -> str:
    """Return the averages and medians of an endpoint in a few words."""
    known = [("median", figures.median_ms), ("mean", figures.avg_ms)]
    return ", ".join(f"{name} {show_exact(value.value)} ms" for name, value in known if value is not None)
