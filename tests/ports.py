"""Ports for servers that tests start."""

import itertools
import os
import socket

# The kernel gives ports to clients from 32768 on, and Serve's replicas listen from 30000 on; a test's must not be among
# them.
_ports = itertools.count(20000 + os.getpid() % 9000)


def free_port() -> int:
    """Return a port that nobody listens on, another one each time."""
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
