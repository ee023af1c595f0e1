"""Decides which pictures a replica takes: those whose turn comes soon enough, within the memory meant for them.

Whoever is refused is told when the queue of now will be worked off. Used by `api` and `classifier`.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.classifier.settings import MULTIPART_OVERHEAD_BYTES, ClassifierSettings
from serve_app.errors import Overloaded
from serve_app.metrics import BATCH_PICTURES, QUEUE_PICTURES, REFUSALS, Metrics
from serve_app.shares import EVERYONE, Account, Resource
from serve_app.uploads import UploadBudget

logger = logging.getLogger(__name__)

_SILENT_S = 10.0
"""Between two lines in the log about refusals."""

_NEWEST_SHARE = 0.2
"""Weight of the newest in the moving averages of batches and of decoding: the last five are most of them."""

BURST_S = 10.0
"""A queue that has not been short for so long is no burst any more; after twice as long it is a standing queue: more
work comes than is done."""

_STALL = 4.0
"""A batch or a decoded picture counts as at most so many times slower than usual: a process that was stopped for 10 s
is not slow now, nor is one that was sent one huge picture."""


class Admission:
    """The pictures that one replica has taken and not yet answered, and how fast it works them off."""

    def __init__(
        self,
        settings: ClassifierSettings,
        metrics: Metrics,
        *,
        picture_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with `picture_s`, seconds of engine time for one picture of a full batch."""
        self._settings = settings
        self.metrics = metrics
        largest_bytes = settings.max_upload_bytes + MULTIPART_OVERHEAD_BYTES
        self.uploads = UploadBudget(settings.max_held_bytes, largest_bytes, self._memory_refusal)
        """The bytes of all uploads that are in memory."""
        self._engine_s = picture_s
        self._decode_s = 0.0
        self._clock = clock
        self._short_at_s = clock()
        self._taken = 0
        self._sharing = 0
        self._refused = 0
        self._silent_until_s = 0.0

    @property
    def is_idle(self) -> bool:
        """True when no client waits for a prediction."""
        return self._taken == 0

    @property
    def wait_s(self) -> float:
        """Seconds until a picture that comes now has been worked off, without its own: pictures × service time."""
        return self._taken * self._picture_s

    @property
    def _picture_s(self) -> float:
        """Seconds from one picture to the next: of decoding and engine, which work side by side, the slower one's."""
        return max(self._engine_s, self._decode_s)

    @property
    def most_wait_s(self) -> float:
        """The longest wait for which a picture is taken now: max_wait_s for a burst, half of it in a standing queue.

        A burst is worked off, and a queue bridges it. In a standing queue everyone waits and nobody gains (Nichols and
        Jacobson, Controlling Queue Delay, 2012), and when the load ends, it is in the way of whoever comes then. In
        between the limit falls steadily: if it fell at once, everybody would be refused until the queue has followed.
        """
        beyond_s = self._clock() - self._short_at_s - BURST_S
        standing = min(max(beyond_s / BURST_S, 0), 1)
        return self._settings.max_wait_s * (1 - standing / 2)

    def learn(self, pictures: int, took_s: float) -> None:
        """Take in that the engine needed `took_s` for a batch; the average moves exponentially."""
        newest_s = min(took_s / pictures, _STALL * self._engine_s)
        self._engine_s += _NEWEST_SHARE * (newest_s - self._engine_s)
        self.metrics.observe(BATCH_PICTURES, pictures)

    def learn_decoding(self, took_s: float) -> None:
        """Take in that one of the decode threads needed `took_s` for a picture, whether it could be decoded or not.

        It is called in these threads: of two that end at once, one may not count.
        """
        newest_s = min(took_s / self._settings.decode_threads, _STALL * self._picture_s)
        self._decode_s += _NEWEST_SHARE * (newest_s - self._decode_s)

    def check(self, within_s: float | None = None, pictures: int = 1, account: Account = EVERYONE) -> None:
        """Return if so many pictures of a client that come now are taken. `within_s` is its own time limit.

        Raises Overloaded when the turn of the last one would come too late, or max_queue pictures are there already;
        ShareExceeded when others would be taken, but this client has its share of the queue.
        """
        self._notice_short_queue(account)
        # Where clients have shares, a standing queue shortens each one's share: who fills none of it is still taken.
        whole_s = self._settings.max_wait_s if account.share < 1 else self.most_wait_s
        most_s = whole_s if within_s is None else min(whole_s, within_s)
        self._check_room(pictures)
        before = self._taken + pictures - 1
        if self._taken and (wait_s := before * self._picture_s) > most_s:
            raise self._refusal(
                "wait_too_long",
                f"{before} pictures come first and take about {wait_s:.1f} s, longer than {most_s:g} s",
                pictures,
            )
        for resource, most in ((Resource.PLACES, self._settings.max_queue), (Resource.PICTURES, self._most_pictures)):
            leaving = 1 if account.has_none(resource) else None
            account.check(resource, pictures, most, leaving, self._retry_after_s)

    @contextmanager
    def place(self, within_s: float | None = None, account: Account = EVERYONE) -> Iterator[None]:
        """Hold a client's place in the queue for one picture. Raises Overloaded."""
        self.check(within_s, account=account)
        self._take(1, account)
        try:
            yield
        finally:
            self._leave(1, account)

    @contextmanager
    def reserve(
        self, pictures: int, within_s: float | None = None, account: Account = EVERYONE
    ) -> Iterator["Reservation"]:
        """Hold places for all `pictures` of one request at once. Raises Overloaded if they are not all taken."""
        self.check(within_s, pictures, account)
        self._take(pictures, account)
        reserved = Reservation(self, pictures, account)
        try:
            yield reserved
        finally:
            self._leave(reserved.give_up(), account)

    @contextmanager
    def share(self, account: Account = EVERYONE) -> Iterator[None]:
        """Hold a place for a request that waits for another's picture: one more, but no work. Raises Overloaded."""
        self._check_room()
        account.check(Resource.PLACES, 1, self._settings.max_queue, retry_after_s=self._retry_after_s)
        with self._shared(account):
            yield

    @property
    def _most_pictures(self) -> int:
        """How many pictures are taken now before the next one would wait too long."""
        in_time = self.most_wait_s / self._picture_s if self._picture_s else math.inf
        return self._settings.max_queue if in_time > self._settings.max_queue else 1 + int(in_time)

    @property
    def _retry_after_s(self) -> int:
        return max(1, math.ceil(self.wait_s))

    @contextmanager
    def _shared(self, account: Account) -> Iterator[None]:
        self._sharing += 1
        try:
            with account.holding(Resource.PLACES):
                yield
        finally:
            self._sharing -= 1

    def _take(self, pictures: int, account: Account) -> None:
        account.take(Resource.PLACES, pictures)
        account.take(Resource.PICTURES, pictures)
        self._taken += pictures
        self.metrics.set(QUEUE_PICTURES, self._taken)

    def _leave(self, pictures: int, account: Account) -> None:
        account.give_back(Resource.PLACES, pictures)
        account.give_back(Resource.PICTURES, pictures)
        self._taken -= pictures
        self._notice_short_queue(account)
        self.metrics.set(QUEUE_PICTURES, self._taken)

    def _notice_short_queue(self, account: Account) -> None:
        # Half of what one client may fill of a standing queue, or its leaving would end what bounds it.
        if self.wait_s <= account.share * self._settings.max_wait_s / 4:
            self._short_at_s = self._clock()

    def _check_room(self, pictures: int = 1) -> None:
        requests = self._taken + self._sharing
        if requests + pictures > self._settings.max_queue:
            detail = f"{requests} pictures are being worked on or waited for already"
            raise self._refusal("queue_full", detail, pictures)

    def _memory_refusal(self, held_bytes: int) -> Overloaded:
        return self._refusal("memory", f"uploads of {held_bytes:,} bytes are in memory already")

    def _refusal(self, reason: str, detail: str, pictures: int = 1) -> Overloaded:
        for _ in range(pictures):
            self.metrics.count(REFUSALS, reason)
        self._refused += pictures
        if time.monotonic() >= self._silent_until_s:
            logger.warning("%d picture(s) refused since the last such line; now: %s", self._refused, detail)
            self._silent_until_s, self._refused = time.monotonic() + _SILENT_S, 0
        return Overloaded(f"{detail}; try again later", retry_after_s=self._retry_after_s)


class Reservation:
    """Places that one request holds for its pictures; each becomes free when its picture has been answered.

    `place` and `share` are called as those of Admission. Their `account` is that of the request, which has paid for the
    places: it is asked again only where none is left.
    """

    def __init__(self, admission: Admission, pictures: int, account: Account) -> None:
        self._admission = admission
        self._left = pictures
        self._account = account

    @contextmanager
    def place(self, within_s: float | None = None, account: Account = EVERYONE) -> Iterator[None]:
        """Use one of them for a picture. Raises Overloaded as Admission.place does where none is left."""
        if not self._left:  # the request has gone, and its picture is computed for another that waits for it
            with self._admission.place(within_s, account):
                yield
            return
        self._left -= 1
        try:
            yield
        finally:
            self._admission._leave(1, self._account)  # noqa: SLF001

    @contextmanager
    def share(self, account: Account = EVERYONE) -> Iterator[None]:
        """Turn one of them into a place that waits for another's picture. Raises Overloaded where none is left."""
        if not self._left:
            with self._admission.share(account):
                yield
            return
        self._left -= 1
        self._admission._leave(1, self._account)  # noqa: SLF001
        with self._admission._shared(self._account):  # noqa: SLF001 taken already: nothing to check
            yield

    def give_up(self) -> int:
        """Return how many places no picture has used, and have none from now on."""
        left, self._left = self._left, 0
        return left
