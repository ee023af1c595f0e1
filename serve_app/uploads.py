"""Upload bytes in memory: a budget for all uploads of one kind, and the account of each. Knows nothing of HTTP."""

from collections.abc import Callable

from serve_app.errors import Overloaded


class UploadBudget:
    """How many bytes all uploads of one kind may have in this process's memory."""

    def __init__(self, max_bytes: int, refusal: Callable[[int], Overloaded]) -> None:
        """`refusal` returns what is raised beyond `max_bytes`, from the number of bytes held then."""
        self._max_bytes = max_bytes
        self._refusal = refusal
        self._held_bytes = 0

    def hold(self, count: int) -> None:
        """Take `count` bytes more into memory. Raises Overloaded when all uploads together are too much."""
        if self._held_bytes + count > self._max_bytes:
            raise self._refusal(self._held_bytes)
        self._held_bytes += count

    def free(self, count: int) -> None:
        """Note that `count` bytes have left memory."""
        self._held_bytes -= count


class HeldUpload:
    """One upload in memory: its account in a budget, and its `data` once all of it is there."""

    def __init__(self, budget: UploadBudget) -> None:
        self.data = b""
        self._budget = budget
        self._bytes = 0

    def add(self, count: int) -> None:
        """Account for `count` bytes more. Raises Overloaded as the budget does."""
        self._budget.hold(count)
        self._bytes += count

    def hand_over(self) -> "HeldUpload":
        """Return the same upload for another holder; this one has nothing then."""
        other = HeldUpload(self._budget)
        other.data, self.data = self.data, b""
        other._bytes, self._bytes = self._bytes, 0
        return other

    def free(self) -> None:
        """Let go of it; calling it again does no harm."""
        self.data = b""
        self._budget.free(self._bytes)
        self._bytes = 0
