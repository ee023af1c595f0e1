"""Calls of one job queue's scripts and commands: bounded in time and number, with Redis' errors made the service's."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from serve_app.errors import JobsUnavailable, Overloaded
from serve_app.jobs.queue.scripts import Script, read_script
from serve_app.redis import keys
from serve_app.redis.connection import connect, describe_fault

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

AT_A_TIME = 16
"""Below the connections of a client, which raises at once when it has no more; here the next call waits its turn."""

_FULL_RETRY_S = 10


class JobCalls:
    """A client of the queue `queue` whose calls take at most `timeout_s` each, waiting for their turn included."""

    def __init__(self, url: str, queue: str, timeout_s: float) -> None:
        self.prefix = keys.jobs_of(queue)
        self._timeout_s = timeout_s
        self._client = connect(url, timeout_s)
        self._turns = asyncio.Semaphore(AT_A_TIME)
        self._scripts: dict[Script, Any] = {}
        self._told: set[str] = set()

    async def script(self, name: Script, *args: str | bytes | float) -> Any:
        """Run a script. Raises JobsUnavailable, and Overloaded when Redis is full."""
        if name not in self._scripts:
            self._scripts[name] = self._client.register_script(read_script(name))
        script = self._scripts[name]
        return await self.call(lambda _: script(keys=[self.prefix], args=args))

    async def call(self, make: Callable[[Redis], Awaitable[Answer]]) -> Answer:
        """Return what `make` gets from Redis. Raises as `script` does."""
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                return await self._make(make)
        except OutOfMemoryError as exc:
            raise Overloaded("Redis has no memory left for more jobs; try again later", _FULL_RETRY_S) from exc
        except ResponseError as exc:
            self._tell(describe_fault(exc))
            raise JobsUnavailable("Redis refused a command of the jobs; its operator finds why in the log") from exc
        except (RedisError, OSError) as exc:  # asyncio's TimeoutError is an OSError
            # Without the error's own text, which names the address.
            raise JobsUnavailable("Redis, which keeps the jobs, does not answer; try again later") from exc

    def _tell(self, refusal: str) -> None:
        """Log why Redis refuses, once for each reason."""
        if refusal not in self._told:
            self._told.add(refusal)
            logger.warning("Redis refused a command of the jobs: %s", refusal)

    async def _make(self, make: Callable[[Redis], Awaitable[Answer]]) -> Answer:
        try:
            return await make(self._client)
        except ConnectionLost:
            # Once Redis has been restarted, each connection of before fails once, with all of them idle in the pool.
            # Every command and script here may run twice.
            await self._client.connection_pool.disconnect(inuse_connections=False)
            return await make(self._client)

    async def close(self) -> None:
        """End the connections."""
        await self._client.aclose()
