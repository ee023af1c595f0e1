"""The API key for targets that ask for one. From the environment only: plans and run folders are shown around."""

import os

VARIABLE = "LOADTEST_API_KEY"


def key_headers() -> dict[str, str]:
    """Return the header that carries the key, or nothing when there is none."""
    key = os.environ.get(VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}
