"""The address of Redis (REDIS_URL, off by default) and clients for it. Called when a replica starts."""

import os
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from serve_app.errors import SetupError

VARIABLE = "REDIS_URL"
_SCHEMES = ("redis", "rediss", "unix")


def redis_url() -> str | None:
    """Return the address of Redis in REDIS_URL, or None, which means without Redis.

    Raises SetupError on an address that is none. No message shows the address itself, which may hold a password.
    """
    url = os.environ.get(VARIABLE, "").strip()
    if not url:
        return None
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in _SCHEMES and bool(parts.hostname or parts.path)
    except ValueError:
        is_address = False
    if not is_address:
        raise SetupError(f"{VARIABLE} must look like redis://user:password@host:6379/0, rediss://… or unix:///socket")
    return url


def connect(url: str, timeout_s: float, max_connections: int = 20) -> Redis:
    """Return a client that connects at first use; connecting and each answer take at most `timeout_s`, tried once.

    A command that blocks in Redis must block for less than `timeout_s`. Errors are redis.exceptions.RedisError.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        max_connections=max_connections,
        retry=Retry(NoBackoff(), 0),
        client_name="serve-app",
    )
