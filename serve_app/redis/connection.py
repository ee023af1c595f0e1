"""Clients of the Redis that REDIS_URL names, and what its faults are called. Called when a replica starts."""

import asyncio
import os
import re
import socket
import ssl
from typing import Any, NamedTuple

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from serve_app.deadline import answer_within
from serve_app.redis.address import VARIABLE, read_redis_url

_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (exceptions.AuthenticationError, "it rejects user or password"),
    (exceptions.NoPermissionError, "its user may not do this"),
    (exceptions.InvalidResponse, "the server that answers there is not Redis"),
    (exceptions.BusyLoadingError, "it is still loading its data"),
    (exceptions.ReadOnlyError, "it is read-only"),
    (exceptions.OutOfMemoryError, "its memory is full"),
    (exceptions.MaxConnectionsError, "all connections of this replica are in use"),
    (TimeoutError, "no answer in time"),
    (exceptions.TimeoutError, "no answer in time"),
    (socket.gaierror, "its host name cannot be resolved"),
    (ssl.SSLError, "the TLS connection fails; its certificate or the ssl_ options of REDIS_URL are wrong"),
)
_NO_SUCH_DATABASE = f"the server has no database with the number in {VARIABLE}"
_CODE = re.compile(r"[A-Z]{3,20}")


def connect(url: str, timeout_s: float, max_connections: int = 20) -> Redis:
    """Return a client that connects at first use; connecting and each answer take at most `timeout_s`, tried once.

    A command that blocks in Redis must block for less than `timeout_s`. Errors are redis.exceptions.RedisError.
    Raises SetupError as `read_redis_url` does.
    """
    address = read_redis_url(url)
    place: dict[str, Any] = {"host": address.host, "port": address.port}
    if address.socket is not None:
        place = {"unix_socket_path": address.socket}
    elif address.tls is not None:
        place |= {"ssl": True, **address.tls}
    # Not Redis.from_url, which reads what is not escaped in its own way, and options of the client from the query.
    return Redis(
        **place,
        db=address.db,
        username=address.username,
        password=address.password,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        client_name="serve-app",
    )


class RedisFault(NamedTuple):
    """What is wrong with Redis, in words of ours, what mends it, and whether it is only that nothing answers now."""

    words: str
    remedy: str
    is_down: bool


def find_fault(url: str, timeout_s: float) -> RedisFault | None:
    """Return why the Redis at `url` cannot be used, or None if it answers within `timeout_s`."""
    try:
        answer_within(timeout_s, lambda: asyncio.run(_ping(url, timeout_s)))
    except (exceptions.RedisError, OSError) as exc:
        words = describe_fault(exc)
        if isinstance(exc, exceptions.AuthenticationError):
            return RedisFault(words, f"correct user and password in {VARIABLE}", is_down=False)
        if words == _NO_SUCH_DATABASE:
            return RedisFault(words, "write a smaller number after the host, such as /0", is_down=False)
        is_other = isinstance(exc, exceptions.InvalidResponse)
        is_down = isinstance(exc, exceptions.ConnectionError | exceptions.TimeoutError | OSError) and not is_other
        return RedisFault(words, f"start Redis, or correct host and port in {VARIABLE}", is_down)
    return None


async def _ping(url: str, timeout_s: float) -> None:
    redis = connect(url, timeout_s)
    try:
        await redis.ping()
    finally:
        await redis.aclose()


def describe_fault(fault: BaseException) -> str:
    """Return what is wrong with Redis, in words of ours: redis-py's name the address, and Redis' quote commands."""
    causes = _causes(fault)
    for kind, words in _WORDS:
        if any(isinstance(cause, kind) for cause in causes):
            return words
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno is not None:
            return os.strerror(cause.errno)
    if str(fault).startswith("DB index"):
        return _NO_SUCH_DATABASE
    code = _CODE.match(str(fault)) if isinstance(fault, exceptions.ResponseError) else None
    return f"{type(fault).__name__} {code[0]}" if code else type(fault).__name__


def _causes(fault: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = fault
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
