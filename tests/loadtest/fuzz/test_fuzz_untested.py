"""`python -m loadtest fuzz` says HELD only of what it has tested: with a key, at the right place, and read."""

import json
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from loadtest.__main__ import main
from loadtest.fuzz.memory import MemoryFigures
from loadtest.fuzz.request import FuzzRequest
from loadtest.fuzz.tally import Answer, Outcome, Tally
from loadtest.load.pictures import sample_files
from loadtest.plan.target_key import VARIABLE
from tests.simple_service import simple_service

KEY = "planted-key-0123456789"
PREDICT = "/model/predict"


class Fuzz:
    """The command in this process, with its own folder for offending inputs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        self._folder = folder
        self.printed, self.out = "", ""

    def __call__(self, url: str, *options: str, key: str | None = None) -> int:
        self._monkeypatch.delenv(VARIABLE, raising=False)
        if key is not None:
            self._monkeypatch.setenv(VARIABLE, key)
        arguments = [url, "--inputs", "40", "--save", str(self._folder / "saved"), *options]
        self._monkeypatch.setattr("sys.argv", ["loadtest", "fuzz", *arguments])
        code = main()
        self.out, err = self._capsys.readouterr()
        self.printed = self.out + err
        return code


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Fuzz:
    return Fuzz(monkeypatch, capsys, tmp_path)


def error(status: int, code: str) -> Response:
    return JSONResponse({"code": code, "detail": "as the test wants it", "request_id": "known"}, status)


def guarded(request: Request) -> Response:
    """Answer as a service with one key does; only POST to PREDICT is there."""
    if request.headers.get("authorization") != f"Bearer {KEY}":
        return error(401, "unauthorized")
    if request.url.path != PREDICT:
        return error(404, "not_found")
    return JSONResponse({}) if request.method == "POST" else error(405, "method_not_allowed")


def test_the_key_of_the_environment_is_sent_with_every_input_and_is_in_no_file(fuzz: Fuzz, tmp_path: Path) -> None:
    def failing(request: Request) -> Response:
        return error(500, "internal") if request.query_params else guarded(request)

    with simple_service(failing) as service:
        assert fuzz(service.url, key=KEY) == 1
    assert "FAILED: " in fuzz.printed
    assert {request.headers.get("authorization") for request in service.seen} == {f"Bearer {KEY}"}
    saved = [path.read_bytes() for path in (tmp_path / "saved").iterdir()]
    assert saved
    assert not any(KEY.encode() in data for data in saved)
    assert KEY not in fuzz.printed
    with simple_service(guarded) as service:
        assert fuzz(service.url, key=KEY) == 0
    assert "HELD: 40 inputs" in fuzz.printed


@pytest.mark.parametrize(
    ("key", "path", "words"),
    [
        (None, PREDICT, ["401 unauthorized", VARIABLE]),
        ("another-key-0123456789", PREDICT, ["401 unauthorized", VARIABLE]),
        (KEY, "/model/predictions", ["404 not_found", "--path"]),
    ],
)
def test_a_service_that_refuses_a_valid_picture_is_not_fuzzed(
    fuzz: Fuzz, key: str | None, path: str, words: list[str]
) -> None:
    with simple_service(guarded) as service:
        assert fuzz(service.url, "--path", path, key=key) == 2
    assert [
        word for word in [*words, "refuses a valid file", "nothing would be tested"] if word not in fuzz.printed
    ] == []
    assert "HELD" not in fuzz.printed
    assert KEY not in fuzz.printed
    assert len(service.seen) < 10


@pytest.mark.parametrize("refusal", [301, 400, 403, 405, 415, 429])
def test_any_refusal_of_what_is_valid_ends_with_2(fuzz: Fuzz, refusal: int) -> None:
    with simple_service(lambda request: error(refusal, "no") if request.method == "POST" else Response()) as service:
        assert fuzz(service.url) == 2
    assert f"refuses a valid file with {refusal}" in fuzz.printed


def test_a_service_that_takes_forms_only_is_fuzzed(fuzz: Fuzz) -> None:
    def forms_only(request: Request) -> Response:
        is_form = request.headers.get("content-type", "").startswith("multipart/form-data")
        return JSONResponse({}) if is_form else error(415, "unsupported_media_type")

    with simple_service(forms_only) as service:
        assert fuzz(service.url) == 0
    assert "HELD" in fuzz.printed


def test_files_of_ones_own_that_the_service_does_not_take_are_fuzzed_where_it_takes_pictures(
    fuzz: Fuzz, tmp_path: Path
) -> None:
    own = tmp_path / "odd.bin"
    own.write_bytes(b"no picture at all" * 50)
    picture = sample_files()[0]

    def pictures_only(request: Request) -> Response:
        body: bytes = request._body
        return JSONResponse({}) if picture in body else error(415, "unsupported_image")

    with simple_service(pictures_only) as service:
        assert fuzz(service.url, "--files", str(own)) == 0
    assert "HELD: 40 inputs" in fuzz.printed


def test_an_empty_file_is_refused(fuzz: Fuzz, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert fuzz("http://127.0.0.1:1", "--files", str(empty)) == 2
    assert "empty.jpg: is empty" in fuzz.printed


def test_a_key_that_stops_working_is_no_success(fuzz: Fuzz) -> None:
    posts = 0

    def revoked(request: Request) -> Response:
        nonlocal posts
        posts += request.method == "POST"
        return JSONResponse({}) if posts < 10 else error(401, "unauthorized")

    with simple_service(revoked) as service:
        assert fuzz(service.url, "--json") == 1
    found = json.loads(fuzz.out)
    assert (found["held"], found["offences"]) == (False, [])
    assert found["verdict"].startswith("NOT TESTED: 32 of 40 inputs were refused unread: 32 × 401 unauthorized")


def test_a_replay_of_which_nothing_is_read_is_no_success(fuzz: Fuzz, tmp_path: Path) -> None:
    saved = tmp_path / "one.http"
    saved.write_bytes(FuzzRequest(PREDICT.encode(), (), b"a").encode())
    with simple_service(guarded) as service:
        assert fuzz(service.url, "--replay", str(saved)) == 1
        assert "NOT TESTED: 1 of 1 inputs were refused unread: 1 × 401 unauthorized" in fuzz.printed
        assert fuzz(service.url, "--replay", str(saved), key=KEY) == 0
        assert "HELD: 1 inputs" in fuzz.printed


def test_no_time_for_an_input_is_no_success(fuzz: Fuzz) -> None:
    with simple_service(lambda _: JSONResponse({})) as service:
        assert fuzz(service.url, "--seconds", "0.000001") == 1
    assert "NOT TESTED: no input came to an end" in fuzz.printed


def test_inputs_that_are_refused_for_what_they_are_have_been_tested() -> None:
    tally = Tally()
    for answer in [
        Answer(400, "unreadable_image"),
        Answer(415, "unsupported_image"),
        Answer(413, "upload_too_large"),
    ] * 10:
        tally.add(answer)
    tally.add(Answer(429, "too_many"))
    outcome = Outcome("http://x", 0, 1.0, tally, None)
    assert outcome.has_held
    assert outcome.verdict().startswith("HELD: 31 inputs, no 5xx, no reset, no timeout; 1 of them were refused unread")


def test_processes_that_are_gone_by_the_second_tenth_are_an_offence_and_no_division_by_nought() -> None:
    tally = Tally()
    tally.add(Answer(200))
    gone = MemoryFigures(
        processes=1, start_bytes=9, tenth_bytes=0, middle_bytes=0, end_bytes=0, largest_bytes=9, ended_processes=1
    )
    outcome = Outcome("http://x", 0, 1.0, tally, gone)
    assert outcome.verdict() == "FAILED: 1 of 1 processes ended"
    assert outcome.as_json()["memory"]["growth_percent"] == 0


def test_an_answer_that_cannot_be_decoded_is_an_offence_and_no_traceback(fuzz: Fuzz) -> None:
    with simple_service(lambda _: Response(b"no gzip", headers={"content-encoding": "gzip"})) as service:
        assert fuzz(service.url) == 1
    assert "FAILED: 40 × undecodable" in fuzz.printed


@pytest.mark.parametrize("key", ["two\nlines of a key", "schlüssel-0123456789", "bell\x07-0123456789"])
def test_what_cannot_be_a_key_is_refused_without_being_quoted(fuzz: Fuzz, key: str) -> None:
    with simple_service(guarded) as service:
        assert fuzz(service.url, key=key) == 2
    assert f"{VARIABLE}: holds what cannot be a key" in fuzz.printed
    assert key[:5] not in fuzz.printed
    assert service.seen == []


@pytest.mark.parametrize("path", ["/", "/api", "/api/"])
def test_inputs_go_below_the_path_of_the_address_and_are_replayed_to_where_they_went(
    fuzz: Fuzz, path: str, tmp_path: Path
) -> None:
    predict = f"{path.rstrip('/')}{PREDICT}"
    with simple_service(lambda request: error(500 if request.query_params else 200, "")) as service:
        assert fuzz(f"{service.url}{path}") == 1
        assert {line for line in service.lines() if line.startswith("POST")} == {f"POST {predict}"}
        saved = sorted((tmp_path / "saved").iterdir())
        service.seen.clear()
        assert fuzz(f"{service.url}{path}", "--replay", *map(str, saved)) == 1
        assert {line for line in service.lines() if line.startswith("POST")} == {f"POST {predict}"}
