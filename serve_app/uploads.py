"""Upload bytes in memory: a budget for all uploads of one kind, and the account of each. Knows nothing of HTTP."""

from collections.abc import Callable

from serve_app.errors import Overloaded
from serve_app.shares import EVERYONE, Account, Resource


class UploadBudget:
    """How many bytes all uploads of one kind may have in this process's memory."""

    def __init__(self, max_bytes: int, refusal: Callable[[int], Overloaded], kind: Resource = Resource.BYTES) -> None:
        """`refusal` returns what is raised beyond `max_bytes`, from the number of bytes held then."""
        self._max_bytes = max_bytes
        self._refusal = refusal
        self._kind = kind
        self._held_bytes = 0

    def hold(self, count: int, account: Account = EVERYONE) -> None:
        """Take `count` bytes more of a client into memory.

        Raises Overloaded when all uploads together are too much, ShareExceeded when this client's are.
        """
        if self._held_bytes + count > self._max_bytes:
            raise self._refusal(self._held_bytes)
        account.check(self._kind, count, self._max_bytes)
        account.take(self._kind, count)
        self._held_bytes += count

    def free(self, count: int, account: Account = EVERYONE) -> None:
        """Note that `count` bytes of a client have left memory."""
        account.give_back(self._kind, count)
        self._held_bytes -= count


class HeldUpload:
    """One upload in memory: whose it is, its bytes in a budget, and its `data` once all of it is there."""

    def __init__(self, budget: UploadBudget, account: Account = EVERYONE) -> None:
        self.data = b""
        self.account = account
        self._budget = budget
        self._bytes = 0

    def add(self, count: int) -> None:
        """Account for `count` bytes more. Raises Overloaded as the budget does."""
        self._budget.hold(count, self.account)
        self._bytes += count

    def hand_over(self) -> "HeldUpload":
        """Return the same upload for another holder; this one has nothing then."""
        other = HeldUpload(self._budget, self.account)
        other.data, self.data = self.data, b""
        other._bytes, self._bytes = self._bytes, 0
        return other

    def free(self) -> None:
        """Let go of it; calling it again does no harm."""
        self.data = b""
        self._budget.free(self._bytes, self.account)
        self._bytes = 0
