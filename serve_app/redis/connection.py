"""Clients of the Redis that REDIS_URL names, and what its faults are called. Called when a replica starts."""

import os
import re
import socket
import ssl
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from serve_app.redis.address import read_redis_url

_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (exceptions.AuthenticationError, "it refuses user or password"),
    (exceptions.NoPermissionError, "its user may not do this"),
    (exceptions.BusyLoadingError, "it is still loading its data"),
    (exceptions.ReadOnlyError, "it takes no writes"),
    (exceptions.OutOfMemoryError, "its memory is full"),
    (exceptions.MaxConnectionsError, "all connections of this replica are in use"),
    (TimeoutError, "no answer in time"),
    (exceptions.TimeoutError, "no answer in time"),
    (socket.gaierror, "its host name leads nowhere"),
    (ssl.SSLError, "the TLS connection fails; its certificate or the ssl_ options of REDIS_URL are wrong"),
)
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
        return "it has no database of the number that REDIS_URL names"
    code = _CODE.match(str(fault)) if isinstance(fault, exceptions.ResponseError) else None
    return f"{type(fault).__name__} {code[0]}" if code else type(fault).__name__


def _causes(fault: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    cause: BaseException | None = fault
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
