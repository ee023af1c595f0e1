"""Whether a target answers from a cache of its own, by what it says of itself, and what that makes of its figures.

A key `cache` in its JSON answers is taken at its word. Called by `validity`, `summary` and `text`; the audit reads the
result in report.json.
"""

from collections.abc import Iterator, Mapping

from loadtest.figures.figures import Reason
from loadtest.plan.plan import Plan
from loadtest.plan.targets import Target

OFF = "off"
_OFF_WORDS = (None, False, "", OFF, "none", "disabled")

DISTINCT, REPEATED = "distinct", "repeated"
"""What the workload's option `pictures` may be."""


def name_cache(about: object) -> str | None:
    """Return what a target calls the cache that it has on, `off`, or None when it does not say."""
    if isinstance(about, dict):
        if "cache" in about and not isinstance(about["cache"], dict | list):
            return OFF if about["cache"] in _OFF_WORDS else str(about["cache"])
        parts = list(about.values())
    else:
        parts = about if isinstance(about, list) else []
    return next((name for part in parts if (name := name_cache(part)) is not None), None)


def answers_unasked(cache: str | None, options: Mapping[str, object], *, cached: bool) -> bool:
    """Return whether a cache answers a workload with these `options` although the plan does not say that it may."""
    return cache not in (None, OFF) and not cached and options.get("pictures") == REPEATED


def find_cache_faults(plan: Plan, target: Target, about: object) -> Iterator[Reason]:
    """Yield why figures are not those that the plan asks for: a cache that it does not expect, or expects in vain."""
    cache = name_cache(about)
    if target.cached and cache == OFF:
        yield Reason(
            "the plan says that the target answers from a cache (cached: true), and the target says that its cache is "
            "off; see its environment",
            "cache",
        )
    elif answers_unasked(cache, plan.workload.options, cached=target.cached):
        yield Reason(
            f"the target's cache was on ({cache}) and pictures were sent again and again, so the figures are those of "
            "the cache: send pictures: distinct, turn it off, or say `cached: true` of the target if it is meant",
            "cache",
        )


def find_cache_notes(plan: Plan, target: Target, about: object) -> Iterator[str]:
    """Yield what a reader should know of a target whose cache is on, without being what the plan measures."""
    cache = name_cache(about)
    if cache in (None, OFF) or target.cached:
        return
    if plan.workload.options.get("pictures") == DISTINCT:
        yield f"the target's cache was on ({cache}) and had no answer, as every picture was another; looking costs time"
    elif plan.workload.options.get("pictures") != REPEATED:
        yield f"the target's cache was on ({cache}); whether it answered is not known"
