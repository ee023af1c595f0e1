"""Starts the real service as a user would, as a process of its own, and sees to it that nothing of it is left."""

import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.options import CLASSIFIER, USERS
from serve_app.deployments.rest import ServeRest
from serve_app.entrance import haproxy_admin
from serve_app.entrance.environment import data_plane_environment
from serve_app.errors import SetupError
from serve_app.service_folder import claimed_folder, folder_of
from serve_app.users.settings import UsersSettings
from tests.failures import keep_on_failure
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
MARK = "SERVE_APP_TEST_RUN"
START_S = 500
"""Longest wait for a service, or for anything of one: a start takes 15 s on a quiet machine, a minute on a busy one."""
STOP_S = 60

PATIENT_MODEL: dict[str, object] = {"max_wait_s": 60, "deadline_s": 60}
PATIENT_USERS: dict[str, object] = {"pool_wait_s": 60, "statement_timeout_s": 60}
"""Settings for tests that are not about these limits: on a busy machine nothing is refused."""
QUICK_METRICS = {"RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "200", "RAY_metrics_report_interval_ms": "1000"}
"""Environment in which what has been counted is exported a second later. Serve waits 5 s by default, Ray 10 s."""

Found = TypeVar("Found")


def read_config(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CONFIGS / name).read_text())
    return config


def whole_config(name: str) -> dict[str, Any]:
    """Return a shipped config with every key written out that has a default, as the configs of 0.1.0 were."""
    config = read_config(name)
    config |= {"proxy_location": "EveryNode"}
    config["http_options"]["keep_alive_timeout_s"] = 90
    users, *models = config["applications"]
    users["args"] = UsersSettings.model_validate(users["args"]).model_dump(exclude_none=True)
    users["deployments"][0] |= USERS.model_dump()
    for model in models:
        model["args"] = ClassifierSettings.model_validate(model["args"]).model_dump(exclude_none=True)
        model["deployments"][0] |= CLASSIFIER.model_dump()
    return config


def adapted(
    name: str, *, port: int, model_args: dict[str, object], users_args: dict[str, object] | None = None
) -> dict[str, Any]:
    """Return a shipped config on another port, with `model_args` and `users_args` over the applications' settings."""
    config = read_config(name)
    config["http_options"]["port"] = port
    users, model = config["applications"]
    threads = {"threads": model["args"]["threads"]}
    users["args"] |= users_args or {}
    model["args"] |= model_args | threads
    return config


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """Write `config` with the shipped serve.env beside it."""
    (folder / "serve.env").write_text((CONFIGS / "serve.env").read_text())
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def own_environment(folder: Path) -> dict[str, str]:
    """Return an environment whose ports, token and processes are apart from any other service on this machine."""
    token = folder / "auth_token"
    token.write_text("0123456789abcdef" * 4)
    return {
        **{name: value for name, value in os.environ.items() if name != "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"},
        MARK: str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
    }


@dataclass
class Service:
    """A started service: its process, output file, and the addresses of its API and dashboard."""

    process: "subprocess.Popen[bytes]"
    output: Path
    url: str
    environment: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[-1])

    @property
    def dashboard(self) -> str:
        """Its URL, as the ready block names it."""
        named = re.search(r"^ *dashboard +(http\S+)", self.printed(), re.MULTILINE)
        assert named, self.printed()
        return named[1]

    def processes_environment(self) -> dict[str, str]:
        """Return the environment of a replica: with what the launcher adds."""
        [first, *_] = self.replicas()
        return first.environ()

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def logs(self) -> list[Path]:
        """Return what it printed, HAProxy's log, and the folder of Ray's logs."""
        named = re.search(r"^ *logs +(\S+)$", self.printed(), re.MULTILINE)
        return [self.output, self.output.with_name("haproxy.log"), *([Path(named[1])] if named else [])]

    def rest(self) -> ServeRest:
        """Return Serve's REST API at the address that the ready block names."""
        os.environ["RAY_AUTH_TOKEN_PATH"] = self.environment["RAY_AUTH_TOKEN_PATH"]
        return ServeRest(self.dashboard)

    def metrics(self) -> str:
        """Return all metrics that this service's own Ray exports, and no other Ray of this machine."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        url, headers = f"{self.dashboard}/api/prometheus/sd", {"Authorization": f"Bearer {token}"}
        groups = httpx.get(url, headers=headers, timeout=START_S).raise_for_status().json()
        texts = []
        for address in (address for group in groups for address in group["targets"]):
            # Autoscaler and dashboard have the same port in every Ray; where there are two, one may have taken it away.
            with suppress(httpx.TransportError):
                texts.append(httpx.get(f"http://{address}/metrics", timeout=START_S).text)
        return "".join(texts)

    def wait_for(self, condition: Callable[[], Found | None], what: str) -> Found:
        """Return what `condition` returns once that is true; fails at once when the process has ended."""
        deadline = time.monotonic() + START_S
        while not (found := condition()):
            assert self.process.poll() is None, f"ended before {what}\n{self.printed()}"
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.printed()}"
            time.sleep(0.1)
        return found

    def wait_until_ready(self) -> None:
        """Return when both applications answer 200 on /ready."""
        for path in ("/user/ready", "/model/ready"):
            self.wait_for(partial(self._answers, path), f"an answer of {path}")

    def wait_for_ready_block(self) -> None:
        """Return when the launcher has said where everything is, and so watches over HAProxy."""
        self.wait_for(lambda: "Ctrl-C" in self.printed(), "the ready block")

    def wait_until_routed(self) -> None:
        """Return when HAProxy knows every replica: it is not replaced any more, until one of them changes."""
        self.wait_for(self._is_routed, "HAProxy's last process, with all replicas")

    def _is_routed(self) -> bool:
        return len(self.haproxies()) == 1 and len(self.routed()) == len(self.replicas()) > 0

    def routed(self) -> set[str]:
        """Return HAProxy's names of the replicas to which it sends requests; a replaced one has another name."""
        told = "".join(haproxy_admin._ask(folder_of(self.port), "show servers state"))
        return set(re.findall(r" (SERVE_REPLICA_\S+)", told))

    def _answers(self, path: str) -> bool:
        try:
            return httpx.get(self.url + path, timeout=STOP_S).status_code == 200
        except httpx.TransportError:
            return False

    def haproxies(self) -> list[psutil.Process]:
        """Return the living processes of HAProxy, an older one that ends its requests among them."""
        return [each for each in processes_of(self.environment) if "/haproxy -" in command_of(each)]

    def replicas(self, application: str = "") -> list[psutil.Process]:
        """Return the living replicas of an application, or of all, the oldest first."""
        return self.titled(f"ray::ServeReplica:{application}:" if application else "ray::ServeReplica:")

    def titled(self, title: str) -> list[psutil.Process]:
        """Return the living processes whose command line begins so, the oldest first."""
        found = [each for each in processes_of(self.environment) if command_of(each).startswith(title)]
        return sorted(found, key=lambda process: process.create_time())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and return the exit code. Fails if that takes too long or leaves a process."""
        deadline = time.monotonic() + START_S
        self.process.send_signal(number)
        code = self.process.wait(START_S)
        while left := processes_of(self.environment):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
        return code


@contextmanager
def service(command: list[str], environment: dict[str, str], folder: Path, port: int) -> Iterator[Service]:
    """Run `command` in a process group of its own with its output in a file; kill what is left at the end."""
    output = folder / "output.txt"
    with ExitStack() as stack:
        stack.callback(remove_folder, port)
        log_port = stack.enter_context(syslog(folder / "haproxy.log"))
        environment = {**environment, "RAY_SERVE_HAPROXY_LOG_TARGET": f"127.0.0.1:{log_port}"}
        file = stack.enter_context(output.open("wb"))
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        started = Service(process, output, f"http://127.0.0.1:{port}", environment)
        stack.enter_context(keep_on_failure("service", started.logs))
        try:
            yield started
        finally:
            for left in processes_of(environment):
                with suppress(psutil.NoSuchProcess):
                    left.kill()
            process.wait(STOP_S)


def remove_folder(port: int) -> None:
    """Remove what a service that was killed has left, unless another one runs on the port."""
    with suppress(SetupError), claimed_folder(port, is_over=lambda: True):
        pass


@contextmanager
def syslog(path: Path) -> Iterator[int]:
    """Write what comes to a UDP port of its own, which is yielded, into a file: one line a datagram."""

    class Line(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            with path.open("ab") as file:
                file.write(self.rfile.read().rstrip() + b"\n")

    path.touch()
    with socketserver.UDPServer(("127.0.0.1", 0), Line) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def launcher(config: Path) -> list[str]:
    return [sys.executable, "-m", "serve_app", str(config)]


def serve_run(config: Path) -> list[str]:
    return [str(Path(sys.executable).with_name("serve")), "run", str(config)]


def without_data_plane(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment of a bare shell: nothing of serve.env in it."""
    return {
        name: value
        for name, value in environment.items()
        if name not in data_plane_environment(CONFIGS / "one_replica.yaml", {})
    }


def processes_of(environment: dict[str, str]) -> list[psutil.Process]:
    """Return the living processes that inherited this environment's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get(MARK) == environment[MARK]
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> str:
    """Return its command line; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""
