"""Imports Locust with one look through the installed packages: gevent, which Locust calls, looks 25 times for plugins.

Imported first by each process that makes load: it starts with a quarter less CPU.
"""

from importlib import metadata

_look = metadata.entry_points
metadata.entry_points = _look().select
try:
    import locust  # noqa: F401
finally:
    metadata.entry_points = _look
