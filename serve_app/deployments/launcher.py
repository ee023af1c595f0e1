"""Starts Ray on this machine, deploys a config, waits until it answers, and takes everything down again.

`serve run` neither waits for health nor ends when a deployment fails; this does both. Called by `python -m serve_app`.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve

from serve_app.deployments.config_file import (
    api_port,
    classifier_threads_and_replicas,
    http_host,
    key_sources,
    load_config,
)
from serve_app.deployments.cores import usable_cores
from serve_app.deployments.ports import API_PORT, check_free, chosen_ports, dashboard_port, free_agent_port
from serve_app.deployments.rest import DIRECT, ServeRest
from serve_app.deployments.rollout import POLL_S, DeployError, Rollout, last_lines
from serve_app.deployments.stopping import answer_what_is_under_way
from serve_app.deployments.thread_budget import thread_budget_fault
from serve_app.entrance.environment import HAPROXY_SWITCH
from serve_app.entrance.keys import read_keys
from serve_app.entrance.stand_in import IngressWatch
from serve_app.entrance.under_way import VARIABLE as FOLDER_VARIABLE
from serve_app.errors import SetupError
from serve_app.service_folder import claimed_folder, haproxy_files, write_facts

WATCH_S = 0.1
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
TERMINATE_S = 3.0
ESSENTIAL = ("gcs_server", "raylet")
DISCOVERY = "prom_metrics_service_discovery.json"


class StopRequested(BaseException):
    """SIGTERM or SIGINT arrived. Not an Exception, so that nothing on the way takes it for a fault."""


def launch(path: Path, *, timeout_s: float, drain_s: float) -> None:
    """Serve the config at `path` until SIGTERM or SIGINT, and answer then for `drain_s` at most what was accepted.

    Raises SetupError and DeployError.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    started = time.monotonic()
    with _stop_on_signals() as stop:
        config = load_config(path)
        for source in key_sources(config).values():
            read_keys(source)
        check_free(http_host(config), api_port(config), API_PORT)
        with (
            chosen_ports(api_port(config)) as ports,
            claimed_folder(api_port(config), is_over=lambda: stop.is_requested) as folder,
        ):
            _say(f"starting {path}")
            for fault in _thread_faults(config):
                _say(f"WARNING: {fault}")
            os.environ |= _folder_environment(folder)
            with _local_ray(folder, dashboard_port(ports)) as cluster, _answering_at_the_end(folder, stop, drain_s):
                try:
                    _deploy_and_wait(config, cluster, stop, deadline=started + timeout_s)
                    _say(ready_block(config, cluster, ports, time.monotonic() - started))
                    _watch(cluster, config, stop)
                except DeployError as exc:
                    raise DeployError(f"{exc}\nThe logs: {cluster.logs}") from exc


def _deploy_and_wait(config: dict[str, Any], cluster: "Cluster", stop: "_Stop", *, deadline: float) -> None:
    _start_serve(config)
    rollout = Rollout(ServeRest(cluster.dashboard_url), config, stop.sleep, _say)
    rollout.deploy()
    rollout.wait_until_in_place(("DEPLOY_FAILED", "UNHEALTHY"), deadline)
    _wait_until_answering(config, stop, deadline=deadline)
    write_facts(cluster.folder, dashboard=cluster.dashboard_url, metrics=cluster.session / DISCOVERY)


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster of this machine, the service's folder, and the processes that it cannot be without."""

    dashboard_url: str
    session: Path
    folder: Path
    essential: list[psutil.Process]

    @property
    def logs(self) -> Path:
        """Return the folder of Serve's logs."""
        return self.session / "logs" / "serve"

    @property
    def agent_port(self) -> str:
        """Return the port of the dashboard's agent, which the dashboard asks for logs; -1 if it has none."""
        [told, *_] = [*self.session.glob("dashboard_agent_listen_port_*"), None]
        return told.read_text(encoding="ascii") if told else "-1"


def ready_block(config: dict[str, Any], cluster: Cluster, ports: dict[str, str], ready_s: float) -> str:
    """Return what a person needs to know once the service answers."""
    lines = [f"READY after {ready_s:.1f} s"]
    for application in config["applications"]:
        url = _application_url(config, application)
        lines.append(f"  {application['name'] + ' API':<11} {url}/   docs: {url}/docs")
        if application["name"] == "model":
            source = key_sources(config).get("model")
            model = _get_json(f"{url}/", key=read_keys(source)[0] if source else None)
            replicas = [f"{count} replica(s) × " for _, count in classifier_threads_and_replicas(config)]
            lines.append(
                f"  model       {model['name']} on {model['engine']} ({model['precision']}), "
                f"{''.join(replicas)}{model['threads']} thread(s), "
                f"weights: {model['weights']}, labels: {model['labels']}"
                + (f", cache: {model['cache']}" if model["cache"] != "off" else "")
            )
            if model["weights"] == "random":
                lines.append("  WARNING     random weights: predictions mean nothing; see `weights:` in the config")
    lines.append(f"  dashboard   {cluster.dashboard_url}   asks for a token, which this prints:")
    lines.append(f"              {_ray_command()} get-auth-token")
    also = {**ports, "Ray's agent": cluster.agent_port}
    lines.append("  ports       " + ", ".join(f"{name} {port}" for name, port in also.items()))
    lines.append(f"  logs        {cluster.logs}")
    lines.append("  stop        Ctrl-C")
    return "\n".join(lines)


def _thread_faults(config: dict[str, Any]) -> Iterator[str]:
    classifiers = list(classifier_threads_and_replicas(config))
    all_threads = sum(threads * replicas for threads, replicas in classifiers)
    for threads, replicas in classifiers:
        others = all_threads - threads * replicas
        if fault := thread_budget_fault(threads, replicas, usable_cores(), other_threads=others):
            yield fault


def _say(text: str) -> None:
    print(text, flush=True)


class _Stop:
    """Whether a signal has asked for the end. Its handler raises, too, to get out of calls that wait."""

    def __init__(self) -> None:
        self.is_requested = False

    def request(self, _signal: int, _frame: object) -> None:
        self.is_requested = True
        raise StopRequested

    def sleep(self, seconds: float) -> None:
        """Wait. Raises StopRequested also if somebody else's code swallowed the handler's exception."""
        time.sleep(seconds)
        if self.is_requested:
            raise StopRequested


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    stop = _Stop()
    previous = {number: signal.signal(number, stop.request) for number in _stop_signals()}
    try:
        yield stop
    except BaseException as exc:
        # In the middle of compiled code the handler's exception comes out as another one.
        if not (stop.is_requested or isinstance(exc, StopRequested)):
            raise
        _say("stopped")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _folder_environment(folder: Path) -> dict[str, str]:
    """Return what tells the processes of this service where its files are."""
    wanted = {**haproxy_files(folder), "TMPDIR": str(folder)}
    return {FOLDER_VARIABLE: str(folder), **{name: value for name, value in wanted.items() if name not in os.environ}}


@contextmanager
def _answering_at_the_end(folder: Path, stop: "_Stop", drain_s: float) -> Iterator[None]:
    """Answer what is under way when a signal has ended the block; a second one ends that as well."""
    try:
        yield
    except BaseException:
        if stop.is_requested:
            with suppress(StopRequested):
                answer_what_is_under_way(folder, within_s=drain_s, say=_say)
        raise


@contextmanager
def _local_ray(folder: Path, dashboard: int) -> Iterator[Cluster]:
    """Start a Ray cluster of this machine alone; leave no process of it behind."""
    _adopt_orphans()
    handlers = {number: signal.getsignal(number) for number in _stop_signals()}
    try:
        context: Any = _init_ray(folder, dashboard)
        for number, handler in handlers.items():  # ray.init puts its own SIGTERM handler in place
            signal.signal(number, handler)
        yield Cluster(
            dashboard_url=f"http://{context.dashboard_url}",
            session=Path(context.address_info["session_dir"]),
            folder=folder,
            essential=[child for child in psutil.Process().children() if child.name() in ESSENTIAL],
        )
    finally:
        for number in handlers:  # a second Ctrl-C must not cut the cleaning up short
            signal.signal(number, signal.SIG_IGN)
        _say("stopping")
        started = psutil.Process().children(recursive=True)
        ray.shutdown()
        _end(started)


def _init_ray(folder: Path, dashboard: int) -> Any:
    try:
        with free_agent_port():
            return ray.init(
                "local",
                namespace="serve",
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # Ray's own /tmp/ray is everybody's: the next Ray overwrites what is in it, and any user may.
                _temp_dir=os.environ.get("RAY_TMPDIR") or str(folder / "ray"),
            )
    except SystemExit as exc:  # what Ray's own SIGTERM handler makes of a signal meanwhile
        raise StopRequested from exc
    except Exception as exc:  # Ray has no type for it: its processes have 30 s to find each other
        raise SetupError(f"Ray does not start on this machine, which may be too busy: {exc}") from exc


def _stop_signals() -> list[signal.Signals]:
    """Return the signals that mean stop; SIGHUP (the terminal was closed) unless `nohup` made it mean nothing."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def _adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none of them is lost sight of."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _end(started: list[psutil.Process]) -> None:
    """End what is left of `started` and of its children: by SIGTERM, and by SIGKILL what outlives TERMINATE_S."""
    begun = time.monotonic()
    while (left := _alive({*started, *psutil.Process().children(recursive=True)})) and _since(begun) < 2 * TERMINATE_S:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.terminate() if _since(begun) < TERMINATE_S else process.kill()
        psutil.wait_procs(left, timeout=0.5)


def _alive(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    return {process for process in processes if _is_alive(process)}


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False


def _since(moment: float) -> float:
    return time.monotonic() - moment


def _start_serve(config: dict[str, Any]) -> None:
    # The dashboard would do this too when it gets the config, but two seconds later.
    try:
        serve.start(
            proxy_location=config.get("proxy_location"),
            http_options=config.get("http_options"),
            logging_config=config.get("logging_config"),
        )
    except (ray.exceptions.RayError, RuntimeError, TimeoutError) as exc:
        raise DeployError(f"Serve could not start:\n{last_lines(str(exc))}") from exc


def _wait_until_answering(config: dict[str, Any], stop: _Stop, *, deadline: float) -> None:
    for application in config["applications"]:
        url = f"{_application_url(config, application)}/ready"
        while True:
            try:
                _get_json(url)
                break
            except (OSError, ValueError) as exc:
                if time.monotonic() > deadline:
                    raise DeployError(f"{url} does not answer: {exc}") from exc
                stop.sleep(POLL_S)


def _watch(cluster: Cluster, config: dict[str, Any], stop: _Stop) -> None:
    """Stay until a signal comes. Raises DeployError if Ray itself goes away."""
    ingress = IngressWatch(api_port(config)) if os.environ.get(HAPROXY_SWITCH) == "1" else None
    while True:
        stop.sleep(WATCH_S)
        if ingress is not None:
            ingress.look()
        for process in set(cluster.essential) - _alive(cluster.essential):
            raise DeployError(f"Ray has ended (process {process.pid})")


def _application_url(config: dict[str, Any], application: dict[str, Any]) -> str:
    host = http_host(config)
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 what listens everywhere is asked here
    base = f"http://{here}:{api_port(config)}"
    return base + str(application["route_prefix"]).rstrip("/")


def _ray_command() -> str:
    ray_path = Path(sys.executable).with_name("ray")
    return os.path.relpath(ray_path) if ray_path.is_file() else "ray"


def _get_json(url: str, key: str | None = None) -> Any:
    request = urllib.request.Request(url, headers={"X-API-Key": key} if key else {})
    with DIRECT.open(request, timeout=5) as response:
        return json.load(response)
