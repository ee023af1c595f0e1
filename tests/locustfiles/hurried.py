"""The shipped workload by people who hardly wait, for tests in which it does not matter how long they do.

What Locust writes is in its files within a second, so that a test sees when it is enough. It is not in tests/ itself:
Locust imports from the folder of its file first, where tests/loadtest would hide the kit.
"""

import locust.stats
from locust import between

from loadtest import locustfile

locust.stats.CSV_STATS_FLUSH_INTERVAL_SEC = 0


class HurriedVisitor(locustfile.Visitor):
    """Waits a tenth of a second between two requests."""

    wait_time = between(0.05, 0.15)
