"""What can be known before Ray starts: all faults of a config on this machine at once, each in one line.

The checks run side by side and have LONGEST_S together, but for those that read files of any size; nothing of
TensorFlow is imported. Called by `python -m serve_app`, with and without `--check`; the builders ask the same of
weights and labels for `serve run`.
"""

import os
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from serve_app import service_folder
from serve_app.classifier.settings import ClassifierSettings
from serve_app.classifier.sources import find_source_faults
from serve_app.deployments import ray_token
from serve_app.deployments.applications import api_port, grpc_port, http_host, key_sources, models, our_settings
from serve_app.deployments.config_file import config_faults
from serve_app.deployments.config_rules import find_shared_queues
from serve_app.deployments.config_text import read_config
from serve_app.deployments.placement import find_gpu_faults, find_placement_faults
from serve_app.deployments.ports import API_PORT, GRPC_PORT, check_free, find_named_faults, why_not_listening
from serve_app.entrance.environment import HAPROXY_SWITCH, find_https_fault
from serve_app.entrance.haproxy import BINARY_VARIABLE
from serve_app.entrance.haproxy import PROGRAM as HAPROXY
from serve_app.entrance.keys import read_keys
from serve_app.entrance.tls import tls_in
from serve_app.errors import DatabaseUnavailable, Fault, SetupError, SetupFaults
from serve_app.places import (
    CACHE_REMEDY,
    CACHE_VARIABLE,
    DATA_VARIABLE,
    cache_dir,
    data_dir,
    is_file,
    is_folder,
    why_not_writable,
)
from serve_app.redis.address import VARIABLE as REDIS_VARIABLE
from serve_app.redis.address import redis_url
from serve_app.users.settings import VARIABLE as DATABASE_VARIABLE
from serve_app.users.settings import UsersSettings, database_url

LONGEST_S = 10.0
REDIS_S = 3.0
_FOLDERS_OF_SOCKETS = {
    service_folder.RAY_VARIABLE: service_folder.RAY_MAX_BYTES,
    service_folder.TEMPORARY_VARIABLE: service_folder.TEMPORARY_MAX_BYTES,
}
_WITHOUT_REDIS = "until Redis answers, nothing is cached and jobs get status 503"
_NO_POSTGRES = "start PostgreSQL, or correct host, port, user, password and database in the URL"
_NO_SQLITE = "name an SQLite database that you can read, or a new file: the service then makes it"


@dataclass(frozen=True)
class Start:
    """A config without faults of its own, and the environment in which it is to be served."""

    config: dict[str, Any]
    environment: Mapping[str, str]
    is_to_listen: bool = False
    """Whether the service starts now; otherwise the config is only checked."""

    def settings(self, kind: type[UsersSettings] | type[ClassifierSettings]) -> Iterator[tuple[str, Any]]:
        """Yield name and settings of each application of one kind."""
        yield from ((name, each) for name, each in our_settings(self.config) if isinstance(each, kind))


class Check(NamedTuple):
    """One question: under which key it is told that it has no answer in time, and what finds the faults."""

    key: str
    find: Callable[[Start], Iterable[Fault]]
    reads_files: bool = False
    """Whether it reads files of any size, and asks servers with limits of its own: then none of ours ends it."""


def startable_config(path: Path, *, is_to_listen: bool) -> tuple[dict[str, Any], list[Fault]]:
    """Return the config at `path` and what its service would start without, if nothing stands in its way.

    Unless it `is_to_listen`, a port in use is a warning, and none while a service of this user runs there: a config may
    be checked beside it. Raises SetupFaults.
    """
    config = read_config(path)
    faults = list(config_faults(config))
    has_ports = all(fault.key not in (API_PORT, GRPC_PORT) for fault in faults)
    asked = CHECKS + CHECKS_OF_PORT if has_ports else CHECKS
    faults += find_faults(Start(config, os.environ, is_to_listen=is_to_listen), asked)
    if fatal := [fault for fault in faults if not fault.is_warning]:
        raise SetupFaults(fatal)
    return config, faults


def find_faults(start: Start, asked: tuple[Check, ...], longest_s: float = LONGEST_S) -> list[Fault]:
    """Return the faults of a start, and the warnings, in the order of the checks `asked`, which run side by side."""
    answers: dict[Check, list[Fault]] = {}
    partly: dict[Check, list[Fault]] = {}
    """What a check has found so far that has not ended."""

    def ask(check: Check) -> None:
        found: list[Fault] = []
        try:
            for fault in check.find(start):
                found.append(fault)
                partly[check] = found
        except SetupError as exc:
            found.append(replace(exc.fault, key=exc.fault.key or check.key))
        answers[check] = found

    # Daemons: a name server that says nothing must not hold up the end of the process.
    running = [Thread(target=ask, args=(check,), daemon=True) for check in asked]
    deadline_s = time.monotonic() + longest_s
    for thread in running:
        thread.start()
    for check, thread in zip(asked, running, strict=True):
        thread.join(None if check.reads_files else max(0.0, deadline_s - time.monotonic()))
    if any(check not in answers and not thread.is_alive() for check, thread in zip(asked, running, strict=True)):
        raise RuntimeError("a check before the start has failed; its traceback stands above")
    return [
        fault
        for check in asked
        for fault in answers.get(check) or [*partly.get(check, ()), *_silence(check, answers, longest_s)]
    ]


def _silence(check: Check, answers: Container[Check], longest_s: float) -> Iterator[Fault]:
    if check not in answers:
        what = f"no answer within {longest_s:g} s"
        yield Fault(check.key, what, "check network and DNS")


def _keys(start: Start) -> Iterator[Fault]:
    for name, source in key_sources(start.config).items():
        try:
            read_keys(source)
        except SetupError as exc:
            yield replace(exc.fault, key=f"applications[{name}].args.auth")


def _sources(start: Start) -> Iterator[Fault]:
    for settings, engines in models(start.config):
        for fault in find_source_faults(settings, gpu_share=engines.gpu_share):
            yield replace(fault, key=f"applications[{engines.application}].args.{fault.key}")


def _database(start: Start) -> Iterator[Fault]:
    for _, settings in start.settings(UsersSettings):
        url = database_url(environment=start.environment)
        if not start.environment.get(DATABASE_VARIABLE):  # then the table is one that the service has made
            return
        from serve_app.users.store import check_table

        try:
            check_table(url, settings)
        except DatabaseUnavailable as exc:
            remedy = _NO_SQLITE if url.startswith("sqlite") else _NO_POSTGRES
            yield Fault(DATABASE_VARIABLE, f"the database cannot be used: {exc.detail}", remedy)
            return


def _queues(start: Start) -> Iterator[Fault]:
    if start.environment.get(REDIS_VARIABLE):
        yield from find_shared_queues(start.config)


def _redis(start: Start) -> Iterator[Fault]:
    served = list(start.settings(ClassifierSettings))
    url = redis_url(start.environment) if served else None
    for name, settings in served:
        try:
            settings.cache.kind_with(url)
        except SetupError as exc:
            yield replace(exc.fault, key=f"applications[{name}].args.{exc.fault.key}")
    if url is not None:
        from serve_app.redis.connection import find_fault

        if fault := find_fault(url, REDIS_S):
            is_optional = fault.is_down and all(settings.cache.store != "redis" for _, settings in served)
            remedy = f"{fault.remedy}; {_WITHOUT_REDIS}" if is_optional else fault.remedy
            yield Fault(REDIS_VARIABLE, f"Redis cannot be used: {fault.words}", remedy, is_warning=is_optional)


def _placement(start: Start) -> Iterator[Fault]:
    yield from find_placement_faults(start.config)
    yield from find_gpu_faults(start.config)


def _folders(start: Start) -> Iterator[Fault]:
    home = Path(start.environment.get("HOME") or Path.home())
    is_home_there = is_folder(home)
    if not is_home_there and any(home in folder.parents for _, folder, _ in _needed(start, home)):
        what = f"{home} is not a folder (Ray's token, the demo users and prepared models are kept there)"
        yield Fault("HOME", what, "set HOME to a folder that you can write")
    for key, folder, remedy in _needed(start, home):
        if (is_home_there or home not in folder.parents) and (reason := why_not_writable(folder)):
            yield Fault(key, f"{folder} cannot be written: {reason}", remedy)


def _needed(start: Start, home: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield key, folder and remedy of what a start writes."""
    if any(start.settings(ClassifierSettings)):
        yield CACHE_VARIABLE, cache_dir() / "models", CACHE_REMEDY
    if any(start.settings(UsersSettings)) and not start.environment.get(DATABASE_VARIABLE):
        yield DATA_VARIABLE, data_dir(), f"set {DATA_VARIABLE} to a folder that you can write, or {DATABASE_VARIABLE}"
    token = ray_token.default_file(home)
    if not any(start.environment.get(name) for name in ray_token.VARIABLES) and not is_file(token):
        yield "HOME", token.parent, ray_token.HOME_REMEDY


def _token_mode(start: Start) -> Iterator[Fault]:
    mode = start.environment.get(ray_token.MODE_VARIABLE)
    if mode is not None and mode.lower() != ray_token.MODE:  # empty, it switches the token off too
        what = "without a token, everyone who reaches Ray's ports may run code as this user"
        yield Fault(ray_token.MODE_VARIABLE, what, f"unset it, or write {ray_token.MODE_VARIABLE}={ray_token.MODE}")


def _haproxy(start: Start) -> Iterator[Fault]:
    named = start.environment.get(BINARY_VARIABLE)
    is_used = start.environment.get(HAPROXY_SWITCH) == "1"
    if named and is_used and not (is_file(named) and os.access(named, os.X_OK)):
        what = f"{named} is no program, so nothing would take HTTP"
        remedy = f"write the whole path of `{HAPROXY}`, which hardens HAProxy's config and starts it, or unset it"
        yield Fault(BINARY_VARIABLE, what, remedy)


def _service_folder(start: Start) -> Iterator[Fault]:
    checks: list[Callable[[], None]] = [partial(service_folder.check_usable, api_port(start.config))]
    for variable, most_bytes in _FOLDERS_OF_SOCKETS.items():
        given = start.environment.get(variable, "")
        if given and variable == service_folder.RAY_VARIABLE:
            checks.append(partial(service_folder.check_path, Path(given), variable, most_bytes))
        elif given and is_folder(given):  # Python passes over another
            checks.append(partial(service_folder.check_path, Path(given).absolute(), variable, most_bytes))
    for check in checks:
        try:
            check()
        except SetupError as exc:
            yield exc.fault


def _host(start: Start) -> Iterator[Fault]:
    host = http_host(start.config)
    if ":" in host:  # HAProxy would listen on ::1, and find no replica; for :: Serve has it listen on IPv4 only
        remedy = "write 127.0.0.1, or 0.0.0.0 for every interface; a proxy in front can take IPv6"
        yield Fault("http_options.host", f"{host} is IPv6, which is not served", remedy)
    elif reason := why_not_listening(host):
        what = f"{host} is not an address of this machine ({reason})"
        yield Fault("http_options.host", what, "write 127.0.0.1, 0.0.0.0, or the address of an interface")


def _tls(start: Start) -> Iterator[Fault]:
    if (tls := tls_in(start.config)) and (fault := find_https_fault(tls, start.environment)):
        yield fault


def _ports(start: Start) -> Iterator[Fault]:
    host, port = http_host(start.config), api_port(start.config)
    if not start.is_to_listen and service_folder.is_running(port):
        return
    listened = {API_PORT: port, GRPC_PORT: grpc_port(start.config)}
    faults = list(find_named_faults(port, listened[GRPC_PORT]))
    for key, each in listened.items() if why_not_listening(host) is None else ():
        try:
            if each is not None:
                check_free(host, each, key)
        except SetupError as exc:
            faults.append(exc.fault)
    for fault in faults:
        yield replace(fault, is_warning=not start.is_to_listen)


CHECKS = (
    Check("applications[…].args.auth", _keys),
    Check("applications[…].args.weights", _sources, reads_files=True),
    Check(DATABASE_VARIABLE, _database),
    Check(REDIS_VARIABLE, _redis),
    Check("applications[…].args.jobs.queue", _queues),
    Check("applications", _placement),
    Check("HOME", _folders),
    Check(ray_token.MODE_VARIABLE, _token_mode),
    Check("http_options.host", _host),
    Check("tls", _tls),
    Check(BINARY_VARIABLE, _haproxy),
)
CHECKS_OF_PORT = (Check(service_folder.VARIABLE, _service_folder), Check(API_PORT, _ports))
"""Of a config whose ports are such."""
