"""Gives Serve a config and waits until all of it is in place. For the launcher and `redeploy`."""

import time
import urllib.error
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from serve_app.deployments.rest import ServeRest
from serve_app.deployments.waiting import PROGRESS_S, say

POLL_S = 0.1
_MAX_FAULTS = 5
"""Answers of the dashboard that may fail to come one after the other, on a loaded machine."""
_REASON_LINES = 20

Applications = dict[str, Any]


class DeployError(Exception):
    """Serve could not bring the config up; the message is its reason."""


class TimeLimitReached(DeployError):
    """The rollout still goes on; `state` says how far it is."""

    def __init__(self, state: str) -> None:
        super().__init__(f"not running within the time limit ({state})")
        self.state = state


@dataclass(frozen=True)
class Rollout:
    """One config for the Serve behind `rest`. `sleep` waits for so many seconds, and `say` prints a line."""

    rest: ServeRest
    config: dict[str, Any]
    sleep: Callable[[float], None] = time.sleep
    say: Callable[[str], None] = say

    def deploy(self) -> None:
        """Make the config the wanted state. Raises DeployError."""
        for fault in range(1, _MAX_FAULTS + 1):
            try:
                self.rest.deploy(self.config)
            except urllib.error.HTTPError as exc:
                # Without its words, which quote the config, passwords in URLs included.
                reason = f"Serve refused the config (status {exc.code}); dashboard.log of Ray says why"
                raise DeployError(reason) from exc
            except OSError as exc:  # saying the same again does no harm
                if fault == _MAX_FAULTS:
                    raise DeployError(f"the dashboard does not answer: {exc}") from exc
                self.sleep(POLL_S)
            else:
                return

    def wait_until_in_place(self, failed: Collection[str], deadline_s: float) -> None:
        """Return when every application runs with the replicas that the config asks for, and none of before is left.

        Raises DeployError when one has a status in `failed`, TimeLimitReached at `deadline_s` (of time.monotonic()).
        """
        told, next_progress_s = ("", ""), time.monotonic() + PROGRESS_S
        while True:
            found = self._ask()
            for name, application in found.items():
                if application["status"] in failed:
                    raise DeployError(_reason(name, application))
            state, words = _describe(found), _words(found)
            if all(_is_in_place(found.get(wanted["name"]), wanted) for wanted in self.config["applications"]):
                return
            if time.monotonic() > deadline_s:
                raise TimeLimitReached(state)
            if (state, words) != told or time.monotonic() > next_progress_s:
                self.say(f"  {state or 'waiting for Serve'}{words if words != told[1] else ''}")
                told, next_progress_s = (state, words), time.monotonic() + PROGRESS_S
            self.sleep(POLL_S)

    def _ask(self) -> Applications:
        faults = 0
        while True:
            try:
                return self.rest.applications()
            except OSError as exc:
                faults += 1
                if faults == _MAX_FAULTS or getattr(exc, "code", None) in (401, 403):
                    raise DeployError(f"the dashboard does not tell the status: {exc}") from exc
                self.sleep(POLL_S)


def last_lines(text: str) -> str:
    """Return the end of a traceback or log, without empty lines."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-_REASON_LINES:])


def _is_in_place(found: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    if found is None or found["status"] != "RUNNING":
        return False
    for deployment in wanted.get("deployments") or ():
        states = [replica["state"] for replica in found["deployments"][deployment["name"]]["replicas"]]
        count = deployment.get("num_replicas")
        if set(states) != {"RUNNING"} or (isinstance(count, int) and len(states) != count):
            return False
    return True


def _describe(applications: Applications) -> str:
    """Return each status, and of each deployment that is not up how many of its replicas run."""
    described = []
    for name, application in sorted(applications.items()):
        waits = [
            f"{each} {_count_running(found)} of {found['target_num_replicas']} replica(s)"
            for each, found in application["deployments"].items()
            if _count_running(found) < found["target_num_replicas"]
        ]
        described.append(f"{name}: {application['status'].lower()}" + (f" ({', '.join(waits)})" if waits else ""))
    return ", ".join(described)


def _words(applications: Applications) -> str:
    """Return what Serve says of deployments that are not up, which may be long."""
    found = [each["message"] for application in applications.values() for each in application["deployments"].values()]
    return "".join(f"\n    {' '.join(message.split())}" for message in found if message)


def _count_running(deployment: dict[str, Any]) -> int:
    return sum(replica["state"] == "RUNNING" for replica in deployment["replicas"])


def _reason(name: str, application: dict[str, Any]) -> str:
    failed = [found for found in application["deployments"].values() if found["message"]]
    message = failed[0]["message"] if failed else application["message"]
    return f"application {name}: {application['status']}\n{last_lines(message)}"
