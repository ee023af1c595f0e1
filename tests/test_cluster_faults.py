"""The table of faults says nothing where nothing was asked, and counts requests that hang."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cluster.faults import BACK_S, FAULTS, TARGET_S, Outcome, check_sent, render
from tests.cluster.load import RATE
from tests.patience import HANG_S
from tests.service import ROOT

LEFT, LOST = "192.0.2.10", "192.0.2.11"


def row(address: str = LEFT, status: int = 200, kind: str = "predict") -> dict[str, Any]:
    return {"address": address, "status": status, "kind": kind, "fault": "", "s": 0.1}


@pytest.mark.parametrize(("outcome", "is_surprising"), [
    (Outcome("x", 1, rows=[row()]), False),
    (Outcome("x", 1, rows=[]), True),
    (Outcome("x", 1, without={LOST}, rows=[row(LOST)]), True),
    (Outcome("x", 1, without={LOST}, rows=[row(), row(LOST, 0)]), False),
    (Outcome("x", 1, rows=[row(), row(status=503)]), True),
    (Outcome("x", 1, rows=[row(), row(status=503, kind="lookup")], known="lookup"), False),
    (Outcome("x", TARGET_S + 1, rows=[row()]), True),
    (Outcome("x", TARGET_S + 1, rows=[row()], slow_because="a reason"), False),
    (Outcome("x", BACK_S + 1, rows=[row()], slow_because="a reason"), True),
])  # fmt: skip
def test_what_was_not_expected_is_told(outcome: Outcome, *, is_surprising: bool) -> None:
    assert outcome.is_surprising == is_surprising


def test_a_load_that_sends_too_little_is_no_measurement() -> None:
    check_sent([row()] * int(RATE * 10), [LEFT], 10)
    for rows in ([], [row()] * int(RATE * 5), [row(LOST)] * int(RATE * 10)):
        with pytest.raises(AssertionError, match="requests each"):
            check_sent(rows, [LEFT], 10)


def test_every_fault_has_a_row() -> None:
    *_, line = render([Outcome(FAULTS["killed"].title, 100, {LOST}, [row(), row(LOST, 0)])])
    assert line == "| all processes of a worker killed | 0 of 1 | 0.1 s | 1 of 1 | 100 s |"


class Node(BaseHTTPRequestHandler):
    """Answers lookups, and never a prediction."""

    is_over: threading.Event

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.is_over.wait()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def node() -> Iterator[int]:
    Node.is_over = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Node) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield server.server_port
        finally:
            Node.is_over.set()
            server.shutdown()


def test_requests_that_hang_when_the_load_is_told_to_end_are_counted_as_failed() -> None:
    with node() as port:
        command = [sys.executable, "-m", "tests.cluster.load", "127.0.0.1", "--port", str(port), "--key", "none"]
        load = subprocess.Popen(
            [*command, "--for-s", "600", "--rate", "20", "--answer-s", "1"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert load.stdout is not None
        first = [load.stdout.readline() for _ in range(3)]  # between three lookups are two predictions
        load.send_signal(signal.SIGTERM)
        rest, _ = load.communicate(timeout=6 * HANG_S)
    assert load.returncode == 0
    rows = [json.loads(line) for line in [*first, *rest.splitlines()]]
    predictions = [each["status"] for each in rows if each["kind"] == "predict"]
    assert {each["status"] for each in rows if each["kind"] == "lookup"} == {200}
    assert set(predictions) == {0}
    assert abs(2 * len(predictions) - len(rows)) <= 1
