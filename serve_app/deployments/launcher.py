"""Starts Ray on this machine, deploys a config, waits until it answers, and takes everything down again.

`serve run` neither waits for health nor ends when a deployment fails; this does both. Called by `python -m serve_app`.
"""

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve
from ray.serve.schema import ServeDeploySchema

from serve_app.classifier.model_cache import find_or_prepare
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.applications import api_port, classifiers, grpc_port, models
from serve_app.deployments.config_file import serve_part
from serve_app.deployments.cores import usable_cores
from serve_app.deployments.ports import chosen_ports, dashboard_port, free_agent_port
from serve_app.deployments.preflight import startable_config
from serve_app.deployments.ray_token import keep_token_private
from serve_app.deployments.ready import Cluster, application_url, ready_block, why_not_answering
from serve_app.deployments.rest import ServeRest
from serve_app.deployments.rollout import POLL_S, DeployError, Rollout, last_lines
from serve_app.deployments.stopping import answer_what_is_under_way
from serve_app.deployments.thread_budget import thread_budget_fault
from serve_app.deployments.waiting import say, waiting_for
from serve_app.entrance.environment import HAPROXY_SWITCH
from serve_app.entrance.stand_in import IngressWatch
from serve_app.entrance.tls import tls_environment, tls_in
from serve_app.entrance.under_way import VARIABLE as FOLDER_VARIABLE
from serve_app.errors import SetupError
from serve_app.service_folder import RAY_VARIABLE, claimed_folder, haproxy_files, write_facts

WATCH_S = 0.1
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
TERMINATE_S = 3.0
RAY_STARTS_WITHIN_S = 30
"""Ray's own limit, which cannot be set, until its processes have found each other (ray/_private/node.py)."""
MOST_STARTS = 4
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
        with waiting_for("the checks before the start", say):
            config, warnings = startable_config(path, is_to_listen=True)
        with (
            chosen_ports(api_port(config), grpc_port(config)) as ports,
            claimed_folder(api_port(config), is_over=lambda: stop.is_requested) as folder,
        ):
            say(f"starting {path}")
            for warning in filter(None, (*warnings, thread_budget_fault(list(classifiers(config)), usable_cores()))):
                say(f"WARNING: {warning}")
            _prepare_models(config)
            keep_token_private()
            os.environ |= _folder_environment(folder) | tls_environment(tls_in(config))
            with _local_ray(folder, dashboard_port(ports)) as cluster, _answering_at_the_end(folder, stop, drain_s):
                try:
                    _deploy_and_wait(config, cluster, stop, deadline=started + timeout_s)
                    say(ready_block(config, cluster, ports, time.monotonic() - started))
                    _watch(cluster, config, stop)
                except DeployError as exc:
                    raise DeployError(f"{exc}\nThe logs: {cluster.logs}") from exc


def _deploy_and_wait(config: dict[str, Any], cluster: Cluster, stop: "_Stop", *, deadline: float) -> None:
    _start_serve(config)
    rollout = Rollout(ServeRest(cluster.dashboard_url), config, stop.sleep)
    rollout.deploy()
    rollout.wait_until_in_place(("DEPLOY_FAILED", "UNHEALTHY"), deadline)
    _wait_until_answering(config, stop, deadline=deadline)
    write_facts(cluster.folder, dashboard=cluster.dashboard_url, metrics=cluster.session / DISCOVERY)


def _prepare_models(config: dict[str, Any]) -> None:
    """Have every model in the cache, so that what is wrong with one is known before Ray starts. Raises SetupError."""
    for settings, engines in models(config):
        with waiting_for(f"the model of {engines.application} to be prepared", say):
            _prepare(engines.application, settings, engines.gpu_share)


def _prepare(name: str, settings: ClassifierSettings, gpu_share: float) -> None:
    try:
        find_or_prepare(settings, gpu_share=gpu_share, is_start=True)
    except SetupError as exc:
        key = ".".join(part for part in (f"applications[{name}].args", exc.fault.key) if part)
        raise SetupError(replace(exc.fault, key=key)) from exc


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
        say("stopped")
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
                answer_what_is_under_way(folder, within_s=drain_s, say=say)
        raise


@contextmanager
def _local_ray(folder: Path, dashboard: int) -> Iterator[Cluster]:
    """Start a Ray cluster of this machine alone; leave no process of it behind."""
    _adopt_orphans()
    handlers = {number: signal.getsignal(number) for number in _stop_signals()}
    try:
        context: Any = _start_ray(folder, dashboard)
        for number, handler in handlers.items():  # ray.init puts its own SIGTERM handler in place
            signal.signal(number, handler)
        yield Cluster(
            dashboard_url=f"http://{context.dashboard_url}",
            gcs=context.address_info["gcs_address"],
            session=Path(context.address_info["session_dir"]),
            folder=folder,
            essential=[child for child in psutil.Process().children() if child.name() in ESSENTIAL],
        )
    finally:
        for number in handlers:  # a second Ctrl-C must not cut the cleaning up short
            signal.signal(number, signal.SIG_IGN)
        try:
            say("stopping")
        finally:
            _end_ray()


def _start_ray(folder: Path, dashboard: int) -> Any:
    """Return Ray's context. On a busy machine Ray gets its own limit of RAY_STARTS_WITHIN_S several times."""
    for left in reversed(range(MOST_STARTS)):
        began = time.monotonic()
        try:
            return _init_ray(folder, dashboard)
        except SetupError:
            if not left or _since(began) < RAY_STARTS_WITHIN_S:
                raise
        say(f"WARNING: Ray did not start within its {RAY_STARTS_WITHIN_S} s (a busy machine?); starting it again")
        _end_ray()
    raise AssertionError  # unreachable: the last start returns or raises


def _end_ray() -> None:
    started = psutil.Process().children(recursive=True)
    try:
        ray.shutdown()
    finally:
        _end(started)


def _init_ray(folder: Path, dashboard: int) -> Any:
    try:
        with free_agent_port(), waiting_for("Ray to start", say):
            return ray.init(
                "local",
                namespace="serve",
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # Ray's own /tmp/ray is everybody's: the next Ray overwrites what is in it, and any user may.
                _temp_dir=os.environ.get(RAY_VARIABLE) or str(folder / "ray"),
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
    # The dashboard would do this too when it gets the config, but two seconds later: with the defaults of this schema.
    wanted = ServeDeploySchema.model_validate(serve_part(config))
    try:
        with waiting_for("Serve to start", say):
            serve.start(
                proxy_location=wanted.proxy_location,
                http_options=wanted.http_options.model_dump(),
                grpc_options=wanted.grpc_options.model_dump(),
                logging_config=wanted.logging_config,
            )
    except (ray.exceptions.RayError, RuntimeError, TimeoutError) as exc:
        raise DeployError(f"Serve could not start:\n{last_lines(str(exc))}") from exc


def _wait_until_answering(config: dict[str, Any], stop: _Stop, *, deadline: float) -> None:
    for application in config["applications"]:
        _wait_until_ready(f"{application_url(config, application)}/ready", stop, deadline)


def _wait_until_ready(url: str, stop: _Stop, deadline: float) -> None:
    reason: str | None = None
    with waiting_for(f"an answer of {url}", say, why=lambda: reason):
        while (reason := why_not_answering(url)) is not None:
            if time.monotonic() > deadline:
                raise DeployError(f"{url} does not answer: {reason}")
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
