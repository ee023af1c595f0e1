"""The live service from outside: people without a key, slow clients, bytes that are no HTTP, ports, logs."""

import asyncio
import base64
import json
import re
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from serve_app.open_inference.grpc_messages import METHODS, SERVICE, message_class
from serve_app.open_inference.grpc_service import OPEN_METHODS
from tests.conftest import Fitted
from tests.serve_app.classifier.test_model_api import assert_error
from tests.serve_app.running.shared import ANSWER_S, KEY, LATER_KEY, PASSWORDS, SECOND_KEY, client_of, grpc_port_of
from tests.service import ROOT, Service, command_of, processes_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux only")

APPLICATIONS = ("Users", "Classifier")
SECRET_PICTURE = b"these bytes of a picture belong into no log"


@dataclass
class Answer:
    """What came back on a bare socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def read(cls, raw: bytes) -> "Answer":
        head, _, body = raw.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        assert line.startswith("HTTP/1."), raw[:200]
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        return cls(int(line.split()[1]), headers, body)

    def assert_in_shape(self) -> str:
        """Return the code of an error in the error shape."""
        assert self.headers["content-type"] == "application/json", self
        assert self.headers["x-request-id"], self
        found = json.loads(self.body)
        assert set(found) == {"code", "detail", "request_id"}
        assert found["request_id"] == self.headers["x-request-id"]
        return str(found["code"])


@dataclass
class Connection:
    """A bare connection to the service."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, running: Service) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", running.port))

    async def ask(self, sent: bytes, drip: bytes = b"") -> Answer:
        """Send bytes, and `drip` again and again until the answer is there; return that."""
        self.writer.write(sent)
        dripping = asyncio.create_task(self._drip(drip))
        try:
            return Answer.read(await asyncio.wait_for(self._read_answer(), ANSWER_S))
        finally:
            dripping.cancel()
            self.writer.close()

    async def _drip(self, drip: bytes) -> None:
        while drip:
            self.writer.write(drip)
            await asyncio.sleep(0.2)

    async def _read_answer(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        return head + (await self.reader.readexactly(int(length[1])) if length else await self.reader.read())


async def send(running: Service, sent: bytes) -> Answer:
    """Return the answer to these bytes, after which the connection stays open."""
    return await (await Connection.open(running)).ask(sent)


def head(line: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([line, b"Host: x", b"X-API-Key: " + KEY.encode(), *fields, b"", b""])


async def ask(running: Service, path: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=running.url, timeout=ANSWER_S) as http:
        return await http.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "path", ["/user/", "/user/1", "/user/nothing/here", "/model/", "/model/predict", "/model/ready/"]
)
async def test_without_a_key_nothing_is_told(running: Service, path: str) -> None:
    answer = await ask(running, path)
    assert_error(answer, 401, "unauthorized", "Authorization: Bearer KEY")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"]


@pytest.mark.parametrize("given", ["", "x", KEY[:-1], KEY + "x", KEY.upper(), "Bearer", "ä" * 20])
async def test_a_wrong_key_is_no_key(running: Service, given: str) -> None:
    raw = given.encode()
    for field in (b"X-API-Key: " + raw, b"Authorization: Bearer " + raw, b"Authorization: Basic " + raw):
        line = b"GET /user/ HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n\r\n"
        answer = await send(running, line)
        assert (answer.status, answer.assert_in_shape()) == (401, "unauthorized")


async def test_every_key_opens_both_applications_either_way(running: Service) -> None:
    for key in (KEY, SECOND_KEY):
        for path in ("/user/", "/model/"):
            assert (await ask(running, path, Authorization=f"Bearer {key}")).status_code == 200
            assert (await ask(running, path, X_API_Key=key)).status_code == 200


async def test_readiness_and_the_pages_stay_open(running: Service) -> None:
    for application in ("user", "model"):
        for page in ("ready", "docs", "redoc", "openapi.json"):
            assert (await ask(running, f"/{application}/{page}")).status_code == 200
        document = (await ask(running, f"/{application}/openapi.json")).json()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}
        assert "401" in document["paths"]["/"]["get"]["responses"]
        assert "security" not in document["paths"]["/ready"]["get"]


async def test_a_refused_upload_gets_its_answer_and_no_reset(running: Service) -> None:
    async with httpx.AsyncClient(base_url=running.url, timeout=ANSWER_S) as http:
        assert_error(await http.post("/model/predict", content=b"x" * 9_000_000), 401, "unauthorized")
        known = {"X-API-Key": KEY}
        large = await http.post("/model/predict", content=b"x" * 25_000_000, headers=known)
        assert_error(large, 413, "upload_too_large", "10,000,000 bytes")


async def test_keys_are_exchanged_without_a_restart(running: Service, keys_file: Path) -> None:
    assert (await ask(running, "/user/", X_API_Key=LATER_KEY)).status_code == 401
    given = keys_file.read_text()
    keys_file.write_text(f"{KEY},{LATER_KEY}\n")
    try:
        for path in ("/user/", "/model/"):
            assert (await ask(running, path, X_API_Key=LATER_KEY)).status_code == 200
            assert (await ask(running, path, X_API_Key=SECOND_KEY)).status_code == 401
            assert (await ask(running, path, X_API_Key=KEY)).status_code == 200
    finally:
        keys_file.write_text(given)
    for path in ("/user/", "/model/"):
        assert (await ask(running, path, X_API_Key=LATER_KEY)).status_code == 401
        assert (await ask(running, path, X_API_Key=SECOND_KEY)).status_code == 200


LINE = b"POST /model/predict HTTP/1.1"
SLOW = {
    "headers": (b"GET /user/ HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a"),
    "dripped": (head(LINE, b"Content-Length: 5000"), b"a"),
    "stopped": (head(LINE, b"Content-Length: 5000") + b"a", b""),
    "chunked": (head(LINE, b"Transfer-Encoding: chunked"), b"1\r\na\r\n"),
    "form": (head(LINE, b"Content-Length: 5000", b"Content-Type: multipart/form-data; boundary=b"), b"a"),
}
"""What a slow client sends first, and then again and again."""
EACH = 40
LOOK_UP_EVERY_S = 0.2


@dataclass
class Siege:
    """What came of many slow clients at once, and of others beside them."""

    answers: dict[str, list[Answer]]
    lookups: int
    """Those answered before the first slow client was."""
    prediction: str


@pytest.fixture(scope="module")
async def siege(running: Service, fitted: Fitted) -> Siege:
    connections = {kind: [await Connection.open(running) for _ in range(EACH)] for kind in SLOW}
    slow = {
        kind: [asyncio.create_task(connection.ask(*SLOW[kind])) for connection in connections[kind]] for kind in SLOW
    }
    waiting = [task for tasks in slow.values() for task in tasks]
    await asyncio.sleep(0)  # each has sent something
    lookups = 0
    async with client_of(running) as http:
        predicted = asyncio.create_task(http.post("/model/predict", content=fitted.pictures["thing 7"]))
        while not any(task.done() for task in waiting):
            assert (await http.get("/user/")).status_code == 200
            lookups += not any(task.done() for task in waiting)
            await asyncio.sleep(LOOK_UP_EVERY_S)
        prediction = (await predicted).json()["prediction"]
    return Siege({kind: await asyncio.gather(*tasks) for kind, tasks in slow.items()}, lookups, prediction)


async def test_headers_that_drip_get_a_408(siege: Siege) -> None:
    assert [answer.status for answer in siege.answers["headers"]] == [408] * EACH


@pytest.mark.parametrize("kind", ["dripped", "stopped", "chunked", "form"])
async def test_a_body_that_drips_or_stops_gets_a_408_from_the_replica(siege: Siege, kind: str) -> None:
    assert [answer.status for answer in siege.answers[kind]] == [408] * EACH
    assert {answer.assert_in_shape() for answer in siege.answers[kind]} == {"upload_too_slow"}


async def test_others_are_answered_while_slow_clients_wait(siege: Siege) -> None:
    assert siege.lookups > 0
    assert siege.prediction == "thing 7"


ODD = {
    "unknown path": (head(b"GET /nothing HTTP/1.1"), 404),
    "root": (head(b"POST / HTTP/1.1", b"Content-Length: 0"), 404),
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
    "an unknown coding": (
        head(b"POST /model/predict HTTP/1.1", b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        422,
    ),
    "an unknown coding alone": (head(b"POST /model/predict HTTP/1.1", b"Transfer-Encoding: gzip"), 400),
    "bad chunk": (head(b"POST /model/predict HTTP/1.1", b"Transfer-Encoding: chunked") + b"zz\r\n", 400),
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_requests_get_a_4xx_in_the_error_shape(running: Service, name: str) -> None:
    request, status = ODD[name]
    answer = await send(running, request)
    assert answer.status == status, answer
    answer.assert_in_shape()


@pytest.mark.parametrize("name", NO_HTTP)
async def test_what_is_no_http_gets_a_4xx_and_no_hang(running: Service, name: str) -> None:
    request, status = NO_HTTP[name]
    answer = await send(running, request)
    assert answer.status == status, answer
    assert len(answer.body) < 200  # HAProxy's own short page, in which nothing of the request comes back
    assert b"<h1>%d " % status in answer.body


HANDSHAKE = (
    b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
)  # fmt: skip


@pytest.mark.parametrize("path", [b"/user/", b"/model/", b"/model/nothing", b"/nothing"])
async def test_a_websocket_handshake_gets_a_404_in_the_error_shape(running: Service, path: bytes) -> None:
    answer = await send(running, head(b"GET " + path + b" HTTP/1.1", *HANDSHAKE))
    assert (answer.status, answer.assert_in_shape()) == (404, "not_found")


async def test_successes_carry_the_id_that_the_client_gave_or_a_new_one(running: Service) -> None:
    given = await ask(running, "/user/", X_API_Key=KEY, X_Request_ID="order-66:a.b_c")
    assert given.headers["X-Request-ID"] == "order-66:a.b_c"
    for forged in ("a" * 129, "one two", 'x"} {"level":"ERROR', "<script>"):
        answer = await ask(running, "/user/", X_API_Key=KEY, X_Request_ID=forged)
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
async def test_head_answers_as_get_does_without_a_body(running: Service, path: str, status: int) -> None:
    """On one connection: a byte of a body would be taken for the beginning of the next answer."""
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=running.url, timeout=ANSWER_S, limits=limits) as http:
        for key in ({}, {"X-API-Key": KEY}):
            head, body, again = [await http.request(method, path, headers=key) for method in ("HEAD", "GET", "HEAD")]
            assert {head.status_code, again.status_code} == {body.status_code}
            assert body.status_code in (status, 401)
            assert head.content == again.content == b""
            assert head.headers["Content-Type"] == body.headers["Content-Type"]
            assert int(head.headers["Content-Length"]) == len(body.content) > 0
        assert body.status_code == status


async def test_what_a_405_allows_has_head_in_it(running: Service) -> None:
    async with client_of(running) as http:
        job = "/model/jobs/" + "0" * 22
        for method, path, allowed in (
            ("OPTIONS", "/user/", "GET, HEAD"),
            ("POST", "/model/ready", "GET, HEAD"),
            ("PUT", job, "DELETE, GET, HEAD"),
            ("FROBNICATE", "/user/", "GET, HEAD, POST, DELETE"),  # by HAProxy, which does not know the paths' own
        ):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


async def test_no_log_shows_a_key_a_password_or_a_picture(running: Service, keys_file: Path) -> None:
    async with client_of(running) as http:
        assert (await http.post("/model/predict", content=SECRET_PICTURE)).status_code == 415
        assert (await http.post("/model/predict", files={"file": SECRET_PICTURE})).status_code == 415
        assert (await http.post("/model/predict", content=b"\xff\xd8\xff\xe0" + SECRET_PICTURE)).status_code == 400
        about = (await http.get("/model/")).text
        assert (await http.get("/model/jobs/" + "0" * 22)).status_code == 404  # so Redis lets the service in
        assert (await http.get("/user/1")).status_code == 200
    await ask(running, f"/user/{SECOND_KEY}", X_API_Key=SECOND_KEY)
    valid = keys_file.read_text()
    keys_file.write_text("short")  # each replica says once that it keeps the old ones
    for path in ("/user/", "/model/"):
        assert (await ask(running, path, X_API_Key=KEY)).status_code == 200
    keys_file.write_text(valid)
    [logs] = re.findall(r"logs\s+(/.+)", running.printed())
    told = b"API keys stay as they were"

    def both_have_told() -> bool:
        return all(any(told in path.read_bytes() for path in Path(logs).glob(f"*{name}*")) for name in APPLICATIONS)

    await asyncio.to_thread(running.wait_for, both_have_told, "what replicas say of the file with keys")
    secrets = [KEY.encode(), SECOND_KEY.encode(), LATER_KEY.encode(), SECRET_PICTURE, PASSWORDS.encode()]
    shown = [about.encode(), running.output.read_bytes(), json.dumps(running.rest().applications()).encode()]
    metrics = running.metrics()
    assert "ray_" in metrics
    shown += [metrics.encode()]
    shown += [path.read_bytes() for path in Path(logs).parent.rglob("*") if path.is_file()]
    assert [secret for secret in secrets for text in shown if secret in text] == []


LOOPBACK = ("127.0.0.1", "::1")
REPLICAS = {"30000-32499": range(30_000, 32_500), "40000-42499": range(40_000, 42_500)}


def listening(running: Service) -> set[tuple[str, str, str]]:
    """Return role, port (its number, or in which range) and `loopback` or `any` of each listening socket."""
    environment = running.environment
    names = {
        running.port: "8000",
        int(environment["RAY_SERVE_HAPROXY_STATS_PORT"]): "8404",
        int(environment["RAY_SERVE_HAPROXY_METRICS_PORT"]): "9101",
        int(environment["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"]): "8500",
        int(running.dashboard.rsplit(":", 1)[-1]): "8265",
        grpc_port_of(running): "9000",
        int(environment["RAY_SERVE_FALLBACK_PROXY_GRPC_PORT"]): "9500",
    }
    found = set()
    for role, address, port in open_sockets(running):
        # Ports that Ray's own processes are given by the system may lie in these blocks too.
        blocks = [name for name, block in REPLICAS.items() if role == "replica" and port in block]
        kind = names.get(port) or (blocks[0] if blocks else "random")
        found.add((role, kind, "loopback" if address in LOOPBACK else "any"))
    return found


def open_sockets(running: Service) -> set[tuple[str, str, int]]:
    """Return role, address and port of each listening socket."""
    found = set()
    for process in processes_of(running.environment):
        with suppress(psutil.NoSuchProcess):
            role = role_of(process)
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((role, connection.laddr.ip, connection.laddr.port))
    return found


def role_of(process: psutil.Process) -> str:
    line = command_of(process)
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


def test_the_ports_are_those_that_the_security_page_lists(running: Service) -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    listed = {
        tuple(cell.strip() for cell in row[:3])
        for row in re.findall(r"^\| ([^|]+) \| ([^|]+) \| (loopback|any) \|", page, re.MULTILINE)
    }
    roles = {role for role, _, _ in listed}
    assert {row for row in listening(running) if row[0] in roles and row[1] != "random"} == listed


# One of each of Ray's gRPC services, and of Serve's between replicas.
CALLS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/HealthCheck",
    "/ray.serve.ASGIService/HandleRequest",
)


async def test_rays_own_ports_refuse_who_has_no_token(running: Service) -> None:
    """What everyone can connect to either asks for the token or only tells metrics, as the security page says."""
    told: dict[tuple[str, str], set[str]] = {}
    of_serve = grpc_ports(running)
    for role, address, port in open_sockets(running):
        if address in ("::", "0.0.0.0") and port not in of_serve:
            kind, answer = await ask_without_token(port)
            if answer not in ("refused", "told") and (role, address, port) not in open_sockets(running):
                continue  # its process has ended meanwhile
            told.setdefault((role, kind), set()).add(answer)
    assert told[("GCS", "gRPC")] == told[("raylet", "gRPC")] == told[("replica", "gRPC")] == {"refused"}
    metrics = {role for (role, kind), _ in told.items() if kind == "metrics"}
    assert metrics <= {"dashboard", "dashboard agent", "autoscaler"}
    assert {answer for (_, kind), answers in told.items() if kind != "metrics" for answer in answers} == {"refused"}


def grpc_ports(running: Service) -> dict[int, str]:
    """Return the ports of Serve's gRPC ingress that are open on every interface, and whose they are."""
    proxy = int(running.environment["RAY_SERVE_FALLBACK_PROXY_GRPC_PORT"])
    return {
        port: role
        for role, address, port in open_sockets(running)
        if address in ("::", "0.0.0.0") and (port == proxy or (role == "replica" and port in REPLICAS["40000-42499"]))
    }


async def test_the_grpc_ports_tell_nothing_without_a_key(running: Service) -> None:
    """A port of a replica answers for its own application, Serve's proxy for the one that the metadata name."""
    seen = Counter[str]()
    found = grpc_ports(running)
    for port, role in found.items():
        for application in ("", "model", "users"):
            codes = [await grpc_code(port, method, application) for method in METHODS if method not in OPEN_METHODS]
            assert set(codes) <= {"UNAUTHENTICATED", "UNIMPLEMENTED", "NOT_FOUND"}, (port, application, codes)
            seen.update({f"{role} {codes[0]}": 1})
    assert {"replica UNAUTHENTICATED", "replica UNIMPLEMENTED", "Serve's proxy UNAUTHENTICATED"} <= seen.keys()
    for name, key in (("x-api-key", KEY), ("authorization", f"Bearer {KEY}")):
        assert await grpc_code(grpc_port_of(running), "ServerMetadata", "", (name, key)) == "OK"
    for key in ("", KEY[:-1], KEY.upper()):
        assert await grpc_code(grpc_port_of(running), "ServerMetadata", "", ("x-api-key", key)) == "UNAUTHENTICATED"
    assert await grpc_code(grpc_port_of(running), "ServerReady") == "OK"


async def grpc_code(port: int, method: str, application: str = "", *metadata: tuple[str, str]) -> str:
    """Return the status of an empty request."""
    named = [("application", application)] if application else []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            await call(b"", timeout=ANSWER_S, metadata=[*named, *metadata])
        except grpc.aio.AioRpcError as exc:
            return str(exc.code().name)
    return "OK"


async def test_a_picture_over_grpc_is_answered_as_over_http(running: Service, fitted: Fitted) -> None:
    """Stock clients name no application."""
    picture = fitted.pictures["thing 7"]
    tensor = {"name": "pictures", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [picture]}}
    request = message_class("ModelInferRequest")(model_name="resnet50", inputs=[tensor])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port_of(running)}") as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        raw = await call(request.SerializeToString(), timeout=ANSWER_S, metadata=[("x-api-key", KEY)])
    answer = message_class("ModelInferResponse").FromString(raw)
    assert answer.outputs[0].contents.bytes_contents[0] == b"thing 7"
    body = {"inputs": [{**tensor, "contents": None, "data": [base64.b64encode(picture).decode()]}]}
    async with client_of(running) as http:
        for path in ("/v2", "/model/v2"):
            response = await http.post(f"{path}/models/resnet50/infer", json=body)
            assert response.json()["outputs"][0]["data"][0] == "thing 7"
        refused = await http.get("/v2/models/nothing")
        assert (refused.status_code, list(refused.json())) == (404, ["error"])
    refused = await ask(running, "/v2/models")
    assert (refused.status_code, list(refused.json())) == (401, ["error"])
    assert (await ask(running, "/v2/health/ready")).json() == {"ready": True}


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
