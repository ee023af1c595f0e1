"""Every metric of the classifier, the cache, the jobs and the API keys, and how they are told.

Prometheus adds `ray_` before a name.

`Metrics` counts nothing; the deployment hands in one that exports to Serve (`deployments.metrics`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Counter:
    """Counts events; with a `label`, apart by its values. Prometheus adds `_total` to its name."""

    name: str
    meaning: str
    label: str = ""


@dataclass(frozen=True)
class Gauge:
    """A value of now; with a `label`, one for each of its values."""

    name: str
    meaning: str
    label: str = ""


@dataclass(frozen=True)
class Histogram:
    """Counts values by the upper `bounds` they stay below; with a `label`, apart by its values."""

    name: str
    meaning: str
    bounds: tuple[float, ...]
    label: str = ""


REFUSALS = Counter("classifier_refusals", "Pictures not taken: queue_full, wait_too_long or memory.", "reason")
MISSED_DEADLINES = Counter("classifier_missed_deadlines", "Pictures taken and not answered in time.")
BATCH_PICTURES = Histogram(
    "classifier_batch_pictures",
    "Pictures in a run of the engine.",
    (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
)
QUEUE_PICTURES = Gauge("classifier_queue_pictures", "Pictures taken and not yet answered.")
STAGE_MS = Histogram(
    "classifier_stage_ms",
    "Time of answered requests by stage.",
    (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000),
    "stage",
)

CACHE_LOOKUPS = Counter(
    "classifier_cache_lookups", "Answers by where they came from: hit, miss, shared or skipped.", "result"
)
CACHE_FAULTS = Counter(
    "classifier_cache_faults",
    "Faults of the cache: unreachable, garbage, write_refused or write_dropped; each such picture is computed.",
    "fault",
)
CACHE_BREAKER_OPEN = Gauge("classifier_cache_breaker_open", "1 while predictions go on without the cache.")

JOBS_SUBMITTED = Counter("classifier_jobs_submitted", "Jobs taken.")
JOBS_ENDED = Counter("classifier_jobs_ended", "Jobs that this replica ended: done, failed or cancelled.", "state")
JOBS_DEAD_LETTERS = Counter("classifier_jobs_dead_letters", "Pictures of jobs given up after max_attempts.")
JOBS_QUEUED = Gauge("classifier_jobs_queued", "Jobs that wait, in the whole queue: every replica says the same.")
JOBS_RUNNING = Gauge("classifier_jobs_running", "Jobs that have begun, in the whole queue.")
JOBS_OLDEST_S = Gauge("classifier_jobs_oldest_s", "Age of the job that waits longest, seconds.")

API_KEY_REQUESTS = Counter("api_key_requests", "Requests with an API key that were begun, by the key's name.", "key")
API_KEY_REFUSALS = Counter(
    "api_key_refusals", "Refusals with 429 because an API key had its share, by the key's name.", "key"
)
API_KEY_QUEUE_PICTURES = Gauge(
    "api_key_queue_pictures", "Pictures taken and not yet answered, by the name of the API key.", "key"
)


class Metrics:
    """Where figures go: here, nowhere."""

    def count(self, counter: Counter, value: str = "") -> None:
        """Count one event, under this value of the counter's label."""

    def set(self, gauge: Gauge, value: float, label_value: str = "") -> None:
        """Note the value of now, under this value of the gauge's label."""

    def observe(self, histogram: Histogram, value: float, label_value: str = "") -> None:
        """Note one value, under this value of the histogram's label."""
