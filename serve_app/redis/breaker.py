"""Notices that Redis fails, keeps everybody away from it until it answers again, and says so once each time."""

import logging
import time
from collections.abc import Callable

from serve_app.redis.connection import describe_fault

logger = logging.getLogger(__name__)

_FLAPPING_S = 60.0
"""A breaker that opens again within this time of its healing is in no hurry to heal."""


class Breaker:
    """Open while what it guards fails.

    One failure is no reason, and many at one moment are none either: they may be a stall of this process. It opens when
    failures follow each other for `patience_s` with no success between them; at the first one with a patience of 0.
    """

    def __init__(
        self, opened: str, healed: str, *, patience_s: float, on_change: Callable[[bool], None] = lambda _: None
    ) -> None:
        """Log `opened` (%s is the fault) and `healed` (%f the seconds), and tell `on_change` whether it is open now."""
        self._opened = opened
        self._healed = healed
        self._patience_s = patience_s
        self._on_change = on_change
        self._failing_since_s: float | None = None
        self._made_s = time.monotonic()
        self._healed_s: float | None = None
        self.is_open = False
        self.times_reopened = 0
        """How often it opened soon after it had healed: 0 unless it flaps."""

    @property
    def closed_for_s(self) -> float:
        """Seconds since it healed, or was made; 0 while it is open."""
        since_s = self._made_s if self._healed_s is None else self._healed_s
        return 0.0 if self.is_open else time.monotonic() - since_s

    def fail(self, fault: BaseException) -> None:
        """Take in that a call failed."""
        now_s = time.monotonic()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        if not self.is_open and now_s - self._failing_since_s >= self._patience_s:
            self.open(fault)

    def open(self, fault: BaseException) -> None:
        """Open at once."""
        self._failing_since_s = now_s = time.monotonic()
        is_flapping = self._healed_s is not None and now_s - self._healed_s < _FLAPPING_S
        self.times_reopened = self.times_reopened + 1 if is_flapping else 0
        self.is_open = True
        self._on_change(self.is_open)
        logger.warning(self._opened, describe_fault(fault))

    def succeed(self) -> None:
        """Take in that a call went well; what a request asked before it opened changes nothing any more."""
        if not self.is_open:
            self._failing_since_s = None

    def heal(self) -> None:
        """Close it."""
        assert self._failing_since_s is not None
        self._healed_s = time.monotonic()
        logger.warning(self._healed, self._healed_s - self._failing_since_s)
        self._failing_since_s = None
        self.is_open = False
        self._on_change(self.is_open)
