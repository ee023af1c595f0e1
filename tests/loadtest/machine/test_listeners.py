"""Of several services on a machine the kit finds the processes of the one at a URL, and the metrics of that one."""

import json
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from loadtest.fuzz.memory import find_watched
from loadtest.machine.listeners import find_anywhere, find_service_processes
from loadtest.measure.target_metrics import save_metrics
from loadtest.plan.targets import TargetMetrics, discovery_path
from tests.ports import free_port

WORKER = re.compile("WORKER-OF-A-TEST")
# A parent with two workers and an ingress; only the ingress listens, as with Ray.
SERVICE = textwrap.dedent(
    """
    import subprocess, sys
    port, listen = sys.argv[1:]
    worker = "import time; print('up', flush=True); time.sleep(600)"
    name = "WORKER" + "-OF-A-TEST"  # not in the command line of this process
    ingress = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); "
    ingress += "print('up', flush=True); time.sleep(600)"
    commands = [["-c", worker, name], ["-c", worker, name], ["-c", ingress, port]][: 3 if listen == "yes" else 2]
    children = [subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE) for command in commands]
    for child in children:
        child.stdout.readline()
    print("up", flush=True)
    sys.stdin.read()
    for child in children:
        child.kill()
        child.wait()
    """
)


@contextmanager
def running_service(port: int, *, listens: bool = True) -> Iterator[psutil.Popen]:
    command = [sys.executable, "-c", SERVICE, str(port), "yes" if listens else "no"]
    with psutil.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.communicate()


@pytest.fixture(scope="module")
def services() -> Iterator[dict[str, list[psutil.Process]]]:
    """Two services whose processes have the same names: the workers of each by its URL."""
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        started = [stack.enter_context(running_service(port)) for port in ports]
        workers = [[each for each in one.children() if "WORKER-OF-A-TEST" in each.cmdline()] for one in started]
        yield {f"http://127.0.0.1:{port}": found for port, found in zip(ports, workers, strict=True)}


def test_each_service_has_its_own_workers(services: dict[str, list[psutil.Process]]) -> None:
    for url, workers in services.items():
        assert len(workers) == 2
        assert find_service_processes(url, WORKER) == workers
        assert find_watched(url, WORKER) == workers
    everybody = {process for workers in services.values() for process in workers}
    assert everybody <= set(find_anywhere(WORKER))


def test_a_service_without_such_processes_gets_none_of_its_neighbour(services: dict[str, list[psutil.Process]]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):  # in this process, above both services
        assert find_service_processes(f"http://127.0.0.1:{port}", WORKER) == []
        assert find_watched(f"http://127.0.0.1:{port}", None) == []
    assert services


@pytest.mark.parametrize("url", ["http://192.0.2.1:8000", "http://no-such-host.invalid", "http://127.0.0.1:1"])
def test_of_a_service_elsewhere_nothing_is_known(services: dict[str, list[psutil.Process]], url: str) -> None:
    assert find_service_processes(url, WORKER) is None
    assert find_watched(url, None) == []
    assert services


def test_a_process_beside_the_service_is_found_when_it_is_asked_for(services: dict[str, list[psutil.Process]]) -> None:
    url = next(iter(services))
    with running_service(free_port(), listens=False) as beside:
        own = re.compile(f"{re.escape(SERVICE.splitlines()[1])}[^§]* no$")
        assert find_watched(url, own) == [psutil.Process(beside.pid)]


def test_a_service_that_listens_everywhere_is_found_by_any_of_its_addresses() -> None:
    port = free_port()
    code = f"import socket, time; s = socket.create_server(('', {port})); print('up', flush=True); time.sleep(600)"
    with psutil.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "up\n"
            for host in ("127.0.0.1", "localhost"):
                assert find_service_processes(f"http://{host}:{port}", re.compile("create_server")) == [server]
        finally:
            server.kill()


# Metrics


def test_the_metrics_are_those_of_the_service_at_the_targets_port(
    tmp_path: Path, exporters: "list[tuple[int, str]]"
) -> None:
    metrics = TargetMetrics(discovery=str(tmp_path / "{port}.json"))
    for port, (exporter, _) in zip((8000, 8001), exporters, strict=True):
        (tmp_path / f"{port}.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{exporter}"]}]))
    for port, (_, text) in zip((8000, 8001), exporters, strict=True):
        assert save_metrics(metrics, f"http://127.0.0.1:{port}", tmp_path / "saved.prom") is None
        assert (tmp_path / "saved.prom").read_text() == text
    fault = save_metrics(metrics, "http://127.0.0.1:8002", tmp_path / "saved.prom")
    assert fault
    assert "8002.json cannot be read" in fault


@pytest.fixture
def exporters() -> "Iterator[list[tuple[int, str]]]":
    """Two exporters of metrics: port and text of each."""
    code = "import sys\nfrom http.server import *\nclass H(BaseHTTPRequestHandler):\n def do_GET(s):\n"
    code += "  s.send_response(200); s.end_headers(); s.wfile.write(sys.argv[1].encode())\n"
    code += "h = HTTPServer(('127.0.0.1', 0), H)\nprint(h.server_port, flush=True)\nh.serve_forever()"
    with ExitStack() as stack:
        found: list[tuple[int, str]] = []
        for text in ("first 1\n", "second 2\n"):
            process = subprocess.Popen(
                [sys.executable, "-c", code, text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout
            found.append((int(process.stdout.readline()), text))
        assert all(httpx.get(f"http://127.0.0.1:{port}", timeout=60).text == text for port, text in found)
        yield found


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://127.0.0.1:8001", "/run/7/8001"),
        ("http://service", "/run/7/80"),
        ("https://service/path", "/run/7/443"),
    ],
)
def test_port_and_user_stand_in_the_name_of_the_file(monkeypatch: pytest.MonkeyPatch, url: str, path: str) -> None:
    monkeypatch.setattr("os.getuid", lambda: 7)
    assert discovery_path("/run/{user}/{port}", url) == Path(path)
    monkeypatch.setenv("SERVE_APP_RUN_DIR", "/run/7")
    assert discovery_path("{run_dir}/{port}", url) == Path(path)
    monkeypatch.delenv("SERVE_APP_RUN_DIR")
    assert discovery_path("{run_dir}/{port}", url) == Path("/tmp/serve-app-7", Path(path).name)


@pytest.mark.parametrize("discovery", ["/run/{host}/x", "/run/{}", "/run/{port"])
def test_other_braces_are_a_fault_of_the_plan(discovery: str) -> None:
    with pytest.raises(ValueError, match=r"only .port., .user. and .run_dir. may stand in braces"):
        TargetMetrics(discovery=discovery)
