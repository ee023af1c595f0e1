"""Fair shares: what each client, known by the name of its API key, holds of one replica, and how much it may hold.

So one client's flood leaves the others served. The rule: a client holds its share of each resource at most. Only a
request that finds its client with nothing in the queue, or no bytes in memory, may take more: all but one picture, or
one largest upload, which is left to the others. One picture, and one largest upload, may always be had.

The accounts are here; who bounds something asks them too: the guard (open requests), `Admission` (the queue),
`UploadBudget` (bytes) and `Waiters` (who waits for jobs). Knows nothing of HTTP, keys or pictures.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from serve_app.errors import ShareExceeded
from serve_app.metrics import API_KEY_QUEUE_PICTURES, API_KEY_REFUSALS, API_KEY_REQUESTS, Metrics


class Resource(StrEnum):
    """What clients have shares of."""

    REQUESTS = "open requests"
    PLACES = "places in the queue"
    PICTURES = "pictures to compute"
    """Fewer than places: who waits for a picture that is computed already makes nobody wait."""
    BYTES = "bytes of uploads"
    JOB_BYTES = "bytes of job uploads"
    WAITERS = "requests that wait for jobs"


class Account:
    """What one client holds of one replica."""

    def __init__(self, name: str, find_share: Callable[[], float], metrics: Metrics) -> None:
        """`name` is that of the API key, never the key; `find_share` returns the share of now, 1 for no bound."""
        self.name = name
        self._find_share = find_share
        self._metrics = metrics
        self._held = Counter[Resource]()

    @property
    def share(self) -> float:
        """How much of what all clients together may hold this one may hold: above 0, and up to 1, for all of it."""
        return self._find_share()

    def has_none(self, resource: Resource) -> bool:
        """Tell whether the client holds nothing of it now: whose next request may take more than the share."""
        return not self._held[resource]

    def check(
        self,
        resource: Resource,
        more: int,
        of_all: int,
        leaving: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """Return if the client may hold so much `more`, where all clients together may hold `of_all`.

        A request that found the client with nothing of the resource may take more than the share, `leaving` so much to
        the others; any other has no `leaving`. Raises ShareExceeded, which tells the client to come back after
        `retry_after_s`.
        """
        share, held = self.share, self._held[resource]
        most = max(1, int(share * of_all))
        if leaving is not None:
            most = max(most, leaving, of_all - leaving)
        if share == 1 or held + more <= most:
            return
        self._metrics.count(API_KEY_REFUSALS, self.name)
        remedy = "try again later" if leaving is None and more <= most else "send it alone, or less at a time"
        raise ShareExceeded(
            f"the API key {self.name} has {held:,} {resource} and asks for {more:,} more; its share is {most:,} of "
            f"{of_all:,}; {remedy}",
            retry_after_s,
        )

    @contextmanager
    def open_request(self, of_all: int) -> Iterator[None]:
        """Count a request while the block runs, where all clients together may have `of_all`. Raises ShareExceeded."""
        self.check(Resource.REQUESTS, 1, of_all)
        if self.name:
            self._metrics.count(API_KEY_REQUESTS, self.name)
        with self.holding(Resource.REQUESTS):
            yield

    @contextmanager
    def holding(self, resource: Resource) -> Iterator[None]:
        """Note that the client holds one more while the block runs."""
        self.take(resource, 1)
        try:
            yield
        finally:
            self.give_back(resource, 1)

    def take(self, resource: Resource, count: int) -> None:
        """Note that the client holds so much more."""
        self._held[resource] += count
        if resource is Resource.PICTURES and self.name:
            self._metrics.set(API_KEY_QUEUE_PICTURES, self._held[resource], self.name)

    def give_back(self, resource: Resource, count: int) -> None:
        """Note that the client holds so much less."""
        self.take(resource, -count)


EVERYONE = Account("", lambda: 1, Metrics())
"""The account of all clients where no API keys are asked for: it may hold everything."""


class Shares:
    """The accounts of one replica's clients."""

    def __init__(self, share: float, count_clients: Callable[[], int], metrics: Metrics) -> None:
        """Each client may hold `share` (above 0, up to 1) of the replica; the only one may hold all of it."""
        self._share = share
        self._count_clients = count_clients
        self._metrics = metrics
        self._accounts: dict[str, Account] = {}

    def account(self, name: str) -> Account:
        """Return the account of the client whose API key has this name."""
        if name not in self._accounts:
            self._accounts[name] = Account(name, self._find_share, self._metrics)
        return self._accounts[name]

    def _find_share(self) -> float:
        return self._share if self._count_clients() > 1 else 1
