"""Names that were misspelled. Knows nothing of what they name."""

import difflib
from collections.abc import Iterable

_LIKE = 0.6
"""Of 1: from this likeness on (difflib's ratio) a known name is taken for the one that was meant."""


def nearest(given: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like `given`, whatever the case of its letters; None if none is like it."""
    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(given.lower(), names, 1, _LIKE)
    return names[found[0]] if found else None
