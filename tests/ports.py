"""Ports for servers that tests start."""

import itertools
import os
import socket

# The kernel gives ports to clients from 32768 on, and Serve's replicas listen from 30000 on; a test's must not be among
# them.
_ports = itertools.count(20000 + os.getpid() * 97 % 9000)
_RESERVATIONS = 20_000
_reservations: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody listens on, another one each time, also in other test processes on this machine."""
    while True:
        port = 20000 + next(_ports) % 9900
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0 and _reserve(port):
                return port


def _reserve(port: int) -> bool:
    """Hold a UDP port in its stead for as long as this process lives: who else asks here passes it over.

    Not that of the same number, which the service holds that is started there.
    """
    reservation = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        reservation.bind(("127.0.0.1", port + _RESERVATIONS))
    except OSError:
        reservation.close()
        return False
    _reservations.append(reservation)
    return True
