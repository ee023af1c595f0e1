"""A config is in place when every application runs with the replicas that it asks for; else the reason is told."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from serve_app.deployments.rest import ServeRest
from serve_app.deployments.rollout import DeployError, Rollout
from serve_app.deployments.waiting import waiting_for
from tests.patience import HANG_S

CONFIG = {"applications": [{"name": "model", "deployments": [{"name": "Classifier", "num_replicas": 2}]}]}


def application(status: str, *states: str, message: str = "", told: str = "") -> dict[str, Any]:
    replicas = [{"state": state} for state in states]
    classifier = {"replicas": replicas, "target_num_replicas": 2, "message": told}
    return {"status": status, "message": message, "deployments": {"Classifier": classifier}}


@contextmanager
def dashboard(*answers: dict[str, Any] | int) -> Iterator[tuple[Rollout, list[str]]]:
    """Serve these applications or statuses in turn, the last one for ever; yield a rollout, and what it says."""
    left = list(answers)

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            if not isinstance(answer, int):
                self.wfile.write(json.dumps({"applications": answer}).encode())

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    said: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        rest = ServeRest(f"http://127.0.0.1:{server.server_port}")
        try:
            yield Rollout(rest, CONFIG, lambda _: None, said.append), said
        finally:
            server.shutdown()


def wait(rollout: Rollout, within_s: float = HANG_S) -> None:
    rollout.wait_until_in_place(("DEPLOY_FAILED",), time.monotonic() + within_s)


def test_it_is_in_place_when_all_replicas_run_and_none_of_before_is_left() -> None:
    with dashboard(
        {},
        {"model": application("DEPLOYING", "RUNNING", "STARTING")},
        {"model": application("RUNNING", "RUNNING", "RUNNING", "STOPPING")},
        {"model": application("RUNNING", "RUNNING")},
        503,
        {"model": application("RUNNING", "RUNNING", "RUNNING")},
    ) as (rollout, said):
        wait(rollout)
    # Each line comes again after a while, on a machine that needs so long.
    assert [line for line in dict.fromkeys(said) if "model" in line] == [
        "  model: deploying (Classifier 1 of 2 replica(s))",
        "  model: running",
        "  model: running (Classifier 1 of 2 replica(s))",
    ]


def test_what_serve_says_of_replicas_that_do_not_come_up_is_told_while_they_are_waited_for() -> None:
    with dashboard(
        {"model": application("DEPLOYING", told="cannot be placed")},
        {"model": application("RUNNING", "RUNNING", "RUNNING")},
    ) as (
        rollout,
        said,
    ):
        wait(rollout)
    assert said[0] == "  model: deploying (Classifier 0 of 2 replica(s))\n    cannot be placed"


def test_a_wait_is_told_again_and_again_until_it_ends() -> None:
    said: list[str] = []
    told_twice = threading.Event()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            told_twice.set()

    with waiting_for("Ray to start", say, every_s=0.01):
        assert told_twice.wait(HANG_S)
    assert all(re.fullmatch(r"  waiting for Ray to start \(\d+ s\)", line) for line in said)


def test_a_wait_tells_its_reason_as_soon_as_there_is_one() -> None:
    said: list[str] = []
    has_reason, told = threading.Event(), threading.Event()

    def say(line: str) -> None:
        said.append(line)
        told.set() if has_reason.is_set() else has_reason.set()

    with waiting_for("an answer", say, every_s=0.01, why=lambda: "it is empty" if has_reason.is_set() else None):
        assert told.wait(HANG_S)
    assert [line.partition("s)")[2] for line in said[:2]] == ["", ": it is empty"]


def test_a_failed_application_ends_the_wait_with_its_reason() -> None:
    with (
        dashboard({"model": application("DEPLOY_FAILED", message="no weights\n\nat this path")}) as (rollout, _),
        pytest.raises(DeployError, match="application model: DEPLOY_FAILED\nno weights\nat this path"),
    ):
        wait(rollout)


@pytest.mark.parametrize(("status", "words"), [(403, "403"), (503, "503")])
def test_a_dashboard_that_does_not_tell_ends_the_wait(status: int, words: str) -> None:
    with dashboard(status) as (rollout, _), pytest.raises(DeployError, match=f"does not tell the status.*{words}"):
        wait(rollout)


def test_at_the_deadline_the_state_is_told() -> None:
    with (
        dashboard({"model": application("DEPLOYING", "STARTING")}) as (rollout, _),
        pytest.raises(DeployError, match=r"not running within the time limit \(model: deploying \(Classifier 0 of 2"),
    ):
        wait(rollout, within_s=-1)
