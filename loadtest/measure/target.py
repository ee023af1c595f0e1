"""The service under test: started fresh for a cell, waited for, checked, and taken down until nothing of it is left."""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from loadtest.errors import BadInputError, CellFailedError, TargetFailedError
from loadtest.machine.listeners import find_listeners
from loadtest.machine.processes import (
    begin_child,
    descendants,
    describe,
    kill,
    last_lines,
    psutil_of,
    reap_orphans,
    split_command,
    start_process,
    undisturbed,
    wait_for_end,
)
from loadtest.machine.resources import count_role
from loadtest.plan.base_url import address_of
from loadtest.plan.longest import STOP_COMMAND_S, STRAGGLERS_S
from loadtest.plan.target_key import key_headers
from loadtest.plan.targets import Role, Target

_POLL_S = 0.1
_ASK_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 1.0


@dataclass
class RunningTarget:
    """A started target; its process is None when it ran already."""

    target: Target
    process: "subprocess.Popen[bytes] | None"
    log: Path
    ready_after_s: float | None = None
    stopped_after_s: float | None = None
    notes: list[str] = field(default_factory=list)

    def check_lives(self) -> None:
        """Raise TargetFailedError, with the last it printed, when the started process has ended."""
        if self.process is None:
            return
        code = self.process.poll()
        if code is not None:
            ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise TargetFailedError(_with_log(f"the target {ended}", self.log))

    def wait_until_ready(self) -> None:
        """Return when each URL answers 200 to every ready path.

        Raises TargetFailedError if the target ends or takes too long.
        """
        began = time.monotonic()
        for url in self.target.urls:
            with self._client(url) as client:
                for path in self.target.ready:
                    self._wait_for(client, path, began + self.target.ready_timeout_s)
        self.ready_after_s = round(time.monotonic() - began, 3)

    def _wait_for(self, client: httpx.Client, path: str, until_s: float) -> None:
        self.check_lives()
        while fault := _ask(client, path):
            if time.monotonic() > until_s:
                where = path if isinstance(self.target.url, str) else f"{client.base_url}{path.removeprefix('/')}"
                late = f"the target was not ready within {self.target.ready_timeout_s:g} s ({where}: {fault})"
                raise TargetFailedError(_with_log(f"{late}; see ready and ready_timeout_s", self.log))
            time.sleep(_POLL_S)
            self.check_lives()

    def count_replicas(self, roles: list[Role]) -> int | None:
        """Return how many replicas run, once they are as many as asked or have had their time; None if not asked."""
        asked = self.target.replicas
        if asked is None or self.process is None:
            return None
        deadline = time.monotonic() + asked.wait_s
        while (found := count_role(roles, asked.role)) != asked.count and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return found

    def check_replicas(self, found: int | None) -> None:
        """Raise CellFailedError when `found`, as counted, is another number than the plan asks for."""
        asked = self.target.replicas
        if asked is not None and found is not None and found != asked.count:
            raise CellFailedError(
                f"{found} processes of the role {asked.role} run, the plan asks for {asked.count}; "
                "see replicas and roles in the plan"
            )

    def read_about(self) -> dict[str, Any]:
        """Return what the target says of itself, by path; a path that gives no JSON becomes a note."""
        about = {}
        with self._client(self.target.urls[0]) as client:
            for path in self.target.about:
                try:
                    answer = client.get(path).raise_for_status()
                    # JSON may name half of a surrogate pair, which cannot be written.
                    about[path] = json.loads(json.dumps(answer.json(), ensure_ascii=False).encode(errors="replace"))
                except (httpx.HTTPError, ValueError) as exc:
                    self.notes.append(f"about: {path}: {exc}")
        return about

    def _client(self, url: str) -> httpx.Client:
        return httpx.Client(base_url=url, timeout=_ASK_TIMEOUT_S, trust_env=False, headers=key_headers())


@contextmanager
def running_target(target: Target, log: Path) -> Iterator[RunningTarget]:
    """Start the target; whatever happens, nothing of it is left. Raises CellFailedError and BadInputError."""
    if target.start is None:
        yield RunningTarget(target, None, log)
        return
    check_port_is_free(target)
    environment = {**os.environ, **target.environment}
    running = RunningTarget(target, start_process(split_command(target.start), log, environment), log)
    try:
        yield running
    finally:
        with undisturbed():
            _take_down(running)


def check_port_is_free(target: Target) -> None:
    """Raise BadInputError when another program listens on the port of a target that the kit would start."""
    for url in target.urls:
        host, port = address_of(url)
        try:
            socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
        except OSError:
            continue
        users = [f"{describe(process)} (process {process.pid})" for process in find_listeners(url)]
        raise BadInputError(
            f"port {port} of {host} is already in use by {users[0] if users else 'another program'}: "
            f"stop it, or give the target {target.name} another url"
        )


def _ask(client: httpx.Client, path: str) -> str:
    """Return what is wrong with the answer; nothing when it is 200."""
    try:
        status = client.get(path).status_code
    except httpx.HTTPError as exc:
        return str(exc) or type(exc).__name__
    return "" if status == httpx.codes.OK else f"status {status}"


def _take_down(running: RunningTarget) -> None:
    process = running.process
    assert process is not None
    began = time.monotonic()
    if process.poll() is None or running.target.stop is not None:
        _ask_to_stop(running, process)
        left = wait_for_end(psutil_of(process.pid), running.target.stop_timeout_s)
        if left:
            running.notes.append(f"the target did not stop within {running.target.stop_timeout_s:g} s and was killed")
            kill(left)
    process.wait()
    running.stopped_after_s = round(time.monotonic() - began, 3)
    killed = kill(wait_for_end(descendants(), STRAGGLERS_S))
    if killed:
        running.notes.append(f"left behind by the target and killed: {', '.join(killed)}")
    reap_orphans({process.pid})


def _ask_to_stop(running: RunningTarget, process: "subprocess.Popen[bytes]") -> None:
    if running.target.stop is None:
        process.terminate()
        return
    try:
        arguments = split_command(running.target.stop)
        done = subprocess.run(
            arguments,
            env={**os.environ, **running.target.environment},
            capture_output=True,
            text=True,
            timeout=STOP_COMMAND_S,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C on a terminal would reach it
            preexec_fn=begin_child,
        )
        fault = f"ended with code {done.returncode}: {done.stderr.strip()[-300:]}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired, CellFailedError) as exc:
        fault = str(exc)
    if fault:
        running.notes.append(f"the stop command failed, so SIGTERM was sent: {fault}")
        if process.poll() is None:
            process.terminate()


def _with_log(reason: str, log: Path) -> str:
    printed = last_lines(log)
    return f"{reason}; its last lines:\n{printed}" if printed else f"{reason}; it printed nothing"
