"""Starts the service as `make serve` does, waits until it answers, stops it, and tells its processes apart by role.

Every process of it carries a mark in its environment and is known by pid: nothing else on the machine is touched,
and what is left after the stop is found, named and killed, also after Ctrl-C or SIGTERM.
"""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from tests.benchmarks.report import GENERATOR, OTHERS, ROOT, progress

# Relative, as they are written into the report; every benchmark runs in the project folder.
CONFIGS = Path("configs")
SHIPPED = (CONFIGS / "one_replica.yaml", CONFIGS / "two_replicas.yaml")
MARK = "SERVE_APP_BENCHMARK"
PORTS_FREE_S = 120
START_S = 600
STOP_S = 40
POLL_S = 0.05

# Role and what stands in the command line of its processes; the first match wins.
_ROLES = (
    ("HAProxyManager", "ray::HAProxyManager"),
    ("fallback ProxyActor", "ray::ProxyActor"),
    ("controller", "ray::ServeController"),
    ("agents", "ray::DashboardAgent"),
    ("agents", "ray::RuntimeEnvAgent"),
    ("log and autoscaler monitors", "log_monitor.py"),
    ("log and autoscaler monitors", "autoscaler/_private/monitor.py"),
    ("dashboard", "dashboard/dashboard.py"),
    ("dashboard", "ray-dashboard-"),
    ("dashboard", "multiprocessing."),
    ("raylet + GCS", "core/src/ray/raylet/raylet"),
    ("raylet + GCS", "gcs/gcs_server"),
    ("launcher", "-m serve_app"),
    ("HAProxy", "bin/haproxy"),
)


@dataclass(frozen=True)
class Stop:
    """How a stop went: seconds from SIGTERM until the launcher had ended, and what still ran at that moment."""

    took_s: float
    left: list[str]


@dataclass
class Service:
    """A service that answers: its launcher, its address, and how long it took from exec until both said ready."""

    launcher: "subprocess.Popen[bytes]"
    output: Path
    client: httpx.Client
    mark: str
    ready_s: float = 0.0
    stop_result: Stop | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return str(self.client.base_url).rstrip("/")

    def ready_as_told_s(self) -> float:
        """Return the launcher's own figure."""
        deadline = time.monotonic() + START_S
        while not (told := re.search(r"READY after ([\d.]+) s", self.printed())):
            if time.monotonic() > deadline or self.launcher.poll() is not None:
                raise RuntimeError(f"the launcher did not say READY:\n{self.printed()}")
            time.sleep(POLL_S)
        return float(told[1])

    def printed(self) -> str:
        """Return what the launcher has printed."""
        return self.output.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Return the launcher and everything below it."""
        try:
            launcher = psutil.Process(self.launcher.pid)
            return [launcher, *launcher.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def processes_by_role(self) -> list[tuple[psutil.Process, str]]:
        """Return those processes, each with what it is there for."""
        found = []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                found.append((process, _role_of(process)))
        return found

    def stop(self) -> Stop:
        """Send SIGTERM, wait for the launcher's end, and kill what it left. The second call returns the first's."""
        if self.stop_result is None:
            with _undisturbed():
                self.stop_result = self._stop()
        return self.stop_result

    def _stop(self) -> Stop:
        known = self.processes()
        began = time.monotonic()
        self.launcher.terminate()
        try:
            self.launcher.wait(STOP_S)
        except subprocess.TimeoutExpired:
            progress(f"the launcher did not end within {STOP_S} s of SIGTERM")
        took_s = time.monotonic() - began
        self.client.close()
        left = [process for process in {*known, *_marked(self.mark)} if _runs(process)]
        result = Stop(took_s, [_describe(process) for process in left])
        for process in left:
            _kill(process)
        psutil.wait_procs(left, timeout=5)
        self.launcher.poll()
        return result


@contextmanager
def running_service(config: Path, *, folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Serve `config` while the block runs, with its database in `folder`; yield once every application is ready.

    `environment` is set over what serve.env beside the config says. Raises RuntimeError when a port stays in use,
    when the launcher ends early, or when the stop leaves a process.
    """
    wanted = yaml.safe_load(config.read_text(encoding="utf-8"))
    wait_until_free((wanted["http_options"]["port"],))
    service = _launch(config, wanted, folder, environment or {})
    try:
        _wait_until_ready(service, wanted)
        yield service
    finally:
        stop = service.stop()
        if stop.left:
            progress(f"left by the stop, now killed: {', '.join(stop.left)}")


@contextmanager
def running_child(command: list[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a helper process in a group of its own while the block runs, then end that group."""
    child = subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **options)
    try:
        yield child
    finally:
        with _undisturbed():
            _end_group(child)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder for databases, outputs and configs that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="serve-app-benchmark-") as name:
        yield Path(name)


def free_port() -> int:
    """Return a port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """Write `config` with the shipped serve.env beside it, and return its path."""
    shutil.copy(CONFIGS / "serve.env", folder)
    path = folder / "benchmark.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def application_of(config: Path, name: str) -> dict[str, Any]:
    """Return the part of a config file that describes the application `name`."""
    applications = yaml.safe_load(config.read_text(encoding="utf-8"))["applications"]
    found: dict[str, Any] = next(application for application in applications if application["name"] == name)
    return found


def service_environment(folder: Path) -> dict[str, str]:
    """Return this environment with a database of the benchmark's own in `folder`, and without Redis."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    return {**inherited, "SERVE_APP_DATA_DIR": str(folder), "PYTHONPATH": str(ROOT)}


@contextmanager
def cpu_by_role(read: Callable[[], list[tuple[psutil.Process, str]]]) -> Iterator[dict[str, float]]:
    """Yield a dict that after the block holds each role's CPU use during it, in percent of one core.

    `read` returns the processes and their roles as they are now, as Service.processes_by_role does. GENERATOR is this
    process with the children that ended in the block; OTHERS is the rest of the machine.
    """
    usage: dict[str, float] = defaultdict(float)
    before_s = {process: _cpu_s(process) for process, _ in read()}
    own_before_s, machine_before_s, began = _own_cpu_s(), _machine_cpu_s(), time.monotonic()
    yield usage
    elapsed_s = time.monotonic() - began
    for process, role in read():
        usage[role] += 100 * (_cpu_s(process) - before_s.get(process, 0.0)) / elapsed_s
    usage[GENERATOR] = 100 * (_own_cpu_s() - own_before_s) / elapsed_s
    whole = 100 * (_machine_cpu_s() - machine_before_s) / elapsed_s
    usage[OTHERS] = max(0.0, whole - sum(usage.values()))


def wait_until_free(ports: Iterable[int]) -> None:
    """Return when all `ports` can be bound. Raises RuntimeError after PORTS_FREE_S."""
    deadline = time.monotonic() + PORTS_FREE_S
    waiting = False
    while busy := [port for port in ports if not _is_free(port)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"ports {busy} are in use; is another service running?")
        if not waiting:
            progress(f"waiting for ports {busy} to become free")
            waiting = True
        time.sleep(1)


def _launch(config: Path, wanted: dict[str, Any], folder: Path, environment: Mapping[str, str]) -> Service:
    mark = uuid.uuid4().hex
    output = folder / "launcher.txt"
    client = httpx.Client(base_url=f"http://127.0.0.1:{wanted['http_options']['port']}", timeout=5, trust_env=False)
    # A group of its own: Ctrl-C reaches the benchmark alone, which then stops the launcher in order.
    with output.open("wb") as file:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "serve_app", str(config)],
            cwd=ROOT,
            env={**service_environment(folder), **environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Service(launcher, output, client, mark)


def _wait_until_ready(service: Service, wanted: dict[str, Any]) -> None:
    began = time.monotonic()
    waiting = [f"{application['route_prefix']}/ready" for application in wanted["applications"]]
    while waiting:
        if service.launcher.poll() is not None:
            raise RuntimeError(f"the launcher ended with code {service.launcher.returncode}:\n{service.printed()}")
        if time.monotonic() - began > START_S:
            raise RuntimeError(f"not ready within {START_S} s:\n{service.printed()}")
        if _answers(service.client, waiting[0]):
            waiting.pop(0)
        else:
            time.sleep(POLL_S)
    service.ready_s = time.monotonic() - began
    service.ready_as_told_s()


def _answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _role_of(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if match := re.match(r"ray::ServeReplica:([^:]+):", command):
        return f"replica {match[1]}"
    return next((role for role, part in _ROLES if part in command), f"other ({process.name()})")


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def _own_cpu_s() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _machine_cpu_s() -> float:
    times = psutil.cpu_times()
    # Linux counts the time of guests in `user` too; what is stolen by the host is not work of this machine.
    not_work = ("idle", "iowait", "steal", "guest", "guest_nice")
    return sum(float(seconds) for name, seconds in times._asdict().items() if name not in not_work)


def _marked(mark: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                yield process
        except (psutil.Error, OSError):
            continue  # it ended, or belongs to somebody else


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:80]}"
    except psutil.Error:
        return str(process.pid)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _end_group(child: "subprocess.Popen[str]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            progress(f"process {child.pid} did not end on {number.name}")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while something is taken down; the first of them takes effect afterwards."""
    late: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, _: late.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if late:
        signal.raise_signal(late[0])
