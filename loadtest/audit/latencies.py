"""Rules on latencies: means and medians of all requests against those of the endpoints, and against each other."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

from loadtest.audit.finding import Finding, Rule, show, show_exact, show_range
from loadtest.audit.interval import Interval, is_on_locust_step
from loadtest.audit.table import Printed, Row
from loadtest.audit.untimed import find_untimed

WEIGHTED_MEAN = Rule(
    name="weighted mean",
    formula="mean of all requests = Σ (share of an endpoint × its mean)",
    source="what a mean is",
    tolerance=(
        "Printed means by a whole unit of the last digit (Locust's console cuts them off). With shares from the task "
        "weights instead of counts, 4 standard deviations of a mean over that many random choices of an endpoint. "
        "Locust counts requests without a response time and leaves them out of its means: a mean that some number of "
        "them explains exactly is reported in a note, and no rule then uses the counts as those of the latencies."
    ),
)

MIXTURE_MEDIAN = Rule(
    name="mixture median",
    formula=(
        "smallest ≤ median of all ≤ largest median of an endpoint; and for an endpoint with the share w > ½ and "
        "a = 1 − 1 ÷ (2 w): median of all ≤ (mean − (½ − a) × median) ÷ a of that endpoint, if that is above its median"
    ),
    source="counting (proof in `highest_median_ms`), and Markov's inequality",
    tolerance=(
        "Medians by half a unit of the last digit, or by the two digits that Locust keeps, whichever is coarser. With "
        "shares from the task weights, 4 standard deviations of a share in that many random choices."
    ),
)

POSSIBLE_MEAN = Rule(
    name="possible mean",
    formula=(
        "at least a share 1 − p of the requests takes the percentile p or longer, at most that share takes longer: so "
        "Σ (step between percentiles × share) bounds the mean on both sides; with the median alone, mean ≥ median ÷ 2"
    ),
    source="E[X] = ∫ P(X > x) dx (Markov's inequality, step by step)",
    tolerance=(
        "Percentiles by the coarser of their last digit and Locust's two digits, means by a whole last unit. Of a "
        "Locust CSV only the maximum bounds the mean from above: its percentiles may be of more requests than its mean."
    ),
)

PERCENTILE_ORDER = Rule(
    name="percentile order",
    formula="minimum ≤ p50 ≤ p95 ≤ p99 ≤ maximum",
    source="what a percentile is",
    tolerance=(
        "None between percentiles that Locust rounded, as rounding keeps an order; minimum, maximum and whatever is "
        "not on Locust's steps by the rounding of both. A mean below the median is no fault."
    ),
)


def check_weighted_mean(row: Row) -> list[Finding] | None:
    """Compare the mean of all requests with what the endpoints' means make of it."""
    mixed, whole, shares = row.mixed_avg_ms(), row.all.avg_ms, row.shares()
    if mixed is None or whole is None or shares is None:
        return None
    if mixed.overlaps(whole) or find_untimed(row) is not None:
        return []
    means = [(share, row.parts[name].avg_ms) for name, share in shares.items()]
    terms = " + ".join(f"{show_exact(share.value)} × {show_exact(mean.value)}" for share, mean in means if mean)
    made, printed = f"{show_exact(mixed.value)} ms", f"{show_exact(whole.value)} ms"
    return [
        WEIGHTED_MEAN.finding(
            row.name,
            f"the mean of all requests is {printed}, but the endpoints' means make it {made}",
            [
                f"{terms} = {made}",
                f"allowed: {show_range(mixed.low, mixed.high, show_exact)} ms; printed: {printed}",
            ],
            f"With these endpoints the mean of all requests is {made}; otherwise one of the endpoints' means or shares "
            "is not as printed.",
            printed_ms=whole.value,
            weighted_ms=mixed.value,
        )
    ]


def check_mixture_median(row: Row) -> list[Finding] | None:
    """Compare the median of all requests with what the endpoints allow."""
    median, allowed = row.all.median_ms, _allowed_median(row)
    if median is None or allowed is None:
        return None
    if median.high >= allowed.low_ms and median.low <= allowed.high_ms:
        return []
    known = [(name, part.median_ms) for name, part in row.parts.items()]
    medians = ", ".join(f"{name} {show_exact(one.value)} ms" for name, one in known if one is not None)
    printed, shown = f"{show_exact(median.value)} ms", show_range(allowed.low_ms, allowed.high_ms)
    return [
        MIXTURE_MEDIAN.finding(
            row.name,
            f"the median of all requests, {printed}, is outside {shown} ms, which the endpoints allow",
            [f"medians: {medians}", allowed.why, f"printed for all requests: {printed}"],
            f"The median of all requests is within {shown} ms, or an endpoint's figures are not as printed.",
            median_ms=median.value,
            lowest_ms=allowed.low_ms,
            highest_ms=allowed.high_ms,
        )
    ]


def check_possible_means(row: Row) -> list[Finding] | None:
    """Compare the mean of each kind of requests with what its percentiles allow."""
    known = [(name, one, one.avg_ms) for name, one in row.kinds.items() if one.avg_ms and _thresholds(one)]
    if not known:
        return None
    # Before 2.47, percentiles of Locust count requests without a time as the shortest: too low to bound a mean by.
    are_lower = row.may_lack_times
    return [one for name, figures, mean in known for one in _check_mean(name, figures, mean, are_lower=are_lower)]


def check_percentile_order(row: Row) -> list[Finding] | None:
    """Check that percentiles never fall, and lie between minimum and maximum."""
    known = [
        (name, figures, ordered)
        for name, figures in row.kinds.items()
        for ordered in _ordered(figures, is_whole=row.has_all_times)
        if len(ordered) > 1
    ]
    if not known:
        return None
    return [finding for name, figures, ordered in known for finding in _falls(name, figures, ordered)]


def lowest_mean_ms(figures: Printed) -> float:
    """Return the least mean that the percentiles allow, ms.

    E[X] ≥ q₀ + Σ (qᵢ − qᵢ₋₁) P(X ≥ qᵢ), and P(X ≥ qᵢ) ≥ 1 − pᵢ for a percentile qᵢ of share pᵢ. That holds for
    Locust's percentiles and for order statistics alike: fewer than or exactly pᵢ n of n values are below qᵢ.
    """
    least = figures.min_ms.low if figures.min_ms else 0.0
    below = least
    for share, value in _thresholds(figures):
        step = max(0.0, value.low - below)
        least, below = least + step * (1 - share), below + step
    return least


def highest_mean_ms(figures: Printed) -> float:
    """Return the largest mean that the percentiles allow, ms; infinite without a maximum.

    E[X] ≤ q₁ + Σ (qᵢ₊₁ − qᵢ) P(X > qᵢ), and P(X > qᵢ) ≤ 1 − pᵢ.
    """
    if figures.max_ms is None:
        return inf
    steps = [*((share, value.high) for share, value in _thresholds(figures)), (1.0, figures.max_ms.high)]
    most = steps[0][1]
    for (share, below), (_, above) in pairwise(steps):
        most += max(0.0, above - below) * (1 - share)
    return most


def highest_median_ms(part: Printed, share: Interval) -> float:
    """Return the largest median of all requests that one endpoint with `share` of them allows, ms.

    Let m be the median of all n requests, and the endpoint have w n of them. At most n ÷ 2 requests are below m, so
    of the endpoint's at most the share 1 ÷ (2 w) is, and at least a = 1 − 1 ÷ (2 w) takes m or longer; that says
    something if w > ½. Of the half of its requests that take its median M or longer, a share a of all takes m or
    longer and ½ − a at least M, if m > M; so its mean is at least a m + (½ − a) M, and m ≤ (mean − (½ − a) M) ÷ a.
    A printed percentile of the endpoint with a share of 1 ÷ (2 w) or more is a bound likewise.

    And why the median of all is never outside the endpoints' medians: below the smallest of them lies at most half
    of each endpoint's requests, so at most half of all; above the largest likewise.
    """
    if part.median_ms is None or share.low <= 0.5:  # noqa: PLR2004 # more than half of all requests
        return inf
    above = 1 - 1 / (2 * share.low)
    bounds = [value.high for known, value in part.percentiles_ms if known >= 1 - above]
    if part.avg_ms is not None:
        bound = (part.avg_ms.high - (0.5 - above) * part.median_ms.low) / above
        bounds.append(max(part.median_ms.high, bound))
    return min(bounds, default=inf)


@dataclass(frozen=True)
class _AllowedMedian:
    """The least and the largest median of all requests, and the sum that gives the largest."""

    low_ms: float
    high_ms: float
    why: str


def _allowed_median(row: Row) -> _AllowedMedian | None:
    medians = [part.median_ms for part in row.parts.values() if part.timed != 0]
    known = [median for median in medians if median is not None]
    if not known or len(known) < len(medians) or not row.parts_are_all:
        return None
    low, high = min(one.low for one in known), max(one.high for one in known)
    why = f"between the smallest and the largest of them: {show(low)} to {show(high)} ms with rounding"
    for name, share in (row.shares() or {}).items() if row.has_all_times else ():
        bound = highest_median_ms(row.parts[name], share)
        if bound < high:
            high, why = bound, _sharper(name, row.parts[name], share, bound)
    return _AllowedMedian(low, high, why)


def _sharper(name: str, part: Printed, share: Interval, bound: float) -> str:
    above = 1 - 1 / (2 * share.low)
    told = (
        f"{name} has at least {show(share.low)} of all requests, so at least {show(above)} of its requests take as long"
    )
    if part.avg_ms is None or part.median_ms is None:
        return f"{told}: by its percentiles at most {show(bound)} ms"
    return (
        f"{told}; at most ({show(part.avg_ms.high)} − {show(0.5 - above)} × {show(part.median_ms.low)}) ÷ "
        f"{show(above)} ms, or what its percentiles say: {show(bound)} ms"
    )


def _thresholds(figures: Printed) -> list[tuple[float, Interval]]:
    return [(share, value) for share, value in figures.percentiles_ms if 0 < share < 1]


def _check_mean(name: str, figures: Printed, mean: Interval, *, are_lower: bool) -> Iterator[Finding]:
    low, high = lowest_mean_ms(figures), highest_mean_ms(replace(figures, percentiles_ms=[]) if are_lower else figures)
    if mean.high >= low and mean.low <= high * (1 + 1e-9):
        return
    percentiles = [f"p{100 * share:g} {show_exact(value.value)}" for share, value in _thresholds(figures)]
    ends = [(word, end) for word, end in (("minimum", figures.min_ms), ("maximum", figures.max_ms)) if end is not None]
    printed = ", ".join([*percentiles, *(f"{word} {show_exact(end.value)}" for word, end in ends)])
    allowed = f"from {show(low)} ms on" if high == inf else f"from {show(low)} to {show(high)} ms"
    yield POSSIBLE_MEAN.finding(
        name,
        f"a mean of {show_exact(mean.value)} ms cannot be with these percentiles, which allow one {allowed}",
        [f"printed: {printed} ms; mean {show_exact(mean.value)} ms", f"the percentiles allow a mean {allowed}"],
        f"The mean is {allowed}, or a percentile is not as printed.",
        mean_ms=mean.value,
        lowest_ms=low,
        **({"highest_ms": high} if high < inf else {}),
    )


@dataclass(frozen=True)
class _Latency:
    name: str
    value: Interval

    @property
    def shown(self) -> str:
        return f"{show_exact(self.value.value)} ms"


def _ordered(figures: Printed, *, is_whole: bool) -> list[list[_Latency]]:
    """Return lists of latencies that must not fall.

    Where requests may have no time, Locust's median (the first) and its percentiles may not be of the same ones, and a
    percentile of 0 is of none.
    """
    least = [_Latency("minimum", figures.min_ms)] if figures.min_ms else []
    most = [_Latency("maximum", figures.max_ms)] if figures.max_ms else []
    known = [_Latency(f"p{100 * share:g}", value) for share, value in figures.percentiles_ms]
    if is_whole:
        return [[*least, *known, *most]]
    return [[*least, *known[:1], *most], [*least, *(one for one in known[1:] if one.value.value > 0), *most]]


def _falls(name: str, figures: Printed, ordered: list[_Latency]) -> Iterator[Finding]:
    # Of an even number Locust before 2.47 has the lower one of the middle two as its median, and the upper one as 50 %.
    is_odd = bool(figures.timed and figures.timed % 2)
    for one, two in pairwise(ordered):
        if _is_above(one.value, two.value) or (is_odd and one.name == two.name and _is_above(two.value, one.value)):
            yield PERCENTILE_ORDER.finding(
                name,
                f"{one.name} is {one.shown}, but {two.name} is {two.shown}",
                [f"{one.name} {one.shown} ≰ {two.name} {two.shown}"],
                f"{one.name} is never above {two.name} of the same requests; one of them is not as printed.",
                lower_ms=one.value.value,
                upper_ms=two.value.value,
            )


def _is_above(one: Interval, other: Interval) -> bool:
    if is_on_locust_step(one.value) and is_on_locust_step(other.value):
        return one.value > other.value
    return one.low > other.high
