"""How many processes make the load, and where those of other machines report. Part of a plan."""

import os
import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from loadtest.errors import BadInputError

MOST_PER_CORE = 4
"""Generators of this machine for each of its cores: one alone can fill a core."""

_ADDRESS = re.compile(r"([\w.-]+):(\d{1,5})", re.ASCII)
_MOST_PORT = 65535
_ANY_HERE = "AN_ADDRESS_OF_THIS_MACHINE"


def split_address(text: str) -> tuple[str, int]:
    """Return host and port of an address such as `192.0.2.7:5557`. Raises ValueError."""
    found = _ADDRESS.fullmatch(text)
    if not found or not 0 < int(found[2]) <= _MOST_PORT:
        raise ValueError(f"{text!r} is not of the form HOST:PORT, such as 192.0.2.7:5557")
    return found[1], int(found[2])


def _check_own_address(text: str) -> str:
    host, _ = split_address(text)
    try:
        IPv4Address(host)
    except ValueError as exc:
        raise ValueError(f"{text!r} must begin with an IPv4 address of this machine, as in 192.0.2.7:5557") from exc
    return text


OwnAddress = Annotated[str, AfterValidator(_check_own_address)]
"""HOST:PORT of this machine, HOST being an IPv4 address; 0.0.0.0 for all that it has."""


def tell_how_to_start(generators_at: str) -> str:
    """Return what to do when generators of other machines do not come, to follow a reason."""
    host, port = split_address(generators_at)
    master = f"{_ANY_HERE if IPv4Address(host).is_unspecified else host}:{port}"
    return f": run `python -m loadtest generator --master {master}` on their machines, or see there what it printed"


def find_generator_faults(generators: int, users: list[int]) -> Iterator[str]:
    """Yield what is wrong with the number of generators at these levels of users, on whatever machine."""
    if generators > min(users):
        yield (
            f"generators: {generators} are too many for {min(users)} user(s), since each needs one: "
            f"make it {min(users)} or less, or raise users"
        )


def check_machine(path: Path, generators: int, generators_at: str | None) -> None:
    """Raise BadInputError when this machine should not start the generators of the plan at `path`, or not wait there.

    That is no rule of the plan itself: the report of a run may be made on another machine.
    """
    if generators_at is None:
        check_cores(f"{path}: generators", generators, ", or start them on other machines (generators_at)")
    else:
        check_can_listen(*split_address(generators_at))


def check_can_listen(host: str, port: int) -> None:
    """Raise BadInputError when no master can listen at an address, which is `generators_at` of a plan."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as exc:
            told = f"generators_at: {host}:{port} cannot be listened on ({exc.strerror})"
            raise BadInputError(f"{told}: give an address of this machine and a free port") from exc


def check_cores(name: str, generators: int, otherwise: str = "") -> None:
    """Raise BadInputError when this machine should not start so many generators; `name` is of the key or option."""
    cores = os.cpu_count() or 1
    if generators > MOST_PER_CORE * cores:
        raise BadInputError(
            f"{name}: {generators} are too many for the {cores} core(s) here: make it {MOST_PER_CORE * cores} or less"
            f"{otherwise}"
        )
