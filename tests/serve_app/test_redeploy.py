"""`serve_app.redeploy` talks to the service on the config's port, to no other one, and says so when there is none."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app import redeploy
from serve_app.service_folder import VARIABLE, claimed_folder, write_facts
from tests.service import read_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no locks of folders")
PORTS = (18_000, 18_001)


class Dashboard(BaseHTTPRequestHandler):
    """Refuses every config, and remembers that one came. Tells of itself what `tells` holds.

    One that `takes` it rolls it out without end. If it `interrupts`, somebody presses Ctrl-C meanwhile.
    """

    asked: list[int]
    tells: dict[str, Any]
    interrupts = takes = False

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.tells).encode())

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, HTTPServer)
        self.asked.append(self.server.server_port)
        if self.interrupts:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        self.send_response(200 if self.interrupts or self.takes else 400)
        self.end_headers()
        self.wfile.write(b"words that quote the config")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class Server(HTTPServer):
    """Has a dashboard. Says nothing of a client that leaves before its answer, as an interrupted one does."""

    def handle_error(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def dashboards(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Ports of the dashboards of two running services; those that were asked are in `Dashboard.asked`."""
    monkeypatch.setenv(VARIABLE, str(short_folder))
    monkeypatch.delenv("RAY_DASHBOARD_ADDRESS", raising=False)
    monkeypatch.setattr(Dashboard, "asked", [], raising=False)
    monkeypatch.setattr(Dashboard, "tells", {"http_options": None, "grpc_options": None}, raising=False)
    with ExitStack() as stack:
        found = []
        for port in PORTS:
            server = stack.enter_context(Server(("127.0.0.1", 0), Dashboard))
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            folder = stack.enter_context(claimed_folder(port, is_over=lambda: True))
            write_facts(folder, dashboard=f"http://127.0.0.1:{server.server_port}", metrics=folder / "none")
            found.append(server.server_port)
        yield found


def config_on(folder: Path, port: int) -> Path:
    config = read_config("one_replica.yaml")
    config["http_options"]["port"] = port
    path = folder / f"{port}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["redeploy", *map(str, arguments)])
    return redeploy.main()


def test_each_config_goes_to_the_service_on_its_port(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for port, dashboard in zip(PORTS, dashboards, strict=True):
        Dashboard.asked.clear()
        assert run(monkeypatch, config_on(tmp_path, port)) == 2
        assert Dashboard.asked == [dashboard]
        assert "Serve refused the config (status 400)" in capsys.readouterr().err


def test_without_a_service_on_that_port_nobody_is_asked(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, config_on(tmp_path, 18_002)) == 2
    assert Dashboard.asked == []
    assert "you run no service on port 18002" in capsys.readouterr().err
    assert len(dashboards) == 2


def test_ctrl_c_ends_it_in_one_line_that_says_that_the_rollout_goes_on(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Dashboard, "interrupts", True)
    assert run(monkeypatch, config_on(tmp_path, PORTS[0])) == 130
    assert capsys.readouterr().err == "interrupted: a rollout that has begun goes on in the service\n"
    assert Dashboard.asked == dashboards[:1]


def test_the_time_limit_ends_it_in_one_line_that_says_that_the_rollout_goes_on(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Dashboard, "takes", True)
    deploying = {"status": "DEPLOYING", "message": "", "deployments": {}}
    monkeypatch.setattr(Dashboard, "tells", {"applications": {"model": deploying}})
    assert run(monkeypatch, config_on(tmp_path, PORTS[0]), "--timeout-s", 0) == 1
    assert capsys.readouterr().err == (
        "still rolling out after 0 s (model: deploying); it goes on in the service; "
        f"look at http://127.0.0.1:{dashboards[0]}\n"
    )


@pytest.mark.parametrize("by", ["option", "environment"])
def test_another_dashboard_may_be_named(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    url = f"http://127.0.0.1:{dashboards[1]}"
    if by == "environment":
        monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", url)
    options = ["--dashboard", url] if by == "option" else []
    assert run(monkeypatch, config_on(tmp_path, PORTS[0]), *options) == 2
    assert Dashboard.asked == [dashboards[1]]


def test_two_models_with_one_job_queue_are_refused_also_where_this_shell_knows_no_redis(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    config = read_config("two_models.yaml")
    config["http_options"]["port"] = PORTS[0]
    path = tmp_path / "two_models.yaml"
    path.write_text(yaml.safe_dump(config))
    assert run(monkeypatch, path, "--set", "cats.jobs={queue: model}") == 2
    told = capsys.readouterr().err
    assert "applications[cats].args.jobs.queue: the queue model is that of application model too" in told
    assert "write, for example, `queue: cats`" in told
    assert Dashboard.asked == []
    run(monkeypatch, path)
    assert Dashboard.asked == dashboards[:1]


def test_a_tls_that_has_no_effect_before_ray_starts_again_is_a_warning(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second dashboard stands for an ingress: it speaks HTTP."""
    config = config_on(tmp_path, dashboards[1])
    config.write_text(f"{config.read_text()}\ntls: {{cert: /a.pem, key: /b.pem}}\n")
    run(monkeypatch, config, "--dashboard", f"http://127.0.0.1:{dashboards[0]}")
    assert "WARNING: tls: the ingress that runs speaks HTTP; " in capsys.readouterr().err
    assert Dashboard.asked == [dashboards[0]]


def warned(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the keys that redeploy has warned of."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING: ")]
    assert all("Serve takes it only at its start; start the service again" in line for line in lines)
    return [line.split()[1].rstrip(":") for line in lines]


def test_options_that_serve_takes_only_at_its_start_are_warnings(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Serve tells of itself what was set when it started."""
    config = config_on(tmp_path, PORTS[0])
    read = yaml.safe_load(config.read_text())
    read["http_options"] |= {"keep_alive_timeout_s": 90, "port": str(PORTS[0])}
    config.write_text(yaml.safe_dump(read))
    here = {"host": "127.0.0.1", "port": PORTS[0]}
    for running, changed in (
        (None, []),
        ({**here, "keep_alive_timeout_s": 90}, []),
        ({**here, "keep_alive_timeout_s": 60}, ["http_options.keep_alive_timeout_s"]),
        ({**here, "keep_alive_timeout_s": 90, "request_timeout_s": 5.0}, ["http_options.request_timeout_s"]),
        ({"port": PORTS[0], "keep_alive_timeout_s": 90}, ["http_options.host"]),
    ):
        monkeypatch.setattr(Dashboard, "tells", {"http_options": running, "grpc_options": {"port": 9000}})
        assert run(monkeypatch, config) == 2
        assert warned(capsys) == changed
    assert set(Dashboard.asked) == {dashboards[0]}


def test_another_proxy_location_is_a_warning(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_on(tmp_path, PORTS[0])
    for running, changed in (("EveryNode", []), ("HeadOnly", ["proxy_location"])):
        monkeypatch.setattr(Dashboard, "tells", {"proxy_location": running})
        assert run(monkeypatch, config) == 2
        assert warned(capsys) == changed
    assert Dashboard.asked == dashboards[:1] * 2


def test_grpc_that_was_added_is_a_warning(
    dashboards: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_on(tmp_path, PORTS[0])
    read = yaml.safe_load(config.read_text())
    read["grpc_options"] = {"grpc_servicer_functions": ["serve_app.open_inference.grpc_service:x"]}
    for application in read["applications"]:
        application["args"]["auth"] = "none"
    config.write_text(yaml.safe_dump(read))
    monkeypatch.setattr(Dashboard, "tells", {"http_options": read["http_options"], "grpc_options": {}})
    assert run(monkeypatch, config) == 2
    assert warned(capsys) == ["grpc_options.grpc_servicer_functions"]
    assert Dashboard.asked == dashboards[:1]
