"""What the classifier counts. The deployment hands in a subclass that exports it; this one counts nothing."""

from collections.abc import Mapping


class Metrics:
    """Where figures go: here, nowhere."""

    def count_refusal(self, reason: str) -> None:
        """Count a picture that was not taken: queue_full, wait_too_long or memory."""

    def count_missed_deadline(self) -> None:
        """Count a picture that was taken and not answered in time."""

    def observe_batch(self, pictures: int) -> None:
        """Note how many pictures a run of the engine had."""

    def set_queue_length(self, pictures: int) -> None:
        """Note how many pictures are taken and not yet answered."""

    def observe_stages(self, spent_s: Mapping[str, float]) -> None:
        """Note where the time of an answered request went, seconds by stage."""

    def count_lookup(self, result: str) -> None:
        """Count an answer by where it came from: hit, miss, shared (with the same picture under way) or skipped."""

    def count_cache_fault(self, fault: str) -> None:
        """Count what went wrong with the cache: unreachable, garbage, write_refused or write_dropped."""

    def set_cache_breaker(self, *, is_open: bool) -> None:
        """Note whether predictions go on without the cache because it fails."""
