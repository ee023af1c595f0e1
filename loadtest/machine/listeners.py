"""The processes of the service that answers at a URL of this machine, by descent from whoever listens there.

A machine may run several services whose processes have the same names; only those below a common ancestor belong
together. Used where the kit has not started the service itself.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import psutil

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 addresses to recognise
_MAPPED = "::ffff:"


def find_service_processes(url: str, pattern: re.Pattern[str]) -> list[psutil.Process] | None:
    """Return the processes whose command line the pattern finds, of the service at `url`.

    None when it cannot be told: nobody listens there, on another machine or for another user.
    """
    listening = list(_listening(url))
    if not listening:
        return None
    others = {1, *(process.pid for process in [psutil.Process(), *psutil.Process().parents()])}
    for process in listening:
        for ancestor in _line_of(process):
            if ancestor.pid in others:  # below it are the kit, or other services
                break
            if found := [each for each in _family(ancestor) if _matches(each, pattern)]:
                return found
    return []


def find_anywhere(pattern: re.Pattern[str]) -> list[psutil.Process]:
    """Return the processes of this machine whose command line the pattern finds, without this one."""
    return [each for each in psutil.process_iter() if each.pid != psutil.Process().pid and _matches(each, pattern)]


def _listening(url: str) -> Iterator[psutil.Process]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
    except OSError:
        return
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    wanted = {*(found & own), *(address for address in found if address.startswith("127."))}
    if not wanted:
        return
    for connection in psutil.net_connections("tcp"):
        if connection.status != psutil.CONN_LISTEN or not (connection.laddr and connection.pid):
            continue
        address = connection.laddr.ip.removeprefix(_MAPPED)
        if connection.laddr.port == port and (address in wanted or address in _ANYWHERE):
            with suppress(psutil.NoSuchProcess):
                yield psutil.Process(connection.pid)


def _line_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.parents()]
    except psutil.Error:
        return []


def _family(ancestor: psutil.Process) -> list[psutil.Process]:
    try:
        return [ancestor, *ancestor.children(recursive=True)]
    except psutil.Error:
        return []


def _matches(process: psutil.Process, pattern: re.Pattern[str]) -> bool:
    try:
        return bool(pattern.search(" ".join(process.cmdline())))
    except psutil.Error:
        return False
