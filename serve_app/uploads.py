"""Upload bytes in memory: a budget for all uploads of one kind, and the account of each. Knows nothing of HTTP."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

from serve_app.errors import Overloaded
from serve_app.shares import EVERYONE, Account, Resource

Given = TypeVarTuple("Given")
Result = TypeVar("Result")

_THREADS = ThreadPoolExecutor(thread_name_prefix="uploads")


class UploadBudget:
    """How many bytes all uploads of one kind may have in this process's memory."""

    def __init__(
        self,
        max_bytes: int,
        largest_bytes: int,
        refusal: Callable[[int], Overloaded],
        kind: Resource = Resource.BYTES,
    ) -> None:
        """`refusal` returns what is raised beyond `max_bytes`, from the number of bytes held then.

        One upload may need `largest_bytes`; whoever takes more than its share leaves so many to the others.
        """
        self._max_bytes = max_bytes
        self._largest_bytes = largest_bytes
        self._refusal = refusal
        self._kind = kind
        self._held_bytes = 0

    def is_first_of(self, account: Account) -> bool:
        """Tell whether a client has no bytes here yet."""
        return account.has_none(self._kind)

    def hold(self, count: int, account: Account = EVERYONE, *, is_first: bool = False) -> None:
        """Take `count` bytes more of a client into memory; `is_first` if their request found it without any.

        Raises Overloaded when all uploads together are too much, ShareExceeded when this client's are.
        """
        if self._held_bytes + count > self._max_bytes:
            raise self._refusal(self._held_bytes)
        account.check(self._kind, count, self._max_bytes, self._largest_bytes if is_first else None)
        account.take(self._kind, count)
        self._held_bytes += count

    def free(self, count: int, account: Account = EVERYONE) -> None:
        """Note that `count` bytes of a client have left memory."""
        account.give_back(self._kind, count)
        self._held_bytes -= count


class HeldUpload:
    """One upload in memory: whose it is, its bytes in a budget, and its `data` once all of it is there.

    Its first bytes decide for the whole request whether it found its client without any.
    """

    def __init__(self, budget: UploadBudget, account: Account = EVERYONE, *, is_first: bool | None = None) -> None:
        self.data = b""
        self.account = account
        self._budget = budget
        self._bytes = 0
        self._is_first = is_first

    @property
    def held_bytes(self) -> int:
        """How many bytes it accounts for."""
        return self._bytes

    def add(self, count: int) -> None:
        """Account for `count` bytes more. Raises Overloaded as the budget does."""
        if self._is_first is None:
            self._is_first = self._budget.is_first_of(self.account)
        self._budget.hold(count, self.account, is_first=self._is_first)
        self._bytes += count

    def beside(self) -> "HeldUpload":
        """Return another one for more bytes of the same request."""
        return HeldUpload(self._budget, self.account, is_first=self._is_first)

    def hand_over(self) -> "HeldUpload":
        """Return the same upload for another holder; this one has nothing then."""
        other = HeldUpload(self._budget, self.account, is_first=self._is_first)
        other.data, self.data = self.data, b""
        other._bytes, self._bytes = self._bytes, 0
        return other

    async def read_in(self, threads: ThreadPoolExecutor, work: Callable[[bytes], Result]) -> Result:
        """Return what `work` makes of the data in one of `threads`. Raises what `work` raises."""
        return await work_for([self], lambda: work(self.data), threads=threads)

    def free(self) -> None:
        """Let go of it; calling it again does no harm."""
        self.data = b""
        self._budget.free(self._bytes, self.account)
        self._bytes = 0


async def work_for(
    uploads: Sequence[HeldUpload],
    work: Callable[[*Given], Result],
    *given: *Given,
    threads: ThreadPoolExecutor = _THREADS,
) -> Result:
    """Return what `work` returns in one of `threads`; `uploads` account for what it takes. Raises what `work` raises.

    Who stops waiting may free the uploads: work that has not begun never runs, and keeps nothing in memory. Work that
    has begun takes the uploads over, which count until that work ends.
    """
    kept = [given]
    begun = threads.submit(lambda: work(*kept.pop()))
    loop = asyncio.get_running_loop()
    try:
        return await asyncio.wrap_future(begun, loop=loop)
    finally:
        if begun.cancelled():
            kept.clear()
        elif not begun.done():
            held = [upload.hand_over() for upload in uploads]

            def free(_: Future[Result]) -> None:
                with suppress(RuntimeError):  # the event loop has ended, and with it the accounts
                    loop.call_soon_threadsafe(free_all, held)

            begun.add_done_callback(free)


def free_all(uploads: Sequence[HeldUpload]) -> None:
    """Let go of all of them."""
    for upload in uploads:
        upload.free()
