"""`python -m loadtest fuzz`: what it makes, and that it finds, keeps and replays what a bad service fails on."""

import asyncio
import hashlib
import io
import json
import math
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loadtest.__main__ import main
from loadtest.errors import BadInputError
from loadtest.fuzz.campaign import Campaign
from loadtest.fuzz.memory import MemoryFigures
from loadtest.fuzz.mutations import spoil, with_right_checksums
from loadtest.fuzz.request import FuzzRequest, make_request, read_request
from loadtest.fuzz.tally import Answer, Outcome, Tally
from loadtest.fuzz.terminal import describe_bound, describe_progress
from loadtest.load.pictures import sample_files
from serve_app.classifier.images import FORMATS, decode_image
from tests.kit import ask
from tests.ports import free_port

FUZZ_S = 120


def test_the_files_to_spoil_are_valid_and_of_every_format() -> None:
    for data in sample_files():
        assert decode_image(data, 10**6).shape == (224, 224, 3)
        assert len(data) < 25_000
    assert {Image.open(io.BytesIO(data)).format for data in sample_files()} == set(FORMATS)


def test_the_same_seed_makes_the_same_requests_and_another_does_not() -> None:
    files = sample_files()
    first, again, other = ([make_request("/p", files, seed, number) for number in range(50)] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({request.body for request in first}) > 40


def test_a_request_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    files = sample_files()
    for number in range(300):
        request = make_request("/p", files, 0, number)
        path = tmp_path / "request.http"
        path.write_bytes(request.encode())
        assert read_request(path) == request


def test_a_file_that_holds_no_request_is_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    for content in (b"", b"\xff\xd8\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"):
        path.write_bytes(content)
        with pytest.raises(BadInputError, match="holds no request"):
            read_request(path)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_request(tmp_path / "none")


def test_checksums_are_mended_so_that_the_decoder_sees_what_was_spoilt() -> None:
    data = next(file for file in sample_files() if file.startswith(b"\x89PNG"))
    assert with_right_checksums(data) == data
    spoilt = data[:29] + b"wxyz" + data[33:]  # the checksum of the header
    assert with_right_checksums(spoilt) == data
    rng = random.Random(0)
    for _ in range(200):
        with_right_checksums(spoil(rng, [data]).data)


def figures(**changed: int) -> MemoryFigures:
    usual = {
        "processes": 1, "start_bytes": 80, "tenth_bytes": 100, "middle_bytes": 100, "end_bytes": 100,
        "largest_bytes": 300, "ended_processes": 0,
    }  # fmt: skip
    return MemoryFigures(**{**usual, **changed})


@pytest.mark.parametrize(
    ("memory", "offence"),
    [
        (figures(), ""),
        (figures(end_bytes=110), ""),
        (figures(end_bytes=111), "grew by 11.0 %"),
        (figures(middle_bytes=120), "grew by 20.0 %"),
        (figures(ended_processes=1), "1 of 1 processes ended"),
    ],
)
def test_memory_that_grows_after_the_first_tenth_and_a_process_that_ends_are_offences(
    memory: MemoryFigures, offence: str
) -> None:
    tally = Tally()
    tally.add(Answer(400, "unreadable_image"))
    outcome = Outcome("http://x", 0, 1.0, tally, memory)
    assert offence in "; ".join(outcome.offences())
    assert bool(outcome.offences()) == bool(offence)
    assert outcome.verdict().startswith("FAILED" if offence else "HELD")


@asynccontextmanager
async def bad_service(port: int) -> AsyncIterator[None]:
    """Serve HTTP that fails on some bodies, always the same: with 500 on a fifth, with a reset on another fifth."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                body = await _read_body(reader, head)
                choice = 4 if head.startswith(b"get") else hashlib.sha256(body).digest()[0] % 5
                if choice == 0:
                    break
                status = b"500 Internal Server Error" if choice == 1 else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, limit=2**24)
    try:
        yield
    finally:
        server.close()


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"content-length: " in head:
        return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    body = b""
    while b"chunked" in head and (size := int(await reader.readuntil(b"\r\n"), 16)):
        body += (await reader.readexactly(size + 2))[:-2]
    if b"chunked" in head:
        await reader.readexactly(2)
    return body


async def run_fuzz(*options: str) -> tuple[int, str, str]:
    """Return exit code and output of the command, run in a thread: the service that it asks is in this one.

    A thread cannot be ended; the command ends by itself, also where nothing is answered.
    """
    ended = await asyncio.to_thread(ask, "fuzz", "--seconds", FUZZ_S, *options)
    return ended.exit_code, ended.stdout, ended.stderr


async def test_what_a_bad_service_fails_on_is_kept_and_replayed(tmp_path: Path) -> None:
    port = free_port()
    url, folder = f"http://127.0.0.1:{port}", tmp_path / "saved"
    async with bad_service(port):
        code, stdout, stderr = await run_fuzz(url, "--inputs", "60", "--save", str(folder), "--json")
        assert code == 1, stderr
        found = json.loads(stdout)
        assert found["server_errors"] > 3
        assert found["faults"]["reset"] > 3
        assert len(found["saved"]) == found["server_errors"] + found["faults"]["reset"] == len(list(folder.iterdir()))
        assert found["verdict"].startswith("FAILED: ")
        errors = [path for path in found["saved"] if path.endswith("-500.http")]
        code, stdout, _ = await run_fuzz(url, "--replay", *errors, "--save", str(tmp_path / "again"))
        assert code == 1
        assert f"FAILED: {len(errors)} answers of 5xx (" in stdout
        good = tmp_path / "good.http"
        good.write_bytes(
            FuzzRequest(b"/model/predict", (), b"a").encode()
        )  # sha256 of "a" begins with 0xca: 202 % 5 is 2
        assert (await run_fuzz(url, "--replay", str(good)))[0] == 0


async def test_a_campaign_whose_inputs_cannot_be_saved_keeps_its_counts_and_says_so(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "saved"
    folder.write_text("no folder")
    async with bad_service(port):
        options = (f"http://127.0.0.1:{port}", "--inputs", "60", "--save", str(folder))
        code, stdout, stderr = await run_fuzz(*options, "--json")
        assert code == 1, stderr
        found = json.loads(stdout)
        assert (found["inputs"], found["saved"]) == (60, [])
        assert len(found["unsaved"]) == found["server_errors"] + found["faults"]["reset"] > 6
        assert all("another folder in --save" in reason for reason in found["unsaved"].values())
        code, stdout, stderr = await run_fuzz(*options)
        assert code == 1, stderr
        assert f"NOT SAVED: {folder}/0-0" in stdout
        assert "; run the same command again with another folder in --save" in stdout
        assert "FAILED: " in stdout


def test_wrong_input_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for options, words in (
        ([url], "no service answers there"),
        (["localhost:8000"], "is no URL"),
        (["http://127.0.0.1:8299x"], "the port must be a number from 1 to 65535"),
        ([url, "--files", str(tmp_path / "none")], "cannot be read"),
        ([url, "--process", "no such process anywhere"], "matches no command line"),
    ):
        monkeypatch.setattr(sys, "argv", ["loadtest", "fuzz", *options])
        assert main() == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert line.startswith("error: ")
        assert words in line


def campaign(**changed: Any) -> Campaign:
    usual = {
        "url": "http://x", "valid": (), "requests": (), "inputs": 100, "seed": 0, "at_a_time": 8, "most_s": math.inf,
        "watched": (), "folder": Path("x"),
    }  # fmt: skip
    return Campaign(**{**usual, **changed})


@pytest.mark.parametrize(
    ("changed", "longest"),
    [
        ({}, "13:00 min"),
        ({"at_a_time": 100}, "1:00 min"),
        ({"most_s": 30}, "1:30 min"),
        ({"inputs": 10_000}, "20:50:00 h"),
    ],
)
def test_a_campaign_says_how_long_it_takes_at_most(changed: dict[str, Any], longest: str) -> None:
    assert f"at most {longest}; " in describe_bound(campaign(**changed))


@pytest.mark.parametrize(
    ("inputs", "most_s", "told"),
    [
        (0, math.inf, "0 of 100 inputs, at most 12:40 min left, 0 × 5xx, 0 broken"),
        (25, math.inf, "25 of 100 inputs, about 1:00 min left, 1 × 5xx, 0 broken"),
        (25, 50, "25 of 100 inputs, about 0:30 min left, 1 × 5xx, 0 broken"),
    ],
)
def test_how_long_is_left_is_shown(inputs: int, most_s: float, told: str) -> None:
    tally = Tally()
    for number in range(inputs):
        tally.add(Answer(200 if number else 500))
    assert describe_progress(campaign(most_s=most_s), tally, 20.0) == told


async def test_the_longest_duration_is_printed_before_the_first_input() -> None:
    code, _, stderr = await run_fuzz(f"http://127.0.0.1:{free_port()}", "--inputs", "8", "--seconds", "5")
    assert code == 2
    first, error = stderr.splitlines()
    assert first.startswith("8 inputs, 8 at a time, each answered within 60 s or counted as a timeout: ")
    assert first.endswith(": at most 1:00 min; --seconds and --inputs shorten it")
    assert "no service answers there" in error
