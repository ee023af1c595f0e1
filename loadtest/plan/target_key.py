"""The API key for targets that ask for one. From the environment only: plans and run folders are shared."""

import os

from loadtest.errors import BadInputError

VARIABLE = "LOADTEST_API_KEY"


def key_headers() -> dict[str, str]:
    """Return the header that carries the key, or nothing when there is none.

    Raises BadInputError for what no header can carry: the HTTP library's own words would quote it.
    """
    key = os.environ.get(VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise BadInputError(f"{VARIABLE}: holds what cannot be a key; a key is one line of printable ASCII")
    return {"Authorization": f"Bearer {key}"} if key else {}
