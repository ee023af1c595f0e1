"""The workload as a server sees it: real Locust in a process of its own, against a server with known answers.

The locustfile is never imported here: `import locust` patches the sockets and threads of the whole process.
"""

import csv
import email
import hashlib
import io
import itertools
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loadtest.load.pictures import SIZE_PX, PicturePool, draw_picture
from tests.failures import keep_on_failure
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
LOCUST = Path(sys.executable).with_name("locust")
SHIPPED, HURRIED = (str(ROOT / folder) for folder in ("loadtest/locustfile.py", "tests/locustfiles/hurried.py"))
ENOUGH_S = 120
STOP_S = 60
OWN_CODE = re.compile(rf'File "{re.escape(str(ROOT))}/(loadtest|tests)/')
"""In a traceback. Locust's writer of statistics may end in one of its own, when its files are closed already."""

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
    read_s: float
    """When all of it was there and its answer began."""
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
    """Requests by name, when it was told to end."""
    failed: int
    """How many of them."""
    failures: set[tuple[str, str]]
    """Names and messages, some time before."""

    def predictions(self) -> list[Request]:
        return [request for request in self.requests if request.target == PREDICT]


class KnownServer(ThreadingHTTPServer):
    """Records each request and gives the next of the answers for its target; 404 for anything else.

    `given` counts the answers by target and place.
    """

    # The threads end with Locust's connections; waiting for them leaves no socket open behind the test.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, answers: Mapping[str, Sequence[tuple[int, bytes]]]) -> None:
        super().__init__(("127.0.0.1", 0), KnownHandler)
        self.requests: list[Request] = []
        self.given = Counter({(target, place): 0 for target, known in answers.items() for place in range(len(known))})
        self._answers = {target: itertools.cycle(enumerate(known)) for target, known in answers.items()}
        self._lock = threading.Lock()

    def answer(self, request: Request) -> tuple[int, bytes]:
        with self._lock:
            self.requests.append(request)
            place, answer = next(self._answers.get(request.target, iter([(0, (404, b""))])))
            self.given[request.target, place] += 1
            return answer


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
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        status, answer = self.server.answer(
            Request(
                target=f"{self.command} {self.path}",
                client_port=self.client_address[1],
                arrived_s=arrived_s,
                read_s=time.monotonic(),
                content_type=self.headers.get("content-type", ""),
                body=body,
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


Enough = Callable[[KnownServer], bool]


def run_locust(  # noqa: PLR0913 # all but two have values that most tests want
    answers: Mapping[str, Sequence[tuple[int, bytes]]],
    folder: Path,
    *options: str,
    users: int,
    enough: Enough,
    locustfile: str = HURRIED,
    cwd: Path = ROOT,
    path: str = "",
) -> LocustRun:
    """Run Locust without its web page against a server with `answers`, until `enough` is true of that."""
    with known_server(answers) as server:
        command = [
            str(LOCUST),
            "-f",
            locustfile,
            "--host",
            f"http://127.0.0.1:{server.server_port}{path}",
            "--headless",
        ]
        command += ["--users", str(users), "--spawn-rate", str(users), "--picture-pool", "3"]
        command += ["--csv", str(folder / "run"), "--json-file", str(folder / "run"), "--exit-code-on-error", "0"]
        printed = folder / "locust.txt"
        with printed.open("w") as output, keep_on_failure("locust", lambda: [folder]):
            process = subprocess.Popen([*command, *options], cwd=cwd, stdout=output, stderr=output)
            try:
                deadline_s = time.monotonic() + ENOUGH_S
                while not enough(server):
                    assert process.poll() is None, printed.read_text()[-4000:]
                    assert time.monotonic() < deadline_s, (
                        f"{len(server.requests)} requests\n{printed.read_text()[-4000:]}"
                    )
                    time.sleep(0.05)
                process.terminate()
                assert process.wait(STOP_S) == 0, printed.read_text()
            finally:
                process.kill()
                process.wait()
    assert OWN_CODE.search(printed.read_text()) is None
    entries = json.loads((folder / "run.json").read_text())
    counted = {entry["name"]: entry["num_requests"] for entry in entries}
    failures = {(row["Name"], row["Error"]) for row in csv_rows(folder / "run_failures.csv")}
    return LocustRun(server.requests, counted, sum(entry["num_failures"] for entry in entries), failures)


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predictions(count: int) -> Enough:
    return lambda server: sum(request.target == PREDICT for request in server.requests) >= count


USERS = 60


@pytest.fixture(scope="module")
def usual_run(tmp_path_factory: pytest.TempPathFactory) -> LocustRun:
    """USERS people of the shipped workload, until all have come and some came again; every answer is right."""

    def all_came_and_some_again(server: KnownServer) -> bool:
        return len({request.client_port for request in server.requests}) == USERS <= len(server.requests) - 30

    return run_locust(
        RIGHT_ANSWERS, tmp_path_factory.mktemp("usual"), users=USERS, enough=all_came_and_some_again, locustfile=SHIPPED
    )


def test_right_answers_are_no_failures_and_have_one_name_per_endpoint(usual_run: LocustRun) -> None:
    assert (usual_run.failed, usual_run.failures) == (0, set())
    assert set(usual_run.counted) == {LOOKUP, PREDICT}
    # Locust drops what is in flight when it is to end.
    assert 0 <= len(usual_run.requests) - sum(usual_run.counted.values()) <= USERS


@pytest.fixture(scope="module")
def visitor() -> dict[str, list[Any]]:
    """What Locust knows of a visitor: what it may do next, 1,000 of its waits in seconds, what it says of refusals."""
    program = """if True:
        import json, random
        from types import SimpleNamespace
        from loadtest.locustfile import Visitor, _find_error_fault

        random.seed(1)
        waits_s = [Visitor.wait_time(None) for _ in range(1000)]
        body = json.dumps({"code": "x", "detail": "y", "request_id": "z"})
        said = [
            _find_error_fault(SimpleNamespace(status_code=status, content=body, headers=headers))
            for status in (429, 503, 500) for headers in ({}, {"retry-after": "1"})
        ]
        tasks = [task.__name__ for task in Visitor.tasks]
        print(json.dumps({"tasks": tasks, "waits_s": waits_s, "said": said}))
    """
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    known: dict[str, list[Any]] = json.loads(ended.stdout)
    return known


def test_one_request_in_three_is_a_prediction(visitor: dict[str, list[Any]]) -> None:
    """Locust takes one of the tasks, each with the same chance."""
    assert sorted(visitor["tasks"]) == ["look_up_users", "look_up_users", "predict"]


def test_a_refusal_must_say_when_to_come_back(visitor: dict[str, list[Any]]) -> None:
    assert visitor["said"] == [", without Retry-After", ""] * 2 + ["", ""]


def test_a_user_waits_one_to_five_seconds(visitor: dict[str, list[Any]]) -> None:
    waits_s = sorted(visitor["waits_s"])
    assert 1 <= waits_s[0] < 1.1
    assert 2.8 < waits_s[500] < 3.2
    assert 4.9 < waits_s[-1] <= 5


def test_a_user_has_one_connection_and_waits_after_each_answer(usual_run: LocustRun) -> None:
    by_user = defaultdict(list)
    for request in usual_run.requests:
        by_user[request.client_port].append(request)
    assert len(by_user) == USERS
    waits_s = [later.arrived_s - one.read_s for sent in by_user.values() for one, later in itertools.pairwise(sent)]
    assert len(waits_s) >= 30
    assert min(waits_s) > 0.9  # not below 1, but for how finely Locust measures time


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
    users = 10
    failures = tmp_path / "run_failures.csv"

    def each_was_counted(server: KnownServer) -> bool:
        # No more than one for each user is under way, so some of each have been counted: the next file has them.
        return min(server.given.values()) > users and len(csv_rows(failures)) >= len(expected)

    run = run_locust(wrong_answers, tmp_path, users=users, enough=each_was_counted)
    assert run.failures == {(name, f"CatchResponseError({message!r})") for name, message in expected}


@pytest.mark.long
def test_two_processes_in_another_folder_send_only_the_tagged_kind(tmp_path: Path) -> None:
    port = str(free_port())
    processes = ("--processes", "2", "--master-port", port, "--master-bind-port", port)
    run = run_locust(
        RIGHT_ANSWERS, tmp_path, "--tags", "predict", *processes,
        users=20, enough=predictions(40), locustfile=SHIPPED, cwd=tmp_path,
    )  # fmt: skip
    assert (run.failed, run.failures) == (0, set())
    assert set(run.counted) == {PREDICT}
    pictures = [request.picture() for request in run.predictions()]
    assert len(set(pictures)) == len(pictures) >= 40
    assert len({_pixels(picture) for picture in pictures}) == 3


def test_the_same_seed_draws_the_same_pictures_in_new_files() -> None:
    first, second = PicturePool(2, seed=7), PicturePool(2, seed=7)
    a, b = first.next_picture(), second.next_picture()
    assert a != b
    assert _pixels(a) == _pixels(b) == _pixels(draw_picture(7))


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PicturePool(0)


def test_repeated_pictures_are_the_same_files_again_and_again(tmp_path: Path) -> None:
    options = ("--tags", "predict", "--pictures", "repeated")
    run = run_locust(RIGHT_ANSWERS, tmp_path, *options, users=10, enough=predictions(30))
    assert run.failed == 0
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
