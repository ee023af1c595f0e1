"""Exports figures of classifier and jobs as Serve metrics: Prometheus adds `ray_` in front and `_total` to counters."""

from collections.abc import Mapping

from ray.serve.metrics import Counter, Gauge, Histogram

from serve_app.classifier.metrics import Metrics
from serve_app.jobs.metrics import JobMetrics

_BATCH_PICTURES: list[float] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
_STAGE_MS: list[float] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000]


class ServeMetrics(Metrics):
    """Metrics of one replica; Serve adds deployment, replica and application as labels."""

    def __init__(self) -> None:
        self._refusals = Counter(
            "classifier_refusals", "Pictures not taken: queue_full, wait_too_long or memory.", ("reason",)
        )
        self._missed = Counter("classifier_missed_deadlines", "Pictures taken and not answered in time.")
        self._batch = Histogram("classifier_batch_pictures", "Pictures in a run of the engine.", _BATCH_PICTURES)
        self._queue = Gauge("classifier_queue_pictures", "Pictures taken and not yet answered.")
        self._lookups = Counter(
            "classifier_cache_lookups", "Answers by where they came from: hit, miss, shared or skipped.", ("result",)
        )
        self._cache_faults = Counter(
            "classifier_cache_faults", "Faults of the cache, by kind; each such picture is computed.", ("fault",)
        )
        self._cache_breaker = Gauge("classifier_cache_breaker_open", "1 while predictions go on without the cache.")
        self._stages = Histogram("classifier_stage_ms", "Time of answered requests by stage.", _STAGE_MS, ("stage",))

    def count_refusal(self, reason: str) -> None:
        """Count a picture that was not taken."""
        self._refusals.inc(tags={"reason": reason})

    def count_missed_deadline(self) -> None:
        """Count a picture that was taken and not answered in time."""
        self._missed.inc()

    def observe_batch(self, pictures: int) -> None:
        """Note how many pictures a run of the engine had."""
        self._batch.observe(pictures)

    def set_queue_length(self, pictures: int) -> None:
        """Note how many pictures are taken and not yet answered."""
        self._queue.set(pictures)

    def observe_stages(self, spent_s: Mapping[str, float]) -> None:
        """Note where the time of an answered request went."""
        for stage, seconds in spent_s.items():
            self._stages.observe(1000 * seconds, tags={"stage": stage})

    def count_lookup(self, result: str) -> None:
        """Count an answer by where it came from."""
        self._lookups.inc(tags={"result": result})

    def count_cache_fault(self, fault: str) -> None:
        """Count what went wrong with the cache."""
        self._cache_faults.inc(tags={"fault": fault})

    def set_cache_breaker(self, *, is_open: bool) -> None:
        """Note whether predictions go on without the cache because it fails."""
        self._cache_breaker.set(is_open)


class ServeJobMetrics(JobMetrics):
    """Metrics of the jobs. The gauges are of the whole queue: every replica says the same."""

    def __init__(self) -> None:
        self._submitted = Counter("classifier_jobs_submitted", "Jobs taken.")
        self._ended = Counter("classifier_jobs_ended", "Jobs ended: done, failed or cancelled.", ("state",))
        self._dead_letters = Counter("classifier_jobs_dead_letters", "Pictures of jobs given up after max_attempts.")
        self._waiting = Gauge("classifier_jobs_queued", "Jobs that wait, in the whole queue.")
        self._running = Gauge("classifier_jobs_running", "Jobs that have begun, in the whole queue.")
        self._oldest = Gauge("classifier_jobs_oldest_s", "Age of the job that waits longest, seconds.")

    def count_submitted(self) -> None:
        """Count a job that was taken."""
        self._submitted.inc()

    def count_ended(self, state: str) -> None:
        """Count a job that this replica ended."""
        self._ended.inc(tags={"state": state})

    def count_dead_letter(self) -> None:
        """Count a picture that was given up."""
        self._dead_letters.inc()

    def set_queue(self, waiting: int, running: int, oldest_s: float) -> None:
        """Note how full the queue is."""
        self._waiting.set(waiting)
        self._running.set(running)
        self._oldest.set(oldest_s)
