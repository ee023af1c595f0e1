"""What the jobs count. The deployment hands in a subclass that exports it; this one counts nothing."""


class JobMetrics:
    """Where figures go: here, nowhere."""

    def count_submitted(self) -> None:
        """Count a job that was taken."""

    def count_ended(self, state: str) -> None:
        """Count a job that this replica ended: done, failed or cancelled."""

    def count_dead_letter(self) -> None:
        """Count a picture that was given up after max_attempts."""

    def set_queue(self, waiting: int, running: int, oldest_s: float) -> None:
        """Note how many jobs wait and run in all replicas, and the age of the oldest that waits."""
