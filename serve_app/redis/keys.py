"""How the keys of this service begin in a Redis that others may use too.

The two are spelled differently since version 0.1.0. They stay so: what is in Redis must be found after an update.
"""

PREDICTIONS = "serve_app:prediction:1:"
"""Raise the number when the value's form changes: old and new replicas share a Redis while they are exchanged."""


def jobs_of(queue: str) -> str:
    """Return how all keys of a job queue begin; in braces, so that a cluster keeps them on one node."""
    return f"serve-app:{{jobs:{queue}}}:"
