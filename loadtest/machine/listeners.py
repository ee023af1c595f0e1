"""The processes of the service at a URL of this machine: those that descend from the parents of its listening process.

A machine may run several services whose processes have the same names; only those below a common ancestor belong
together. Used where the kit has not started the service.
"""

import re
import socket
from contextlib import suppress

import psutil

from loadtest.machine.processes import command_of, family
from loadtest.plan.base_url import address_of

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 addresses to recognise
_MAPPED = "::ffff:"


def find_service_processes(url: str, pattern: re.Pattern[str]) -> list[psutil.Process] | None:
    """Return the processes whose command line the pattern finds, of the service at `url`.

    None when the listening process is unknown: there is none, or it is on another machine or of another user.
    """
    listening = find_listeners(url)
    if not listening:
        return None
    others = {1, *(process.pid for process in [psutil.Process(), *psutil.Process().parents()])}
    for process in listening:
        for ancestor in _line_of(process):
            if ancestor.pid in others:  # below it are the kit, or other services
                break
            if found := [each for each in family(ancestor.pid) if pattern.search(command_of(each))]:
                return found
    return []


def find_anywhere(pattern: re.Pattern[str]) -> list[psutil.Process]:
    """Return the processes of this machine whose command line the pattern finds, without this one."""
    own = psutil.Process().pid
    return [each for each in psutil.process_iter() if each.pid != own and pattern.search(command_of(each))]


def find_listeners(url: str) -> list[psutil.Process]:
    """Return the processes of this machine that listen at the address of `url`; only root sees those of others."""
    host, port = address_of(url)
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        connections = psutil.net_connections("tcp")
    except (OSError, psutil.Error):
        return []
    own = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    wanted = {*(found & own), *(address for address in found if address.startswith("127."))}
    if wanted:
        wanted |= {*_ANYWHERE}
    listening = []
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.pid:
            address, its_port = connection.laddr
            if its_port == port and address.removeprefix(_MAPPED) in wanted:
                with suppress(psutil.NoSuchProcess):
                    listening.append(psutil.Process(connection.pid))
    return listening


def _line_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.parents()]
    except psutil.Error:
        return []
