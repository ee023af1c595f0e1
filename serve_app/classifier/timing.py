"""Where a request's time went, for the Server-Timing header."""

import time
from collections.abc import Mapping

STAGES = ("upload", "cache", "decode", "queue", "inference", "answer")


class Stopwatch:
    """Charges every moment since its start to exactly one stage, so that the stages add up to the whole."""

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._spent_s = dict.fromkeys(STAGES, 0.0)

    def charge(self, stage: str, until: float | None = None) -> None:
        """Charge the time from the last mark to `until` (a time.perf_counter() value; now if None) to `stage`."""
        until = time.perf_counter() if until is None else until
        self._spent_s[stage] += until - self._mark
        self._mark = until

    @property
    def spent_s(self) -> Mapping[str, float]:
        """Seconds charged so far, by stage; without stages that were not passed through."""
        return {stage: spent_s for stage, spent_s in self._spent_s.items() if spent_s}

    def server_timing(self) -> str:
        """Return the value of a Server-Timing header (W3C Server Timing), durations in milliseconds."""
        return ", ".join(f"{stage};dur={spent_s * 1000:.3f}" for stage, spent_s in self._spent_s.items())
