"""Predictions in Redis, shared by all replicas and nodes: what is known, who is working on what, what came of it.

One string a picture, at a key that says which model looked at which bytes. While a replica works on it, the value is
`?` and that replica's name (a claim, which lives for CLAIM_S unless it is renewed); afterwards it is the best classes
as JSON. Whoever finds another's claim waits for a message on the channel of the same name, or until the claim is gone.
Every fault of Redis ends as None: compute it yourself. Made by `cache.store`; knows nothing of models.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from redis.exceptions import RedisError, ResponseError

from serve_app.cache.classification import BestClasses
from serve_app.metrics import CACHE_BREAKER_OPEN, CACHE_FAULTS, Metrics
from serve_app.redis.breaker import Breaker
from serve_app.redis.connection import connect
from serve_app.redis.ending import end_tasks
from serve_app.redis.keys import PREDICTIONS

CLAIM_S = 1.0
"""So long others wait for a replica that was killed."""

_AT_A_TIME = 4
"""Lookups on their way to Redis. Each needs a connection, and making one takes longer than a lookup may."""
_MOST_WAITED_FOR = 64
"""Pictures that other replicas compute and this one waits for, a connection each; beyond, it computes them too."""
_MOST_UNWRITTEN = 256
_WRITES_AT_ONCE = 64
_GATHER_S = 0.002
"""From a result to its writing: its request is answered first, and its whole batch goes in one packet."""
_MOST_DOUBLINGS = 5
_QUIET_S = 10.0
_MOST_VALUE_BYTES = 4096
_CLAIM_MARK = b"?"

_Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_VALUE = TypeAdapter(list[tuple[Annotated[int, Field(ge=0)], _Score]], config=ConfigDict(strict=True))
_FAULTS = (RedisError, OSError, TimeoutError, ValueError, LookupError, TypeError, AttributeError)
"""What redis-py raises; from ValueError on, when what answers does not speak Redis' protocol."""

_Command = tuple[str | bytes | int, ...]


@dataclass(frozen=True)
class Timing:
    """How long a replica waits for what, in seconds. Operators set the first; tests of something else, all of them."""

    answer_s: float
    """The longest that a request waits for an answer of Redis."""
    unhurried_s: float = 1.0
    """The same for what no request waits for: writes, and new connections."""
    subscribe_s: float = 0.2
    claim_s: float = CLAIM_S
    renew_s: float = 0.3
    look_again_s: float = 0.25
    """Between two looks at another's claim while no message comes: its holder may be dead, or Redis."""
    probe_s: float = 1.0


class _Seen(Enum):
    MINE = "claimed for this replica, which is to compute it"
    CLAIMED = "another replica computes it"
    NOTHING = "Redis does not tell, or has garbage"
    NO_TURN = "so many others ask Redis that it was not asked"


class RedisPredictions:
    """The predictions in one Redis, as one replica uses them."""

    kind = "redis"

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float,
        timing: Timing,
        is_possible: Callable[[BestClasses], bool],
        metrics: Metrics,
    ) -> None:
        """Prepare; nothing is connected yet. Values live for `ttl_s`; those that are not `is_possible` are garbage."""
        most_connections = 2 * _AT_A_TIME + _MOST_WAITED_FOR + 1
        self._redis = connect(url, timing.unhurried_s, most_connections)
        self._ttl_ms = round(1000 * ttl_s)
        self._timing = timing
        self._is_possible = is_possible
        self._metrics = metrics
        self._claim = _CLAIM_MARK + secrets.token_hex(8).encode()
        self._claimed: dict[str, set[object]] = {}
        """Keys that are this replica's to compute, and who computes them."""
        self._waited_for = 0
        self._at_a_time = asyncio.Semaphore(_AT_A_TIME)
        self._unwritten: deque[tuple[_Command, ...]] = deque()
        self._something_to_write = asyncio.Event()
        self._background: asyncio.Task[None] | None = None
        self._refused_s = 0.0
        self._reads = Breaker(
            "Redis does not answer in time; predictions go on without the shared cache: %s",
            "Redis answers again after %.1f s; predictions use the shared cache",
            patience_s=timing.answer_s / 2,
            on_change=lambda is_open: metrics.set(CACHE_BREAKER_OPEN, is_open),
        )
        self._writes = Breaker(
            "Redis refuses to store predictions; those that it has are still used: %s",
            "Redis stores predictions again after %.1f s",
            patience_s=0,
        )

    async def open(self) -> None:
        """Connect, if Redis answers; whether or not, this works from now on until `close`."""
        try:
            await self._probe()
        except _FAULTS as exc:
            self._reads.open(exc)
        self._metrics.set(CACHE_BREAKER_OPEN, self._reads.is_open)
        self._background = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Write what is still unwritten, if Redis takes it quickly, and disconnect."""
        if self._background is not None:
            await end_tasks([self._background])
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timing.unhurried_s):
                while self._unwritten and not self._reads.is_open:
                    await self._write()
        await self._redis.aclose()

    async def find_or_claim(self, key: str, who: object = None) -> BestClasses | None:
        """Return what is known, or None: then the caller computes it, and calls `keep` or `give_up`.

        While another replica computes it, this waits. `who` tells callers of this replica apart that ask for the same.
        """
        try:
            seen = await self._look(key, who)
            if seen is _Seen.CLAIMED and self._waited_for < _MOST_WAITED_FOR:
                seen = await self._wait(key, who)
        except BaseException:
            self.give_up(key, who)  # or it would be renewed for ever
            raise
        return None if isinstance(seen, _Seen) else seen

    def keep(self, key: str, best: BestClasses) -> None:
        """Have a result written soon, and those told who wait for it."""
        self._claimed.pop(key, None)
        name, value = PREDICTIONS + key, _VALUE.dump_json(best)
        self._soon(("SET", name, value, "PX", self._ttl_ms), ("PUBLISH", name, b""))

    def give_up(self, key: str, who: object = None) -> None:
        """Leave to others, soon, what `find_or_claim` left to `who`, unless somebody else here computes it too."""
        holders = self._claimed.get(key, set())
        if who not in holders:
            return
        holders.remove(who)
        if not holders:
            del self._claimed[key]
            name = PREDICTIONS + key
            self._soon(("DEL", name), ("PUBLISH", name, b""))

    async def _look(self, key: str, who: object) -> BestClasses | _Seen:
        """Return what Redis has; what it has nothing of is claimed in the same round trip.

        Takes `answer_s` at most. Half of it may be the wait for a turn: Redis is not blamed for that, and has the rest.
        """
        name, until_s = PREDICTIONS + key, time.monotonic() + self._timing.answer_s
        try:
            async with asyncio.timeout(self._timing.answer_s / 2):
                await self._at_a_time.acquire()
        except TimeoutError:
            return _Seen.NO_TURN
        try:
            answers = await self._ask(
                ("SET", name, self._claim, "NX", "PX", self._claim_ms),
                ("GETRANGE", name, 0, _MOST_VALUE_BYTES),
                within_s=until_s - time.monotonic(),
            )
        finally:
            self._at_a_time.release()
        if answers is None:
            return _Seen.NOTHING
        claimed, value = answers
        if isinstance(claimed, ResponseError):  # it is full, or only to be read from
            self._note_refusal(claimed)
        elif claimed:
            self._note_acceptance()
        if value == self._claim:
            self._claimed.setdefault(key, set()).add(who)
            return _Seen.MINE
        return self._read(value)

    def _read(self, value: object) -> BestClasses | _Seen:
        if isinstance(value, bytes):
            if value.startswith(_CLAIM_MARK):
                return _Seen.CLAIMED
            if not value:  # nobody could claim it
                return _Seen.NOTHING
            with suppress(ValidationError):
                best = _VALUE.validate_json(value)
                if self._is_possible(best):
                    return best
        self._metrics.count(CACHE_FAULTS, "garbage")
        return _Seen.NOTHING

    async def _wait(self, key: str, who: object) -> BestClasses | _Seen:
        """Return what becomes of a picture that another replica has claimed."""
        seen: BestClasses | _Seen = _Seen.CLAIMED
        self._waited_for += 1
        try:
            async with self._redis.pubsub() as messages:
                async with asyncio.timeout(self._timing.subscribe_s):
                    await messages.subscribe(PREDICTIONS + key)
                while seen in (_Seen.CLAIMED, _Seen.NO_TURN):
                    # The first message is that the subscription holds; the look finds what came before it.
                    await messages.get_message(ignore_subscribe_messages=True, timeout=self._timing.look_again_s)
                    seen = await self._look(key, who)
        except _FAULTS as exc:
            self._note_failure(exc)
            return _Seen.NOTHING
        finally:
            self._waited_for -= 1
        return seen

    async def _ask(self, *commands: _Command, within_s: float) -> list[Any] | None:
        """Return the answers to `commands`, the last of which reads; None when Redis fails, or is known to."""
        if self._reads.is_open:
            return None
        try:
            answers = await self._send(commands, within_s)
            if isinstance(answers[-1], ResponseError) and not str(answers[-1]).startswith("WRONGTYPE"):
                raise answers[-1]
        except _FAULTS as exc:
            self._note_failure(exc)
            return None
        self._reads.succeed()
        return answers

    async def _send(self, commands: Iterable[_Command], timeout_s: float) -> list[Any]:
        """Return the answers to `commands`, errors of single ones among them. Raises _FAULTS about the connection."""
        async with asyncio.timeout(timeout_s):
            pipe = self._redis.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    @property
    def _claim_ms(self) -> int:
        return round(1000 * self._timing.claim_s)

    def _soon(self, *commands: _Command) -> None:
        if self._reads.is_open:
            return
        if len(self._unwritten) >= _MOST_UNWRITTEN:
            self._metrics.count(CACHE_FAULTS, "write_dropped")
            return
        self._unwritten.append(commands)
        self._something_to_write.set()

    async def _work(self) -> None:
        """Write results, renew claims, and look after a Redis that does not answer."""
        renew_s = time.monotonic() + self._timing.renew_s
        while True:
            if self._reads.is_open:
                await self._heal()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timing.renew_s):
                    await self._something_to_write.wait()
            await asyncio.sleep(_GATHER_S)
            if self._claimed and time.monotonic() >= renew_s:
                renew_s = time.monotonic() + self._timing.renew_s
                self._unwritten.append(tuple(("PEXPIRE", PREDICTIONS + key, self._claim_ms) for key in self._claimed))
            await self._write()

    async def _write(self) -> None:
        """Send the oldest that is unwritten."""
        writes = [self._unwritten.popleft() for _ in range(min(len(self._unwritten), _WRITES_AT_ONCE))]
        if not self._unwritten:
            self._something_to_write.clear()
        if not writes:
            return
        try:
            answers = await self._send(chain.from_iterable(writes), self._timing.unhurried_s)
        except _FAULTS as exc:
            self._note_failure(exc)
            return
        for answer in answers:
            if isinstance(answer, ResponseError):
                self._note_refusal(answer)

    def _note_failure(self, exc: BaseException) -> None:
        self._metrics.count(CACHE_FAULTS, "unreachable")
        self._reads.fail(exc)

    def _note_refusal(self, refusal: ResponseError) -> None:
        self._metrics.count(CACHE_FAULTS, "write_refused")
        self._refused_s = time.monotonic()
        self._writes.fail(refusal)

    def _note_acceptance(self) -> None:
        # At the edge of its memory Redis takes one write and refuses the next: no line for each of them.
        if self._writes.is_open and time.monotonic() - self._refused_s > _QUIET_S:
            self._writes.heal()

    async def _heal(self) -> None:
        """Return when Redis answers as quickly as requests need it; they do without until then."""
        self._unwritten.clear()
        self._claimed.clear()
        while self._reads.is_open:
            await asyncio.sleep(self._timing.probe_s * 2 ** min(self._reads.times_reopened, _MOST_DOUBLINGS))
            with suppress(*_FAULTS):
                await self._probe()
                self._reads.heal()

    async def _probe(self) -> None:
        """Make the connections that lookups need, and read in the time that a lookup has. Raises _FAULTS."""
        async with asyncio.timeout(self._timing.unhurried_s):
            await asyncio.gather(*(self._redis.ping() for _ in range(_AT_A_TIME)))
        [answer] = await self._send([("GETRANGE", PREDICTIONS, 0, 0)], self._timing.answer_s)
        if isinstance(answer, ResponseError):
            raise answer
