"""A live service with API keys: slow clients, bytes that are no HTTP, people without a key, lost processes."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import grpc
import httpx
import psutil
import pytest

from tests.conftest import Fitted
from tests.ports import free_port
from tests.postgres import Postgres
from tests.redis_server import RedisServer
from tests.serve_app.classifier.test_model_api import assert_error
from tests.service import ROOT, Service, adapted, launcher, own_environment, processes_of, service, write_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux only")

FIRST, SECOND, THIRD = (f"{word}-key-of-this-test" for word in ("first", "second", "third"))
HEADER_TIMEOUT_S = 2
UPLOAD_TIMEOUT_S = 2
ANSWER_S = 10
SECRET_PICTURE = b"these bytes of a picture belong into no log"
REDIS_PASSWORD, DATABASE_PASSWORD = "pl4nted-in-REDIS_URL/@", "pl4nted-in-DATABASE_URL/@"


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# of the tests\n{FIRST}\n{SECOND}  # to be withdrawn\n")
    return path


@pytest.fixture(scope="module")
def addresses(module_redis: RedisServer, postgres: Postgres) -> dict[str, str]:
    """Return the addresses of a Redis that asks for a password, and of a PostgreSQL that takes any."""
    with socket.create_connection(("127.0.0.1", module_redis.port), timeout=ANSWER_S) as connection:
        connection.sendall(f"CONFIG SET requirepass {REDIS_PASSWORD}\r\n".encode())
        assert connection.recv(100) == b"+OK\r\n"
    login = quote(DATABASE_PASSWORD, safe="")
    return {
        "REDIS_URL": module_redis.url.replace("//", f"//:{quote(REDIS_PASSWORD, safe='')}@"),
        "DATABASE_URL": postgres.new_database().replace("//postgres@", f"//postgres:{login}@"),
    }


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, fitted: Fitted, keys_file: Path, addresses: dict[str, str]
) -> Iterator[Service]:
    """`make serve` with API keys from a file, passwords in addresses, and short limits for slow clients."""
    folder = tmp_path_factory.mktemp("guarded")
    port = free_port()
    args = {**fitted.args, "upload_timeout_s": UPLOAD_TIMEOUT_S}
    config = adapted("one_replica.yaml", port=port, model_args=args)
    for application in config["applications"]:
        application["args"]["auth"] = {"keys_file": str(keys_file)}
    environment = {**own_environment(folder), **addresses, "SERVE_APP_HEADER_TIMEOUT_S": str(HEADER_TIMEOUT_S)}
    environment["RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S"] = "1"  # a killed HAProxy is noticed by three of these
    with service(launcher(write_config(folder, config)), environment, folder, port) as started:
        started.wait_until_ready()
        deadline = time.monotonic() + 10
        while "Ctrl-C" not in started.printed():
            assert time.monotonic() < deadline, started.printed()
            time.sleep(0.1)
        yield started


@dataclass
class Answer:
    """What came back on a bare socket."""

    status: int
    headers: dict[str, str]
    body: bytes
    took_s: float

    @classmethod
    def read(cls, raw: bytes, took_s: float) -> "Answer":
        head, _, body = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        assert line.startswith("HTTP/1."), raw[:200]
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        return cls(int(line.split()[1]), headers, body, took_s)

    def assert_in_shape(self) -> str:
        """Return the code of an error in the error shape."""
        assert self.headers["content-type"] == "application/json", self
        assert self.headers["x-request-id"], self
        found = json.loads(self.body)
        assert set(found) == {"code", "detail", "request_id"}
        assert found["request_id"] == self.headers["x-request-id"]
        return str(found["code"])


async def send(service: Service, *parts: bytes, pause_s: float = 0.0) -> Answer:
    """Send bytes, `pause_s` between two parts, and return the answer; the connection stays open meanwhile."""
    port = int(service.url.rsplit(":", 1)[-1])
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    dripping = asyncio.create_task(_drip(writer, parts, pause_s))
    try:
        raw = await asyncio.wait_for(_read_answer(reader), ANSWER_S)
    finally:
        dripping.cancel()
        writer.close()
    return Answer.read(raw, time.monotonic() - began)


async def _drip(writer: asyncio.StreamWriter, parts: tuple[bytes, ...], pause_s: float) -> None:
    for part in parts:
        writer.write(part)
        await asyncio.sleep(pause_s)


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return head + (await reader.readexactly(int(length[1])) if length else await reader.read())


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, b"Host: x", b"X-API-Key: " + FIRST.encode(), *fields, b"", b""])


async def ask(service: Service, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=service.url, timeout=ANSWER_S) as http:
        return await http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "path", ["/user/", "/user/1", "/user/nothing/here", "/model/", "/model/predict", "/model/ready/"]
)
async def test_without_a_key_nothing_is_told(guarded: Service, path: str) -> None:
    answer = await ask(guarded, path)
    assert_error(answer, 401, "unauthorized", "Authorization: Bearer KEY")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]


@pytest.mark.parametrize("given", ["", "x", FIRST[:-1], FIRST + "x", FIRST.upper(), "Bearer", "ä" * 20])
async def test_a_wrong_key_is_no_key(guarded: Service, given: str) -> None:
    raw = given.encode()
    for field in (b"X-API-Key: " + raw, b"Authorization: Bearer " + raw, b"Authorization: Basic " + raw):
        line = b"GET /user/ HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n\r\n"
        answer = await send(guarded, line)
        assert (answer.status, answer.assert_in_shape()) == (401, "unauthorized")


async def test_every_key_opens_both_applications_either_way(guarded: Service) -> None:
    for key in (FIRST, SECOND):
        for path in ("/user/", "/model/"):
            assert (await ask(guarded, path, Authorization=f"Bearer {key}")).status_code == 200
            assert (await ask(guarded, path, X_API_Key=key)).status_code == 200


async def test_readiness_and_the_pages_stay_open(guarded: Service) -> None:
    for application in ("user", "model"):
        for page in ("ready", "docs", "redoc", "openapi.json"):
            assert (await ask(guarded, f"/{application}/{page}")).status_code == 200
        document = (await ask(guarded, f"/{application}/openapi.json")).json()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
        assert "401" in document["paths"]["/"]["get"]["responses"]
        assert "security" not in document["paths"]["/ready"]["get"]


async def test_a_refused_upload_gets_its_answer_and_no_reset(guarded: Service) -> None:
    async with httpx.AsyncClient(base_url=guarded.url, timeout=ANSWER_S) as http:
        assert_error(await http.post("/model/predict", content=b"x" * 9_000_000), 401, "unauthorized")


async def test_keys_are_exchanged_without_a_restart(guarded: Service, keys_file: Path) -> None:
    assert (await ask(guarded, "/user/", X_API_Key=THIRD)).status_code == 401
    keys_file.write_text(f"{FIRST},{THIRD}\n")
    for path in ("/user/", "/model/"):
        assert (await ask(guarded, path, X_API_Key=THIRD)).status_code == 200
        assert (await ask(guarded, path, X_API_Key=SECOND)).status_code == 401
        assert (await ask(guarded, path, X_API_Key=FIRST)).status_code == 200


async def test_headers_that_drip_get_a_408_in_time_and_hurt_nobody(guarded: Service, fitted: Fitted) -> None:
    line = b"GET /user/ HTTP/1.1\r\nHost: x\r\nX-Slow: "
    slow = [asyncio.create_task(send(guarded, line, *[b"a"] * 100, pause_s=0.2)) for _ in range(100)]
    await asyncio.sleep(0.3)
    latencies = []
    async with httpx.AsyncClient(base_url=guarded.url, timeout=ANSWER_S, headers={"X-API-Key": FIRST}) as http:
        for _ in range(20):
            began = time.monotonic()
            assert (await http.get("/user/")).status_code == 200
            latencies.append(time.monotonic() - began)
        assert (await http.post("/model/predict", content=fitted.pictures["thing 7"])).status_code == 200
    assert sorted(latencies)[-2] < 0.5
    answers = await asyncio.gather(*slow)
    assert {answer.status for answer in answers} == {408}
    assert max(answer.took_s for answer in answers) < HEADER_TIMEOUT_S + 2


@pytest.mark.parametrize("kind", ["dripped", "stopped", "chunked", "form"])
async def test_a_body_that_drips_or_stops_gets_a_408_from_the_replica(guarded: Service, kind: str) -> None:
    fields = {
        "chunked": [b"Transfer-Encoding: chunked"],
        "form": [b"Content-Length: 5000", b"Content-Type: multipart/form-data; boundary=b"],
    }.get(kind, [b"Content-Length: 5000"])
    start = head(b"POST /model/predict HTTP/1.1", *fields)
    part = b"1\r\na\r\n" if kind == "chunked" else b"a"
    drips = [] if kind == "stopped" else [part] * 100
    slow = await asyncio.gather(*(send(guarded, start, part, *drips, pause_s=0.2) for _ in range(20)))
    assert {answer.status for answer in slow} == {408}
    assert {answer.assert_in_shape() for answer in slow} == {"upload_too_slow"}
    assert max(answer.took_s for answer in slow) < UPLOAD_TIMEOUT_S + 2


ODD = {
    "unknown path": (head(b"GET /nothing HTTP/1.1"), 404),
    "root": (head(b"GET / HTTP/1.1"), 404),
    "two slashes": (head(b"GET //user/ HTTP/1.1"), 404),
    "dots": (head(b"GET /user/../model/x HTTP/1.1"), 404),
    "encoded NUL": (head(b"GET /user/%00 HTTP/1.1"), 422),
    "encoded NUL in a path of ours": (head(b"GET /model/%00 HTTP/1.1"), 404),
    "encoded NUL in a query": (head(b"GET /user/?limit=%00 HTTP/1.1"), 422),
    "invalid UTF-8, encoded": (head(b"GET /user/%ff%fe HTTP/1.1"), 422),
    "invalid UTF-8 in a query, encoded": (head(b"GET /user/?limit=%ff HTTP/1.1"), 422),
    "broken encoding": (head(b"GET /user/%zz HTTP/1.1"), 422),
    "SQL": (head(b"GET /user/1;drop%20table%20users HTTP/1.1"), 422),
    "SQL in a query": (head(b"GET /user/?after=1%20OR%201=1 HTTP/1.1"), 422),
    "another method": (head(b"DELETE /user/1 HTTP/1.1"), 405),
    "an invented method": (head(b"FROBNICATE /user/ HTTP/1.1"), 405),
    "GET of predict": (head(b"GET /model/predict HTTP/1.1"), 405),
    "TRACE": (head(b"TRACE /user/ HTTP/1.1"), 405),
    "long path": (head(b"GET /user/" + b"a" * 9_000 + b" HTTP/1.1"), 414),
    "long header": (head(b"GET /user/ HTTP/1.1", b"X-Long: " + b"a" * 20_000), 431),
    "many headers": (
        head(b"GET /user/ HTTP/1.1", *[b"X-%d: a" % n for n in range(90)], b"X-Long: " + b"a" * 17_000),
        431,
    ),
    "invalid request id": (head(b"GET /user/x HTTP/1.1", b"X-Request-ID: " + b"a" * 200), 422),
    "absolute form elsewhere": (head(b"GET http://x/nothing HTTP/1.1"), 404),
}
# What HAProxy refuses before there is a request.
NO_HTTP = {
    "no line": (b"\x00\x01\x02\x03\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 50 + b"\r\n\r\n", 400),
    "one word": (b"GARBAGE\r\n\r\n", 400),
    "NUL in the path": (head(b"GET /user/\x00 HTTP/1.1"), 400),
    "invalid UTF-8 in the path": (head(b"GET /user/\xff\xfe HTTP/1.1"), 400),
    "space in the path": (head(b"GET /user/ a b HTTP/1.1"), 400),
    "NUL in a header": (head(b"GET /user/ HTTP/1.1", b"X-Nul: \x00"), 400),
    "header without a colon": (head(b"GET /user/ HTTP/1.1", b"nothing"), 400),
    "two lengths": (head(b"POST /model/predict HTTP/1.1", b"Content-Length: 1", b"Content-Length: 2"), 400),
    "length that is no number": (head(b"POST /model/predict HTTP/1.1", b"Content-Length: x"), 400),
    "negative length": (head(b"POST /model/predict HTTP/1.1", b"Content-Length: -1"), 400),
    "too many headers": (head(b"GET /user/ HTTP/1.1", *[b"X-%d: a" % n for n in range(500)]), 400),
    "endless headers": (b"GET /user/ HTTP/1.1\r\n" + b"X-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 10_000, 400),
    "bad chunk": (head(b"POST /model/predict HTTP/1.1", b"Transfer-Encoding: chunked") + b"zz\r\n", 400),
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_requests_get_a_4xx_in_the_error_shape(guarded: Service, name: str) -> None:
    request, status = ODD[name]
    answer = await send(guarded, request)
    assert answer.status == status, answer
    answer.assert_in_shape()


@pytest.mark.parametrize("name", NO_HTTP)
async def test_what_is_no_http_gets_a_4xx_and_no_hang(guarded: Service, name: str) -> None:
    request, status = NO_HTTP[name]
    answer = await send(guarded, request)
    assert answer.status == status, answer
    assert len(answer.body) < 200  # HAProxy's own short page, in which nothing of the request comes back
    assert b"400 Bad request" in answer.body


async def test_successes_carry_the_id_that_the_client_gave_or_a_new_one(guarded: Service) -> None:
    given = await ask(guarded, "/user/", X_API_Key=FIRST, X_Request_ID="order-66:a.b_c")
    assert given.headers["X-Request-ID"] == "order-66:a.b_c"
    for forged in ("a" * 129, "one two", 'x"} {"level":"ERROR', "<script>"):
        answer = await ask(guarded, "/user/", X_API_Key=FIRST, X_Request_ID=forged)
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Request-ID"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/user/ready", 200),
        ("/user/", 200),
        ("/user", 200),
        ("/user/1", 200),
        ("/user/x", 422),
        ("/user/docs", 200),
        ("/model/ready", 200),
        ("/model/", 200),
        ("/model/jobs/" + "0" * 22, 404),
        ("/model/predict", 405),
        ("/model/nothing", 404),
        ("/nothing", 404),  # by HAProxy itself
        ("/user/" + "a" * 9_000, 414),
    ],
)
async def test_head_answers_as_get_does_without_a_body(guarded: Service, path: str, status: int) -> None:
    """On one connection: a byte of a body would be taken for the beginning of the next answer."""
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=guarded.url, timeout=ANSWER_S, limits=limits) as http:
        for key in ({}, {"X-API-Key": FIRST}):
            head, body, again = [await http.request(method, path, headers=key) for method in ("HEAD", "GET", "HEAD")]
            assert {head.status_code, again.status_code} == {body.status_code}
            assert body.status_code in (status, 401)
            assert head.content == again.content == b""
            assert head.headers["Content-Type"] == body.headers["Content-Type"]
            assert int(head.headers["Content-Length"]) == len(body.content) > 0
        assert body.status_code == status


async def test_what_a_405_allows_has_head_in_it(guarded: Service) -> None:
    async with httpx.AsyncClient(base_url=guarded.url, timeout=ANSWER_S, headers={"X-API-Key": FIRST}) as http:
        job = "/model/jobs/" + "0" * 22
        for method, path, allowed in (
            ("OPTIONS", "/user/", "GET, HEAD"),
            ("POST", "/model/ready", "GET, HEAD"),
            ("PUT", job, "DELETE, GET, HEAD"),
            ("FROBNICATE", "/user/", "GET, HEAD, POST, DELETE"),  # by HAProxy, which does not know the paths' own
        ):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


async def test_no_log_shows_a_key_a_password_or_a_picture(guarded: Service, keys_file: Path) -> None:
    async with httpx.AsyncClient(base_url=guarded.url, timeout=ANSWER_S, headers={"X-API-Key": FIRST}) as http:
        assert (await http.post("/model/predict", content=SECRET_PICTURE)).status_code == 415
        assert (await http.post("/model/predict", files={"file": SECRET_PICTURE})).status_code == 415
        assert (await http.post("/model/predict", content=b"\xff\xd8\xff\xe0" + SECRET_PICTURE)).status_code == 400
        about = (await http.get("/model/")).text
        assert (await http.get("/model/jobs/" + "0" * 22)).status_code == 404  # so Redis lets the service in
        assert (await http.get("/user/1")).status_code == 200
    await ask(guarded, f"/user/{SECOND}", X_API_Key=SECOND)
    keys_file.write_text("short")  # each replica says once that it keeps the old ones
    for path in ("/user/", "/model/"):
        assert (await ask(guarded, path, X_API_Key=FIRST)).status_code == 200
    secrets = [FIRST.encode(), SECOND.encode(), THIRD.encode(), SECRET_PICTURE, b"pl4nted-in"]
    shown = [about.encode(), guarded.output.read_bytes(), json.dumps(guarded.rest().applications()).encode()]
    shown += [(await ask_metrics(port)).encode() for port in metrics_ports(guarded)]
    assert any(b"ray_" in text for text in shown)
    [logs] = re.findall(r"logs\s+(/\S+)", guarded.printed())
    files = [path for path in Path(logs).parent.rglob("*") if path.is_file()]
    shown += [path.read_bytes() for path in files]
    assert any(b"API keys stay as they were" in text for text in shown)
    assert [secret for secret in secrets for text in shown if secret in text] == []


def metrics_ports(service: Service) -> set[int]:
    """Return the ports that tell metrics, Ray's own and HAProxy's."""
    own = {int(service.environment[f"RAY_SERVE_HAPROXY_{kind}_PORT"]) for kind in ("METRICS", "STATS")}
    return own | {port for role, _, port in open_sockets(service) if role in ("dashboard", "dashboard agent")}


async def ask_metrics(port: int) -> str:
    """Return what a port tells at /metrics, if it speaks HTTP there."""
    async with httpx.AsyncClient(timeout=ANSWER_S) as http:
        try:
            return (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        except httpx.HTTPError:
            return ""


LOOPBACK = ("127.0.0.1", "::1")


def listening(service: Service) -> set[tuple[str, str, str]]:
    """Return role, port (its number, or in which range) and `loopback` or `any` of each listening socket."""
    environment = service.environment
    names = {
        int(service.url.rsplit(":", 1)[-1]): "8000",
        int(environment["RAY_SERVE_HAPROXY_STATS_PORT"]): "8404",
        int(environment["RAY_SERVE_HAPROXY_METRICS_PORT"]): "9101",
        int(environment["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"]): "8500",
        int(service.printed().split("dashboard")[-1].split()[0].rsplit(":", 1)[-1]): "8265",
    }
    found = set()
    for role, address, port in open_sockets(service):
        kind = names.get(port) or ("30000-31000" if 30000 <= port <= 31000 else "random")
        found.add((role, kind, "loopback" if address in LOOPBACK else "any"))
    return found


def open_sockets(service: Service) -> set[tuple[str, str, int]]:
    """Return role, address and port of each listening socket."""
    found = set()
    for process in processes_of(service.environment):
        with suppress(psutil.NoSuchProcess):
            role = role_of(process)
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((role, connection.laddr.ip, connection.laddr.port))
    return found


def role_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    for pattern, role in (
        (r"bin/haproxy", "HAProxy"),
        (r"ray::ServeReplica", "replica"),
        (r"ray::ServeController", "Serve controller"),
        (r"ray::HAProxyManager", "HAProxy's manager"),
        (r"ray::ProxyActor", "Serve's proxy"),
        (r"gcs_server", "GCS"),
        (r"raylet/raylet", "raylet"),
        (r"autoscaler/.*monitor\.py", "autoscaler"),
        (r"ray::DashboardAgent", "dashboard agent"),
        (r"runtime_env/agent", "runtime-env agent"),
        (r"dashboard/agent\.py", "dashboard agent"),
        (r"dashboard/dashboard\.py|ray-dashboard", "dashboard"),
        (r"ray::IDLE|default_worker", "idle worker"),
        (r"-m serve_app", "launcher"),
    ):
        if re.search(pattern, line):
            return role
    return line[:80]


def test_the_ports_are_those_that_the_security_page_lists(guarded: Service) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    listed = {
        tuple(cell.strip() for cell in row[:3])
        for row in re.findall(r"^\| ([^|]+) \| ([^|]+) \| (loopback|any) \|", page, re.MULTILINE)
    }
    roles = {role for role, _, _ in listed}
    assert {row for row in listening(guarded) if row[0] in roles and row[1] != "random"} == listed


# One of each of Ray's gRPC services, and of Serve's between replicas.
CALLS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.serve.ASGIService/HandleRequest",
)


async def test_rays_own_ports_refuse_who_has_no_token(guarded: Service) -> None:
    """What everyone can connect to either asks for the token or only tells metrics, as the security page says."""
    told: dict[tuple[str, str], set[str]] = {}
    for role, address, port in open_sockets(guarded):
        if address in ("::", "0.0.0.0"):
            kind, answer = await ask_without_token(port)
            told.setdefault((role, kind), set()).add(answer)
    assert told[("GCS", "gRPC")] == told[("raylet", "gRPC")] == told[("replica", "gRPC")] == {"refused"}
    metrics = {role for (role, kind), _ in told.items() if kind == "metrics"}
    assert metrics <= {"dashboard", "dashboard agent", "autoscaler"}
    assert {answer for (_, kind), answers in told.items() if kind != "metrics" for answer in answers} == {"refused"}


async def ask_without_token(port: int) -> tuple[str, str]:
    """Return what a port speaks, and `refused` or what it told."""
    try:
        async with httpx.AsyncClient(timeout=ANSWER_S) as http:
            answer = await http.get(f"http://127.0.0.1:{port}/metrics")
    except httpx.HTTPError:
        return "gRPC", await call_without_token(port)
    if answer.status_code == 200 and answer.text.startswith("# HELP"):
        return "metrics", "told"
    return "HTTP", "refused" if answer.status_code == 401 else answer.text[:200]


async def call_without_token(port: int) -> str:
    codes = set()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in CALLS:
            try:
                await channel.unary_unary(method)(b"", timeout=ANSWER_S)
            except grpc.aio.AioRpcError as exc:
                codes.add(exc.code().name)
            else:
                return f"{method} was answered"
    return "refused" if "UNAUTHENTICATED" in codes and codes <= {"UNAUTHENTICATED", "UNIMPLEMENTED"} else str(codes)


def haproxy_of(service: Service) -> list[psutil.Process]:
    return [process for process in processes_of(service.environment) if "bin/haproxy" in process.cmdline()[0]]


async def test_haproxy_comes_back_hardened_after_a_kill(guarded: Service) -> None:
    [before] = haproxy_of(guarded)
    assert before.cmdline()[1] == "-db"
    os.kill(before.pid, signal.SIGKILL)
    deadline = time.monotonic() + 40
    while True:
        assert time.monotonic() < deadline
        try:
            answer = await ask(guarded, "/nothing")
            break
        except httpx.TransportError:
            await asyncio.sleep(0.2)
    assert_error(answer, 404, "not_found")
    [after] = haproxy_of(guarded)
    assert after.pid != before.pid
    addresses = {connection.laddr.ip for connection in after.net_connections("tcp") if connection.status == "LISTEN"}
    assert addresses == {"127.0.0.1"}


async def test_without_a_replica_the_answer_is_a_503_that_says_when_to_come_back(guarded: Service) -> None:
    """Serve's fallback proxy stands in for lost replicas; without both HAProxy itself answers."""
    lost = [
        process for process in processes_of(guarded.environment) if role_of(process) in {"replica", "Serve's proxy"}
    ]
    assert len(lost) >= 2
    for process in lost:
        process.kill()
    seen: list[httpx.Response] = []
    deadline = time.monotonic() + 20
    while not any(answer.status_code == 503 for answer in seen):
        assert time.monotonic() < deadline, [(answer.status_code, answer.text) for answer in seen]
        seen.append(await ask(guarded, "/user/", X_API_Key=FIRST))
    assert_error(seen[-1], 503, "not_ready")
    assert int(seen[-1].headers["Retry-After"]) >= 1
    assert {answer.headers["content-type"] for answer in seen} == {"application/json"}


def test_sigterm_leaves_nothing_of_it(guarded: Service) -> None:
    port = int(guarded.url.rsplit(":", 1)[-1])
    assert guarded.stop(signal.SIGTERM) == 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections may linger
        probe.bind(("127.0.0.1", port))
