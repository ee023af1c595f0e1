"""Whether a target is to blame that a cell, or a level, is not valid: it answered nothing right, or it failed.

One rule for all who ask: `summary` gives it to each cell, and `compare`, `capacity` and the recommendation read it
there.
"""

from collections.abc import Sequence

from loadtest.figures.figures import Loss, Reason, ReasonCode
from loadtest.figures.traffic import Requests, Window

_OF_THE_TARGET: frozenset[ReasonCode] = frozenset(
    {"none_right", "few_samples", "answers_missing", "replicas", "target_behind", "rate_not_reached"}
)
"""Reasons that a target causes which answers nothing right."""


def find_codes(reasons: Sequence[Reason]) -> set[ReasonCode]:
    """Return the codes of a cell's reasons, without `generator_held_back` where requests have no row.

    The generator sent these requests, and its users wait for the answers: only the rows say that it sent too few.
    """
    codes = {reason.code for reason in reasons}
    return codes - {"generator_held_back"} if "answers_missing" in codes else codes


def find_loss(reasons: Sequence[Reason], requests: Requests | None, steady: Window | None) -> Loss | None:
    """Return how the target failed; None where it did not, or where something else may be why the cell is not valid."""
    codes = find_codes(reasons)
    if codes == {"target_failed"}:
        return "target_failed"
    if not codes or not codes <= _OF_THE_TARGET:
        return None
    return "none_right" if "none_right" in codes or _answered_nothing(requests, steady, codes) else None


def find_level_loss(losses: Sequence[Loss | None]) -> Loss | None:
    """Return how a target failed at a number of users; None unless it did in every repetition."""
    if not losses or None in losses:
        return None
    return "none_right" if "none_right" in losses else "target_failed"


def _answered_nothing(requests: Requests | None, steady: Window | None, codes: set[ReasonCode]) -> bool:
    """Return whether requests were under way in the steady window, whenever sent, and all of them failed.

    None may have been sent in it: all users wait for answers that do not come.
    """
    if requests is None or steady is None:
        return False
    under_way = (requests.sent_unix_s <= steady.end_unix_s) & (requests.answered_unix_s >= steady.begin_unix_s)
    return bool(requests.failed[under_way].all()) and (bool(under_way.any()) or "answers_missing" in codes)
