"""`python -m serve_app.client` against a service with known answers, over real HTTP."""

import csv
import email.utils
import io
import json
import os
import re
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from serve_app.client.__main__ import main
from serve_app.client.answers import CSV_HEADER
from serve_app.client.command import _option
from serve_app.client.options import read_options
from serve_app.client.patience import read_retry_after
from serve_app.client.plain_text import printable
from tests.known_service import AT_ONCE, RESET, SILENCE, Held, KnownService, Trouble, known_service
from tests.ports import free_port

JPEG = b"\xff\xd8\xff\xe0"
PICTURES = Path("pictures")


@dataclass
class Ended:
    """How a run of the client ended."""

    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, str]]:
        """Return the rows of CSV output, which is all that may stand there."""
        rows = list(csv.DictReader(io.StringIO(self.out)))
        assert self.out.startswith(",".join(CSV_HEADER) + "\n")
        assert all(len(row) == len(CSV_HEADER) and None not in row for row in rows)
        return rows

    def lines(self) -> list[dict[str, Any]]:
        """Return the objects of JSON lines output."""
        return [json.loads(line) for line in self.out.splitlines()]


Client = Callable[..., Ended]


@pytest.fixture(scope="module")
def running() -> Iterator[KnownService]:
    with known_service() as service:
        yield service


@pytest.fixture
def known(running: KnownService) -> KnownService:
    running.forget()
    return running


@pytest.fixture
def client(known: KnownService, capsys: pytest.CaptureFixture[str]) -> Client:
    """Return what runs the client in this process, against the known service unless told otherwise."""

    def run(*arguments: str | Path, server: str | None = None) -> Ended:
        capsys.readouterr()
        try:
            code = main(["--server", server or known.url, *map(str, arguments)])
        except SystemExit as exc:  # argparse's way out
            code = int(exc.code or 0)
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client run in a folder of its own, with three pictures whose labels are known."""
    monkeypatch.chdir(tmp_path)
    make_pictures(PICTURES, 3)


def make_pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.jpg").write_bytes(f"label:thing {number}:".encode())
    return folder


def things(count: int) -> list[str]:
    return [f"thing {number}" for number in range(count)]


def test_files_folders_and_urls_come_out_in_the_order_of_the_arguments(client: Client, known: KnownService) -> None:
    Path("lone.png").write_bytes(b"label:lone:")
    known.pages["/pages/far"] = Response(b"label:far:")
    ended = client(f"{known.url}/pages/far", "pictures", "lone.png", "--format", "csv")
    assert ended.code == 0
    assert [(row["file"], row["prediction"]) for row in ended.rows()] == [
        (f"{known.url}/pages/far", "far"),
        *((f"pictures/00{number}.jpg", f"thing {number}") for number in range(3)),
        ("lone.png", "lone"),
    ]


def test_a_folder_gives_what_looks_like_a_picture_by_name_or_content_and_the_rest_is_told(client: Client) -> None:
    (PICTURES / "deep" / "er").mkdir(parents=True)
    (PICTURES / "deep" / "er" / "without_suffix").write_bytes(JPEG)
    (PICTURES / "UPPER.JPEG").write_bytes(b"label:upper:")
    (PICTURES / "BMtext").write_text("BMs are texts too, sometimes")
    (PICTURES / "notes.txt").write_text("no picture")
    (PICTURES / ".thumbnail.jpg").write_bytes(JPEG)
    (PICTURES / ".cache").mkdir()
    (PICTURES / ".cache" / "x.jpg").write_bytes(JPEG)
    os.mkfifo(PICTURES / "pipe.jpg")
    (PICTURES / "gone.jpg").symlink_to("nowhere")
    (PICTURES / "round").symlink_to(PICTURES.absolute())
    ended = client("pictures", "--format", "csv")
    assert [row["file"].removeprefix("pictures/") for row in ended.rows()] == [
        "000.jpg", "001.jpg", "002.jpg", "UPPER.JPEG", "deep/er/without_suffix",
    ]  # fmt: skip
    assert "skipped, no picture: 2 (pictures/BMtext, pictures/notes.txt)\n" in ended.err
    assert "skipped, hidden: 2 (pictures/.cache, pictures/.thumbnail.jpg)\n" in ended.err
    assert "skipped, not a regular file: 1 (pictures/pipe.jpg)\n" in ended.err
    assert "skipped, unreadable: 1 (pictures/gone.jpg)\n" in ended.err


def test_a_slow_picture_keeps_its_place_and_no_more_are_under_way_than_asked(
    client: Client, known: KnownService
) -> None:
    folder = make_pictures(Path("many"), 30)
    known.trouble.append(Held(lambda service: service.pictures.total() == 29))
    known.trouble.extend([Held(lambda service: service.most_at_once >= 3)] * 29)
    ended = client(folder, "--format", "csv", "--parallel", "3")
    assert [row["prediction"] for row in ended.rows()] == things(30)
    assert known.most_at_once == 3


def test_wishes_reach_the_service_and_nothing_else_does(client: Client, known: KnownService) -> None:
    ended = client("pictures/000.jpg", "--format", "json", "--top-k", "2", "--no-store", "--deadline-ms", "1500")
    (request,) = known.requests("POST", "/model/predict")
    assert (request["?"], request["cache-control"], request["x-deadline-ms"]) == ("top_k=2", "no-store", "1500")
    assert "authorization" not in request
    assert [len(answer["prediction"]["predictions"]) for answer in json.loads(ended.out)] == [2]


def test_json_holds_the_full_answers_and_is_whole_when_some_fail(client: Client, known: KnownService) -> None:
    (PICTURES / "001.jpg").write_bytes(b"bad:")
    expected = [
        {"file": "pictures/000.jpg", **known.result(b"label:thing 0:", 5, cached=False)},
        {"file": "pictures/001.jpg", **known.result(b"bad:", 5, cached=False)},
        {"file": "pictures/002.jpg", **known.result(b"label:thing 2:", 5, cached=False)},
    ]
    as_list = client("pictures", "--format", "json")
    known.pictures.clear()
    as_lines = client("pictures", "--format", "jsonl")
    assert json.loads(as_list.out) == expected == as_lines.lines()
    assert as_list.code == as_lines.code == 1


def test_a_bad_picture_fails_alone(client: Client) -> None:
    (PICTURES / "001.jpg").write_bytes(b"bad:")
    ended = client("pictures", "--format", "csv")
    rows = ended.rows()
    assert [row["prediction"] for row in rows] == ["thing 0", "", "thing 2"]
    assert [row["error_code"] for row in rows] == ["", "unsupported_image", ""]
    assert rows[1]["error_detail"] == "the upload is not a picture"
    assert ended.code == 1
    assert "2 classified, 1 failed" in ended.err
    assert "unsupported_image: 1 (pictures/001.jpg)" in ended.err


def test_the_table_shows_predictions_and_errors(client: Client) -> None:
    (PICTURES / "001.jpg").write_bytes(b"bad:")
    lines = client("pictures").out.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"pictures/000.jpg +thing 0 +0\.500 +other 1 0\.250, other 2 0\.125 *", lines[1])
    assert re.fullmatch(r"pictures/001.jpg +unsupported_image +the upload is not a picture *", lines[2])


def test_cached_answers_are_marked_and_counted(client: Client) -> None:
    ended = client("pictures/000.jpg", "pictures/000.jpg", "--format", "csv", "--parallel", "1")
    assert [row["cached"] for row in ended.rows()] == ["false", "true"]
    assert "1 from the cache" in ended.err


# What goes wrong on the way.


def test_a_refusal_is_retried_when_the_service_says_and_not_before(client: Client, known: KnownService) -> None:
    date = (datetime.now(UTC) + timedelta(seconds=1.5)).replace(microsecond=0)
    headers = [{"Retry-After": "1"}, {"Retry-After": email.utils.format_datetime(date, usegmt=True)}]
    known.trouble.extend([Trouble(503, headers=headers[0]), Trouble(429, headers=headers[1])])
    ended = client("pictures/000.jpg", "pictures/001.jpg", "--format", "csv", "--parallel", "2")
    *_, first_unix_s, _, early_unix_s, late_unix_s = known.seen_unix_s
    asked_unix_s = sorted([first_unix_s + 1, date.timestamp()])
    assert early_unix_s >= asked_unix_s[0]
    assert late_unix_s >= asked_unix_s[1]
    assert (ended.code, [row["prediction"] for row in ended.rows()]) == (0, things(2))
    assert "2 classified, 2 retries" in ended.err


def test_resets_and_lost_replicas_are_retried(client: Client, known: KnownService) -> None:
    known.trouble.extend([RESET, Trouble(502, "replica_lost"), Trouble(504, "deadline_exceeded"), RESET])
    ended = client("pictures", "--format", "csv")
    assert (ended.code, [row["prediction"] for row in ended.rows()]) == (0, things(3))
    assert "4 retries" in ended.err


def test_a_deadline_of_the_users_own_is_not_retried(client: Client, known: KnownService) -> None:
    known.trouble.append(Trouble(504, "deadline_exceeded"))
    ended = client("pictures/000.jpg", "--format", "csv", "--deadline-ms", "10")
    assert [row["error_code"] for row in ended.rows()] == ["deadline_exceeded"]
    assert "retries" not in ended.err


def test_retries_end_after_their_number(client: Client, known: KnownService) -> None:
    known.trouble.extend([Trouble(502, "replica_lost")] * 3)
    ended = client("pictures/000.jpg", "--format", "csv", "--retries", "2")
    assert [row["error_code"] for row in ended.rows()] == ["replica_lost"]
    assert len(known.requests("POST", "/model/predict")) == 3


@pytest.mark.parametrize(
    ("trouble", "code"),
    [(Trouble(503, headers={"Retry-After": "3600"}), "overloaded"), (Trouble(500, "internal_error"), "internal_error")],
    ids=["told to come back in an hour", "a fault that would be the same again"],
)
def test_what_would_be_in_vain_is_given_up_at_once_and_the_rest_goes_on(
    client: Client, known: KnownService, trouble: Trouble, code: str
) -> None:
    known.trouble.append(trouble)
    ended = client("pictures", "--format", "csv", "--parallel", "1")
    assert [row["error_code"] for row in ended.rows()] == [code, "", ""]
    assert ended.code == 1
    assert len(known.requests("POST", "/model/predict")) == 3


def test_a_picture_without_an_answer_is_given_up_in_time(client: Client, known: KnownService) -> None:
    known.trouble.append(SILENCE)
    ended = client("pictures/000.jpg", "--format", "csv", "--give-up-after", "5")
    (row,) = ended.rows()
    assert (ended.code, row["error_code"]) == (1, "no_answer")
    assert "within 5 s" in row["error_detail"]


def test_a_service_that_has_gone_ends_the_run_and_what_was_answered_stays(client: Client, known: KnownService) -> None:
    folder = make_pictures(Path("many"), 50)
    known.trouble.extend([AT_ONCE] * 2 + [RESET] * 1000)
    ended = client(folder, "--format", "csv", "--retries", "0", "--parallel", "2")
    rows = ended.rows()
    assert ended.code == 1
    answered = [row for row in rows if row["prediction"]]
    assert len(answered) == 2
    assert all(row["prediction"] == f"thing {int(row['file'][-7:-4])}" for row in answered)
    assert 4 <= len(rows) < 10
    assert "3 pictures in a row failed after all retries" in ended.err
    assert "not done" in ended.err


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("0", 0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("9" * 400, float("inf")),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2030 00:00:00 +999999999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value) == seconds


def test_retry_after_may_be_a_date_to_come() -> None:
    then = (datetime.now(UTC) + timedelta(seconds=100)).replace(microsecond=0)
    before = datetime.now(UTC)
    read_s = read_retry_after(email.utils.format_datetime(then, usegmt=True))
    assert read_s is not None
    assert (then - datetime.now(UTC)).total_seconds() <= read_s <= (then - before).total_seconds()


# Addresses, keys, weights.


def test_random_weights_are_warned_of_loudly_and_on_standard_error_only(client: Client, known: KnownService) -> None:
    known.weights = "random"
    ended = client("pictures", "--format", "csv")
    assert len(ended.rows()) == 3
    assert "WARNING: this service runs with RANDOM weights: its predictions are meaningless" in ended.err
    assert "WARNING: 3 predictions are meaningless" in ended.err


def test_a_service_that_is_not_there_is_told_at_once(client: Client) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    ended = client("pictures", "--retries", "0", server=nobody)
    assert ended.code == 1
    assert f"stopped: --server {nobody}: does not answer" in ended.err


def test_another_service_is_wrong_usage(client: Client, known: KnownService) -> None:
    ended = client("pictures", server=f"{known.url}/elsewhere")
    assert ended.code == 2
    assert f"error: --server {known.url}/elsewhere: this is not the service" in ended.err


def test_the_key_goes_to_the_service_and_to_nobody_else(
    client: Client, known: KnownService, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.key = "a-key-of-the-service"
    known.pages["/pages/x"] = Response(b"label:x:")
    monkeypatch.setenv("MY_KEY", known.key)
    assert client(f"{known.url}/pages/x", "--api-key-env", "MY_KEY").code == 0
    assert "authorization" not in known.requests("GET", "/pages/x")[0]
    without = client("pictures")
    assert without.code == 2
    assert "--api-key-env NAME" in without.err
    assert client("pictures", "--api-key-env", "NO_SUCH").code == 2


# URLs.


def test_redirects_are_followed_within_bounds_and_pictures_are_bounded(client: Client, known: KnownService) -> None:
    known.pages |= {
        "/pages/moved": Response(status_code=302, headers={"Location": "/pages/there"}),
        "/pages/there": Response(b"label:there:"),
        "/pages/loop": Response(status_code=302, headers={"Location": "/pages/loop"}),
        "/pages/file": Response(status_code=302, headers={"Location": "file:///etc/hostname"}),
        "/pages/large": Response(bytes(known.max_upload_bytes + 1)),
        "/pages/packed": Response(b"x", headers={"Content-Encoding": "gzip"}),
    }
    names = ["moved", "loop", "file", "large", "packed", "missing"]
    Path("list.txt").write_text("# pictures\n\n" + "".join(f"{known.url}/pages/{name}\n" for name in names))
    (PICTURES / "large.jpg").write_bytes(bytes(known.max_upload_bytes + 1))
    ended = client("pictures/large.jpg", "--urls", "list.txt", "--format", "csv")
    rows = ended.rows()
    assert ended.code == 1
    assert [row["error_code"] for row in rows] == [
        "upload_too_large", "", "fetch_failed", "fetch_failed", "upload_too_large", "fetch_failed", "fetch_failed",
    ]  # fmt: skip
    assert rows[1]["prediction"] == "there"
    assert "status 404" in rows[6]["error_detail"]
    assert len(known.requests("GET", "/pages/loop")) == 6
    assert len(known.requests("POST", "/model/predict")) == 1


def test_a_list_of_urls_may_come_from_standard_input(
    client: Client, known: KnownService, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.pages["/pages/x"] = Response(b"label:x:")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{known.url}/pages/x\n" * 2))
    assert [row["prediction"] for row in client("--urls", "-", "--format", "csv").rows()] == ["x", "x"]


# Output.


def test_no_cell_is_a_formula(client: Client) -> None:
    Path("=1+1.jpg").write_bytes(b"label:=cmd|' /C calc'!A0:")
    Path("-x.jpg").write_bytes(b"label:@SUM(1):")
    rows = client("./=1+1.jpg", "--format", "csv", "--", "=1+1.jpg", "-x.jpg").rows()
    assert [row["file"] for row in rows] == ["./=1+1.jpg", "./=1+1.jpg", "./-x.jpg"]
    assert all(Path(row["file"]).is_file() for row in rows)
    assert [row["prediction"][:3] for row in rows] == ["'=c", "'=c", "'@S"]


def test_names_that_are_no_text_can_be_told_apart_and_resumed(client: Client) -> None:
    Path(os.fsdecode(b"odd-\xff\xfe.jpg")).write_bytes(b"label:odd:")
    Path("new\nline.jpg").write_bytes(b"label:line:")
    ended = client(".", "--output", "out.jsonl")
    assert ended.code == 0
    names = [json.loads(line)["file"] for line in Path("out.jsonl").read_text().splitlines()]
    assert names[:2] == ["./new\nline.jpg", "./odd-\\xff\\xfe.jpg"]
    assert "5 of 5 are already in out.jsonl" in client(".", "--output", "out.jsonl", "--resume").err
    table = client("new\nline.jpg").out
    assert "new\\nline.jpg" in table


def test_nothing_printed_can_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\r\n\u202e\u0007é") == "a\\x1b[2Jb\\r\\n\\u202e\\x07é"


def test_resuming_skips_what_has_a_prediction_and_tries_the_rest_again(client: Client, known: KnownService) -> None:
    known.trouble.append(Trouble(500, "internal_error"))
    first = client("pictures", "--output", "out.jsonl", "--parallel", "1")
    output = Path("out.jsonl")
    assert (first.code, first.out) == (1, "")
    output.write_text(output.read_text() + '{"file":"pictures/cut o')
    (PICTURES / "003.jpg").write_bytes(b"label:thing 3:")
    second = client("pictures", "--output", "out.jsonl", "--resume", "--parallel", "1")
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert [answer["file"][-7:] for answer in answers] == ["001.jpg", "002.jpg", "000.jpg", "003.jpg"]
    assert all(answer["prediction"] for answer in answers)
    assert second.code == 0
    assert "2 of 4 are already in out.jsonl" in second.err
    assert len(known.requests("POST", "/model/predict")) == 5
    third = client("pictures", "--output", "out.jsonl", "--resume")
    assert (third.code, len(known.requests("POST", "/model/predict"))) == (0, 5)


@pytest.mark.parametrize("mode", [(), ("--jobs",)], ids=["predict", "jobs"])
def test_resuming_at_a_service_that_cannot_be_used_changes_nothing_in_the_file(
    client: Client, known: KnownService, mode: tuple[str, ...]
) -> None:
    (PICTURES / "001.jpg").write_bytes(b"bad:")
    client("pictures", "--output", "out.jsonl")
    Path("out.jsonl").write_text(before := Path("out.jsonl").read_text() + '{"file":"pictures/cut o')
    nobody = f"http://127.0.0.1:{free_port()}"
    assert client("pictures", "--output", "out.jsonl", "--resume", "--retries", "0", *mode, server=nobody).code == 1
    assert Path("out.jsonl").read_text() == before
    known.jobs_available = False
    if mode:
        assert client("pictures", "--output", "out.jsonl", "--resume", "--retries", "0", *mode).code == 2
        assert Path("out.jsonl").read_text() == before


def test_resuming_removes_errors_also_where_nothing_is_left_to_classify(client: Client) -> None:
    (PICTURES / "001.jpg").write_bytes(b"bad:")
    client("pictures", "--output", "out.jsonl")
    (PICTURES / "001.jpg").unlink()
    assert "2 of 2 are already in out.jsonl" in client("pictures", "--output", "out.jsonl", "--resume").err
    answers = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [answer["file"] for answer in answers] == ["pictures/000.jpg", "pictures/002.jpg"]


def test_an_output_that_is_there_is_never_overwritten(client: Client) -> None:
    Path("out.jsonl").write_text('{"of": "someone else"}\n')
    refused = client("pictures", "--output", "out.jsonl")
    assert (refused.code, "already exists" in refused.err, "--resume" in refused.err) == (2, True, True)
    foreign = client("pictures", "--output", "out.jsonl", "--resume")
    assert (foreign.code, "out.jsonl, line 1: was not written by this client" in foreign.err) == (2, True)
    assert Path("out.jsonl").read_text() == '{"of": "someone else"}\n'


def test_a_full_disk_ends_the_run_with_its_reason(client: Client) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
    try:
        ended = client("pictures", "--output", "out.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert ended.code == 1
    assert "stopped: --output out.jsonl: cannot be written: File too large" in ended.err
    assert client("pictures", "--output", "out.jsonl", "--resume").code == 0


# Usage.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no input: give a PATH, FOLDER or URL"),
        (["no_such.jpg"], "no_such.jpg: no such file or folder"),
        (["ftp://host/x.jpg"], "http:// or https://"),
        (["http:///x.jpg"], "http:///x.jpg: is not a URL"),
        (["empty"], "empty: contains nothing to classify"),
        (["--urls", "bad.txt"], "--urls bad.txt, line 2: ftp://x"),
        (["--urls", "none.txt"], "--urls none.txt: cannot be read"),
        (["pictures", "--top-k", "11"], "--top-k: '11' is not a whole number from 1 to 10"),
        (["pictures", "--parallel", "0"], "--parallel: '0' is not a whole number from 1 to 64"),
        (["pictures", "--retries", "-1"], "--retries"),
        (["pictures", "--give-up-after", "nan"], "--give-up-after: 'nan' is not a number of seconds"),
        (["pictures", "--deadline-ms", "0"], "--deadline-ms"),
        (["pictures", "--server", "localhost:8000"], "--server: 'localhost:8000' is not an address such as"),
        (["pictures", "--format", "xml"], "--format"),
        (["pictures", "--output", "out.xml"], "--output out.xml: its suffix names no format; add --format"),
        (["pictures", "--output", "nowhere/out.csv"], "--output nowhere/out.csv: its folder does not exist"),
        (["pictures", "--output", f"{300 * 'x'}/out.csv"], "out.csv: File name too long; choose another file"),
        (["pictures", "--resume", "--output", f"{300 * 'x'}.jsonl"], "x.jsonl: File name too long; choose another"),
        (["pictures", "--output", "/dev/null", "--format", "jsonl", "--resume"], "/dev/null: is not a regular file"),
        (["pictures", "--resume"], "--resume: needs the file to resume"),
        (["pictures", "--resume", "--output", "out.csv"], "--resume: works with JSON lines only"),
        (["pictures", "--batch", "5"], "--batch: is the number of files of a job; add --jobs"),
        (["pictures", "--jobs", "--deadline-ms", "5"], "--deadline-ms and --jobs: jobs have no deadline"),
        (["pictures", "--job", "x"], "--job: fetches existing jobs; drop PATH, URL and --urls"),
        (["--cancel"], "--cancel: needs a job; name it with --job ID"),
        (["pictures", "--api-key-env", "NO_SUCH_VARIABLE"], "--api-key-env NO_SUCH_VARIABLE: this environment"),
    ],
)  # fmt: skip
def test_wrong_usage_names_the_argument(client: Client, arguments: list[str], words: str) -> None:
    Path("empty").mkdir()
    Path("bad.txt").write_text("http://127.0.0.1/x.jpg\nftp://x\n")
    ended = client(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in " ".join(ended.err.split())


# Jobs.


def test_jobs_carry_batches_and_their_results_are_in_the_order_of_the_files(
    client: Client, known: KnownService
) -> None:
    folder = make_pictures(Path("many"), 7)
    (folder / "003.jpg").write_bytes(b"bad:")
    (folder / "large.jpg").write_bytes(bytes(known.max_upload_bytes + 1))
    ended = client(folder, "--format", "csv", "--jobs", "--batch", "3", "--top-k", "2", "--no-store")
    rows = ended.rows()
    assert [row["prediction"] for row in rows] == [
        "thing 0",
        "thing 1",
        "thing 2",
        "",
        "thing 4",
        "thing 5",
        "thing 6",
        "",
    ]
    assert [row["error_code"] for row in rows if row["error_code"]] == ["unsupported_image", "upload_too_large"]
    assert ended.code == 1
    assert [len(job.files) for job in known.jobs.values()] == [3, 3, 1]
    requests = known.requests("POST", "/model/jobs")
    assert {(request["?"], request["cache-control"]) for request in requests} == {("top_k=2", "no-store")}
    assert all(request["?"] == "wait=10" for request in known.requests("GET", "/model/jobs/job-0"))


def test_a_lost_answer_makes_no_second_job_and_neither_does_the_same_command_again(
    client: Client, known: KnownService
) -> None:
    known.trouble.extend([RESET, Trouble(503, headers={"Retry-After": "0"})])
    ended = client("pictures", "--format", "csv", "--jobs")
    assert (ended.code, [row["prediction"] for row in ended.rows()]) == (0, things(3))
    assert len(known.requests("POST", "/model/jobs")) == 3
    again = client("pictures", "--format", "csv", "--jobs")
    assert again.out == ended.out
    assert list(known.jobs) == ["job-0"]
    client("pictures", "--format", "csv", "--jobs", "--top-k", "2")
    assert list(known.jobs) == ["job-0", "job-1"], "other results need another job"


def test_resuming_finds_the_jobs_of_the_run_before_though_a_picture_of_an_earlier_one_failed(
    client: Client, known: KnownService
) -> None:
    folder = make_pictures(Path("many"), 7)
    (folder / "001.jpg").write_bytes(b"bad:")
    command = (folder, "--jobs", "--batch", "3", "--output", "out.jsonl")
    assert client(*command).code == 1
    answered = Path("out.jsonl").read_text().splitlines(keepends=True)
    Path("out.jsonl").write_text("".join(answered[:3]))  # the run ended when only the first job had
    (folder / "001.jpg").write_bytes(b"label:thing 1:")
    assert client(*command, "--resume").code == 0
    answers = [json.loads(line)["file"] for line in Path("out.jsonl").read_text().splitlines()]
    assert answers == [f"many/00{number}.jpg" for number in (0, 2, 1, 3, 4, 5, 6)]
    assert [len(job.files) for job in known.jobs.values()] == [3, 3, 1, 1]
    assert known.jobs["job-3"].files == [("many/001.jpg", b"label:thing 1:")]


def test_no_question_about_a_job_is_held_for_as_long_as_an_answer_may_take(client: Client, known: KnownService) -> None:
    assert client("pictures", "--jobs", "--give-up-after", "19").code == 0
    assert {request["?"] for request in known.requests("GET", "/model/jobs/job-0")} == {"wait=9.5"}


def test_a_job_whose_id_begins_with_a_hyphen_is_named_as_one_word() -> None:
    """As ids of earlier versions may."""
    told = [word for job in ("-2Vt", "uLui") for word in _option(job).split()]
    assert read_options([*told, "--format", "csv"]).job == ["-2Vt", "uLui"]


def test_a_job_that_is_named_twice_is_fetched_once(client: Client) -> None:
    client("pictures", "--jobs")
    fetched = client("--job", "job-0", "--job", "job-0", "--format", "csv")
    assert (fetched.code, len(fetched.rows())) == (0, 3)


def test_a_service_of_before_jobs_is_told_apart(client: Client, known: KnownService) -> None:
    known.trouble.append(Trouble(404, "not_found"))
    ended = client("pictures", "--jobs")
    assert ended.code == 2
    assert "error: --jobs: this service has no jobs" in ended.err


def test_a_redis_that_is_away_for_a_moment_stops_no_job(client: Client, known: KnownService) -> None:
    known.trouble.append(Trouble(503, "jobs_unavailable", headers={"Retry-After": "0"}))
    ended = client("pictures", "--format", "csv", "--jobs")
    assert (ended.code, [row["prediction"] for row in ended.rows()]) == (0, things(3))
    assert list(known.jobs) == ["job-0"]


def test_a_job_that_is_lost_costs_its_own_files_only(client: Client, known: KnownService) -> None:
    known.lost.add("job-0")
    ended = client("pictures", "--format", "csv", "--jobs", "--batch", "2")
    assert ended.code == 1
    assert [row["error_code"] or row["prediction"] for row in ended.rows()] == ["job_lost", "job_lost", "thing 2"]
    assert "left in the service" not in ended.err


def test_a_batch_that_is_too_large_for_the_service_is_halved(client: Client, known: KnownService) -> None:
    known.max_job_files = 2
    ended = client(make_pictures(Path("many"), 7), "--format", "csv", "--jobs")
    assert [row["prediction"] for row in ended.rows()] == things(7)
    assert [len(job.files) for job in known.jobs.values()] == [1, 2, 2, 2]


def test_a_job_of_bad_pictures_tells_the_error_of_each(client: Client) -> None:
    folder = Path("bad")
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"bad:")
    ended = client(folder, "--format", "csv", "--jobs")
    assert ended.code == 1
    assert [row["error_code"] for row in ended.rows()] == ["unsupported_image"] * 2


def test_a_job_that_was_cancelled_before_is_asked_for_anew(client: Client, known: KnownService) -> None:
    client("pictures", "--jobs")
    known.jobs["job-0"].is_cancelled = True
    ended = client("pictures", "--format", "csv", "--jobs")
    assert (ended.code, [row["prediction"] for row in ended.rows()]) == (0, things(3))
    assert list(known.jobs) == ["job-0", "job-1"]


def test_a_job_that_is_cancelled_meanwhile_says_so_for_each_file(client: Client, known: KnownService) -> None:
    client("pictures", "--jobs")
    known.jobs["job-0"].is_cancelled = True
    ended = client("--job", "job-0", "--format", "csv")
    assert ended.code == 1
    assert [row["error_code"] for row in ended.rows()] == ["cancelled"] * 3


def test_a_job_of_before_is_fetched_or_cancelled_by_its_id(client: Client) -> None:
    client("pictures", "--jobs")
    fetched = client("--job", "job-0", "--format", "csv")
    assert fetched.code == 0
    assert [(row["file"], row["prediction"]) for row in fetched.rows()] == [
        (f"pictures/00{number}.jpg", f"thing {number}") for number in range(3)
    ]
    late = client("--job", "job-0", "--cancel")
    assert (late.code, "it has already ended" in late.err) == (1, True)
    unknown = client("--job", "no/such")
    assert (unknown.code, "--job no/such: the service has no such job" in unknown.err) == (2, True)


def test_a_running_job_can_be_cancelled(client: Client, known: KnownService) -> None:
    client("pictures", "--jobs")
    known.jobs["job-0"].file_s = 60
    ended = client("--job", "job-0", "--cancel")
    assert (ended.code, "job job-0: cancelled" in ended.err) == (0, True)
    assert known.jobs["job-0"].is_cancelled


def test_without_redis_the_jobs_option_is_what_is_wrong(client: Client, known: KnownService) -> None:
    known.jobs_available = False
    ended = client("pictures", "--jobs", "--retries", "0")
    assert ended.code == 2
    assert "error: --jobs: this service has no jobs; set REDIS_URL" in ended.err


@pytest.mark.parametrize("trouble", [RESET, Trouble(403, "forbidden"), Trouble(500), Trouble(503)], ids=str)
@pytest.mark.parametrize("mode", ["pictures --jobs", "--job job-0", "--job job-0 --cancel"])
def test_jobs_that_do_not_answer_end_the_run_with_their_reason(
    client: Client, known: KnownService, trouble: Trouble, mode: str
) -> None:
    known.jobs_trouble = trouble
    with_login = known.url.replace("//", "//ada:secret@")
    ended = client(*mode.split(), "--retries", "0", server=with_login)
    assert (ended.code, ended.out) == (1, "")
    reason = "RemoteProtocolError" if trouble.status is None else "as the test wants it"
    assert f"stopped: --server {known.url}: GET /model/jobs: {reason}" in ended.err


@pytest.mark.parametrize("mode", ["pictures --jobs", "--job job-0", "--job job-0 --cancel"])
def test_jobs_of_a_service_that_is_not_there_end_the_run_with_their_reason(client: Client, mode: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    ended = client(*mode.split(), "--retries", "0", server=nobody)
    assert (ended.code, ended.out) == (1, "")
    assert f"stopped: --server {nobody}: " in ended.err
