"""Hostile input to the whole running service, HAProxy included: every answer, and what it does to the neighbours."""

import asyncio
import json
import re
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from loadtest.load.pictures import PicturePool
from tests.conftest import Fitted
from tests.hostile import ANSWER_S, Answer, Case, cases, send
from tests.kit import Kit
from tests.ports import free_port
from tests.redis_server import RedisServer
from tests.service import PATIENT_MODEL, Service, adapted, launcher, own_environment, service, write_config

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CASES = cases()
AT_A_TIME = 6
MIB = 2**20
FUZZ_INPUTS = 150
HELD_BACK_S = 3
"""A client that can send nothing for so long is held back."""
HAPROXY_BUFFER_BYTES = 262_144
"""As configs/serve.env has it."""
SCHEMATHESIS_S = 500


@dataclass
class Siege:
    """What came of all cases sent at once."""

    answers: dict[str, Answer] = field(default_factory=dict)
    neighbours: list[tuple[int, str]] = field(default_factory=list)
    """Status and prediction of each good request meanwhile."""
    lookups: list[int] = field(default_factory=list)
    rss_bytes: list[int] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, fitted: Fitted, redis_server: RedisServer) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("hostile")
    port = free_port()
    # This is about right answers, not about quick ones: the machine is busy with making bombs.
    model_args = {**fitted.args, **PATIENT_MODEL}
    config = write_config(folder, adapted("one_replica.yaml", port=port, model_args=model_args))
    environment = own_environment(folder) | {"REDIS_URL": redis_server.url}
    with service(launcher(config), environment, folder, port) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture(scope="module")
async def siege(running: Service, fitted: Fitted) -> Siege:
    """Send every case, several at a time, beside good requests."""
    found, watched = Siege(), running.replicas()
    found.pids = {process.pid for process in watched}
    waiting = list(CASES)

    async def attack(http: httpx.AsyncClient) -> None:
        while waiting:
            case = waiting.pop()
            found.answers[name_of(case)] = await send(http, case)

    async def be_good(http: httpx.AsyncClient) -> None:
        while waiting:
            response = await http.post("/model/predict", files={"file": fitted.pictures["thing 7"]})
            found.neighbours.append((response.status_code, response.json().get("prediction", "")))
            found.lookups.append((await http.get("/user/7")).status_code)
            found.rss_bytes.append(sum(process.memory_info().rss for process in watched))

    async with httpx.AsyncClient(base_url=running.url, timeout=ANSWER_S) as http:
        await http.post("/model/predict", content=fitted.pictures["thing 7"])
        found.rss_bytes.append(sum(process.memory_info().rss for process in watched))
        await asyncio.gather(be_good(http), be_good(http), *(attack(http) for _ in range(AT_A_TIME)))
        found.rss_bytes.append(sum(process.memory_info().rss for process in watched))
    return found


def name_of(case: Case) -> str:
    return f"{case.kind}: {case.name}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_hostile_input_is_answered_by_name(siege: Siege, case: Case) -> None:
    assert siege.answers[name_of(case)].fault(case) == ""


async def test_the_neighbours_are_answered_meanwhile(siege: Siege) -> None:
    assert len(siege.neighbours) >= 2  # one at least for each of the two who send them
    assert set(siege.neighbours) == {(200, "thing 7")}
    assert set(siege.lookups) == {200}


async def test_no_replica_ends_and_memory_is_bounded(siege: Siege, running: Service) -> None:
    assert {process.pid for process in running.replicas()} == siege.pids
    before = siege.rss_bytes[0]
    assert max(siege.rss_bytes) < before + 700 * MIB  # two of 50 megapixels may be in decoding
    assert siege.rss_bytes[-1] < before + 250 * MIB


def test_a_body_stays_with_its_client_while_nobody_reads_it(running: Service) -> None:
    """Serve alone reads all of it at once."""
    pool = PicturePool(4)
    files = [("file", pool.next_picture()) for _ in range(400)]
    taken = httpx.post(f"{running.url}/model/jobs", files=files, timeout=ANSWER_S)
    location = taken.raise_for_status().headers["location"]
    port, sent, is_held_back = int(running.url.rsplit(":", 1)[-1]), 0, False
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=HELD_BACK_S) as client:
        client.sendall(f"GET {location}?wait=15 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while not is_held_back and sent < 100 * MIB:
            assert not select.select([client], [], [], 0)[0], "answered before the client was held back"
            try:
                client.sendall(piece)
                sent += len(piece)
            except TimeoutError:
                is_held_back = True
    httpx.delete(f"{running.url}{location}", timeout=ANSWER_S).raise_for_status()
    assert is_held_back
    assert sent < 20 * MIB


HEAD = b"POST /model/predict HTTP/1.1\r\nHost: x\r\n"
BROKEN_HTTP = {
    "a Content-Length below what comes": HEAD + b"Content-Length: 5\r\n\r\n" + b"x" * 100,
    "a negative Content-Length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a Content-Length in words": HEAD + b"Content-Length: many\r\n\r\n",
    "a Content-Length of 400 digits": HEAD + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
    "two Content-Lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "Content-Length and chunks": HEAD
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a chunk of no size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "a chunk of 2**70 bytes": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"4" + b"0" * 18 + b"\r\nhello",
    "an unknown coding": HEAD + b"Transfer-Encoding: zip\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in a header": HEAD + b"X-A: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "NUL in the path": b"GET /user/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "invalid UTF-8 in the path": b"GET /user/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header of 300 kB": HEAD + b"X-A: " + b"a" * 300_000 + b"\r\nContent-Length: 5\r\n\r\nhello",
    "5,000 headers": HEAD + b"X-A: a\r\n" * 5000 + b"Content-Length: 5\r\n\r\nhello",
    "a path of 300 kB": b"GET /user/" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method of our own": b"HACK /user/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200 + b"\r\n\r\n",
    "a host that is none": b"GET /model/nothing HTTP/1.1\r\nHost: [::1\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_HTTP)
def test_broken_http_is_a_4xx(running: Service, name: str) -> None:
    """Most of it never comes past HAProxy, whose answers are its own."""
    port, answer = int(running.url.rsplit(":", 1)[-1]), b""
    # Who sends more than HAProxy's buffer is answered and cut off, and may see only the latter.
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as client, suppress(ConnectionError):
        client.sendall(BROKEN_HTTP[name])
        while received := client.recv(65_536):
            answer += received
            if b"\r\n\r\n" in answer:
                break
    is_cut_off = len(BROKEN_HTTP[name]) > HAPROXY_BUFFER_BYTES and not answer
    assert is_cut_off or re.match(rb"HTTP/1\.[01] 4\d\d ", answer), answer[:300]


@pytest.mark.parametrize("name", [b"x-request-id", b"x-session-id", b"serve_multiplexed_model_id"])
async def test_headers_that_serve_reads_may_hold_anything(running: Service, fitted: Fitted, name: bytes) -> None:
    async with httpx.AsyncClient(base_url=running.url, timeout=ANSWER_S) as http:
        for value in (b"\xff\xfe", b"i" * 5000):
            headers = [(name, value)]
            answer = await http.post("/model/predict", content=fitted.pictures["thing 7"], headers=headers)
            assert answer.status_code == 200
            answer = await http.get("/user/nobody", headers=headers)
            assert answer.status_code == 422
            assert len(answer.json()["request_id"]) <= 128


CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method"
)


# Bytes that fit the schema of an upload are hardly ever a picture, so that refusing them is right.
@pytest.mark.parametrize(("application", "checks"), [("user", f"{CHECKS},positive_data_acceptance"), ("model", CHECKS)])
def test_the_service_does_what_its_openapi_says(
    running: Service, tmp_path: Path, application: str, checks: str
) -> None:
    # A client that asks for its answer within a millisecond gets the 504 that the document promises, or the 503 with
    # Retry-After when the picture of the request before is still being decoded.
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        "[checks.not_a_server_error]\nexpected-statuses = ['2xx', '3xx', '4xx', 504]\n"
        + "".join(
            f"[[operations]]\ninclude-name = 'POST {path}'\n"
            "[operations.checks.not_a_server_error]\nexpected-statuses = ['2xx', '3xx', '4xx', 503, 504]\n"
            for path in ("/predict", "/v2/models/{model}/infer")
        )
    )
    url = f"{running.url}/{application}"
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(config),
        "run",
        f"{url}/openapi.json",
        "--url",
        url,
    ]
    options = [
        "--checks",
        checks,
        "--max-examples",
        "8",
        "--seed",
        "1",
        "--generation-database",
        "none",
        "--warnings",
        "off",
    ]
    ended = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=SCHEMATHESIS_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/model/predict", {200, 400, 415, 422}),
        ("/v2/models/resnet50/infer", {200, 400, 413, 415}),
        ("/v2/models/resnet50_uint8/infer", {200, 400, 413}),
        ("/v2/models/resnet50_fp32/infer", {200, 400, 413}),
    ],
)
def test_the_fuzzer_finds_nothing(running: Service, tmp_path: Path, path: str, statuses: set[int]) -> None:
    kit = Kit(
        [
            "fuzz",
            running.url,
            "--path",
            path,
            "--inputs",
            str(FUZZ_INPUTS),
            "--json",
            "--save",
            str(tmp_path / "saved"),
        ],
        tmp_path,
        tmp_path,
    )
    ended = kit.wait()
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert found["inputs"] == FUZZ_INPUTS
    assert (found["server_errors"], found["faults"], found["saved"]) == (0, {}, [])
    assert {answer["status"] for answer in found["answers"]} >= statuses
    assert found["memory"]["ended_processes"] == 0
