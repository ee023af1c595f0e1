"""On which TCP ports of this machine somebody listens. Linux, where HAProxy is."""

from contextlib import suppress
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENS = "0A"  # in those tables


def listened_ports() -> set[int]:
    """Return the ports on which any process of this machine listens, on whatever address."""
    ports = set()
    for table in _TABLES:
        with suppress(OSError):
            for line in table.read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENS:
                    ports.add(int(words[1].rpartition(":")[2], 16))
    return ports
