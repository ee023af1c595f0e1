"""The workload as a server sees it: real Locust in a process of its own, against a server with known answers.

The locustfile is never imported here: `import locust` patches the sockets and threads of the whole process.
"""

import csv
import email
import hashlib
import io
import itertools
import random
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from loadtest.pictures import SIZE_PX, PicturePool, draw_picture

ROOT = Path(__file__).parents[2]
LOCUST = Path(sys.executable).with_name("locust")
LOCUST_DEADLINE_S = 60

LOOKUP, PREDICT = "GET /user/", "POST /model/predict"
RIGHT_ANSWERS = {
    LOOKUP: [(200, b'{"users": []}')],
    PREDICT: [(200, b'{"prediction": {}, "predictions": []}')],
}
CUT_SHORT = b"The server promises twice these bytes and then hangs up."


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    target: str
    client_port: int
    arrived_s: float
    content_type: str
    body: bytes

    def form(self) -> Message:
        """Return the only part of the multipart body."""
        message = email.message_from_bytes(f"Content-Type: {self.content_type}\r\n\r\n".encode() + self.body)
        parts = message.get_payload()
        assert isinstance(parts, list)
        (part,) = parts
        assert isinstance(part, Message)
        return part

    def picture(self) -> bytes:
        """Return the uploaded file."""
        picture = self.form().get_payload(decode=True)
        assert isinstance(picture, bytes)
        return picture


@dataclass(frozen=True)
class LocustRun:
    """What the server saw, and what Locust made of it."""

    requests: list[Request]
    counted: dict[str, int]
    """Requests by name."""
    failures: set[tuple[str, str]]
    """Names and messages."""

    def predictions(self) -> list[Request]:
        return [request for request in self.requests if request.target == PREDICT]


class KnownServer(ThreadingHTTPServer):
    """Records each request and gives the next of the answers for its target; 404 for anything else."""

    # The threads end with Locust's connections; waiting for them leaves no socket open behind the test.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, answers: Mapping[str, Sequence[tuple[int, bytes]]]) -> None:
        super().__init__(("127.0.0.1", 0), KnownHandler)
        self.requests: list[Request] = []
        self._answers = {target: itertools.cycle(given) for target, given in answers.items()}
        self._lock = threading.Lock()

    def answer(self, request: Request) -> tuple[int, bytes]:
        with self._lock:
            self.requests.append(request)
            return next(self._answers.get(request.target, iter([(404, b"")])))


class KnownHandler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1 with connections that stay open, as HAProxy does."""

    protocol_version = "HTTP/1.1"
    server: KnownServer

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def _answer(self) -> None:
        arrived_s = time.monotonic()
        status, answer = self.server.answer(
            Request(
                target=f"{self.command} {self.path}",
                client_port=self.client_address[1],
                arrived_s=arrived_s,
                content_type=self.headers.get("content-type", ""),
                body=self.rfile.read(int(self.headers.get("content-length", 0))),
            )
        )
        self.close_connection = answer == CUT_SHORT
        self.send_response(status)
        self.send_header("location", "/user/")
        self.send_header("content-length", str(len(answer) * (2 if self.close_connection else 1)))
        self.end_headers()
        self.wfile.write(answer)


@contextmanager
def known_server(answers: Mapping[str, Sequence[tuple[int, bytes]]]) -> Iterator[KnownServer]:
    with KnownServer(answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def run_locust(
    answers: Mapping[str, Sequence[tuple[int, bytes]]],
    folder: Path,
    *options: str,
    locustfile: str = "loadtest/locustfile.py",
    cwd: Path = ROOT,
) -> LocustRun:
    """Run Locust without its web page, to its end, against a server with `answers`."""
    with known_server(answers) as server:
        host = f"http://127.0.0.1:{server.server_port}"
        command = [str(LOCUST), "-f", locustfile, "--host", host, "--headless", "--csv", str(folder / "run")]
        command += ["--exit-code-on-error", "0", *options]
        ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LOCUST_DEADLINE_S, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    counted = {row["Name"]: int(row["Request Count"]) for row in _rows(folder / "run_stats.csv")}
    failures = {(row["Name"], row["Error"]) for row in _rows(folder / "run_failures.csv")}
    return LocustRun(server.requests, counted, failures)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def usual_run(tmp_path_factory: pytest.TempPathFactory) -> LocustRun:
    """90 people for 7 s from the project's folder; every answer is right."""
    options = ("--users", "90", "--spawn-rate", "90", "--run-time", "7s")
    return run_locust(RIGHT_ANSWERS, tmp_path_factory.mktemp("usual"), *options)


def test_right_answers_are_no_failures_and_have_one_name_per_endpoint(usual_run: LocustRun) -> None:
    assert usual_run.failures == set()
    assert set(usual_run.counted) == {LOOKUP, PREDICT, "Aggregated"}
    # Locust drops what is in flight when the time is up.
    assert 0 <= len(usual_run.requests) - usual_run.counted["Aggregated"] <= 90


def test_one_request_in_three_is_a_prediction(usual_run: LocustRun) -> None:
    requests = len(usual_run.requests)
    share = len(usual_run.predictions()) / requests
    four_sigma = 4 * (1 / 3 * 2 / 3 / requests) ** 0.5
    assert share == pytest.approx(1 / 3, abs=four_sigma)


def test_a_user_waits_one_to_five_seconds_on_one_connection(usual_run: LocustRun) -> None:
    arrivals_s = defaultdict(list)
    for request in usual_run.requests:
        arrivals_s[request.client_port].append(request.arrived_s)
    assert len(arrivals_s) == 90
    waits_s = [b - a for times in arrivals_s.values() for a, b in itertools.pairwise(sorted(times))]
    slack_s = 0.5
    assert 1 - slack_s < min(waits_s) < 2
    assert 4 < max(waits_s) < 5 + slack_s


def test_every_picture_is_a_file_of_its_own(usual_run: LocustRun) -> None:
    digests = {hashlib.sha256(request.picture()).digest() for request in usual_run.predictions()}
    assert len(digests) == len(usual_run.predictions())


def test_every_picture_is_a_whole_photo_sized_jpeg_in_the_field_file(usual_run: LocustRun) -> None:
    for request in usual_run.predictions():
        assert request.form().get_param("name", header="content-disposition") == "file"
        assert request.form().get_content_type() == "image/jpeg"
        assert 32_000 < len(request.picture()) < 96_000
        with Image.open(io.BytesIO(request.picture())) as picture:
            picture.load()
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", SIZE_PX)


def test_wrong_answers_are_failures_with_few_messages(tmp_path: Path) -> None:
    wrong_answers = {
        LOOKUP: [
            (503, b'{"users": []}'),
            (307, b'{"users": []}'),
            (200, b'{"id": 1}'),
            (200, b"[]"),
            (200, b"<html>"),
            (200, CUT_SHORT),
        ],
        PREDICT: [
            (503, b'{"code": "overloaded"}'),
            (200, b'{"prediction": {}}'),
            (200, b'{"predictions": []}'),
        ],
    }
    run = run_locust(wrong_answers, tmp_path, "--users", "60", "--spawn-rate", "60", "--run-time", "3s")
    expected = {
        (LOOKUP, "status 503"),
        (LOOKUP, "status 307"),
        (LOOKUP, "the answer has no users"),
        (LOOKUP, "the answer is not JSON"),
        (LOOKUP, "no whole answer: HTTPParseError"),
        (PREDICT, "status 503"),
        (PREDICT, "the answer has no prediction"),
        (PREDICT, "the answer has no predictions"),
    }
    assert run.failures == {(name, f"CatchResponseError({message!r})") for name, message in expected}


@pytest.mark.long
def test_two_processes_in_another_folder_send_only_the_tagged_kind(tmp_path: Path) -> None:
    port = str(_free_port())
    options = ("--users", "20", "--spawn-rate", "20", "--run-time", "3s", "--tags", "predict")
    processes = ("--processes", "2", "--master-port", port, "--master-bind-port", port, "--picture-pool", "2")
    locustfile = str(ROOT / "loadtest" / "locustfile.py")
    run = run_locust(RIGHT_ANSWERS, tmp_path, *options, *processes, locustfile=locustfile, cwd=tmp_path)
    assert run.failures == set()
    assert set(run.counted) == {PREDICT, "Aggregated"}
    pictures = [request.picture() for request in run.predictions()]
    assert len(set(pictures)) == len(pictures) >= 20
    assert len({_pixels(picture) for picture in pictures}) == 2


def test_the_same_seed_draws_the_same_pictures_in_new_files() -> None:
    first, second = PicturePool(2, seed=7), PicturePool(2, seed=7)
    a, b = first.next_picture(), second.next_picture()
    assert a != b
    assert _pixels(a) == _pixels(b) == _pixels(draw_picture(7))


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PicturePool(0)


def test_repeated_pictures_are_the_same_files_again_and_again(tmp_path: Path) -> None:
    options = ("--users", "10", "--spawn-rate", "10", "--run-time", "3s", "--tags", "predict")
    run = run_locust(RIGHT_ANSWERS, tmp_path, *options, "--pictures", "repeated", "--picture-pool", "3")
    assert run.failures == set()
    assert {request.picture() for request in run.predictions()} == {draw_picture(seed) for seed in range(3)}


def test_drawing_leaves_the_random_numbers_of_the_process_alone() -> None:
    state = random.getstate()
    draw_picture(1)
    assert random.getstate() == state


def test_locust_has_not_patched_this_process() -> None:
    assert socket.socket.__module__ == "socket"


def _pixels(jpeg: bytes) -> bytes:
    with Image.open(io.BytesIO(jpeg)) as picture:
        return picture.tobytes()
