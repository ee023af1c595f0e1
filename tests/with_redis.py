"""Runs a command beside a Redis of its own: `python -m tests.with_redis COMMAND …`, with REDIS_URL for the command.

For plans of the stress kit and for trying out; the Redis is that of the tests, in a folder that is removed afterwards.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.redis_server import RedisServer

MEMORY = ("--maxmemory", "256mb", "--maxmemory-policy", "volatile-lru")


def main(command: list[str]) -> int:
    """Return the exit code of `command`, to which SIGTERM and Ctrl-C are passed on."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder), *MEMORY)
        try:
            child = subprocess.Popen(command, env={**os.environ, "REDIS_URL": server.url})
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda number, _: child.send_signal(number))
            return child.wait()
        finally:
            server.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
