"""The ready block: what a person needs to know once the service answers. Called by the launcher."""

import json
import os
import shlex
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from serve_app.agreement import Share
from serve_app.deployments.applications import api_port, classifiers, http_host, key_sources
from serve_app.deployments.cores import usable_cores
from serve_app.deployments.ray_token import FILE_VARIABLE, MODE, MODE_VARIABLE
from serve_app.deployments.rollout import POLL_S
from serve_app.deployments.thread_budget import Classifier, thread_budget_fault
from serve_app.entrance.keys import read_keys
from serve_app.entrance.tls import tls_in

# The certificate is for the name by which clients know the service, and here it is asked by its address.
_UNVERIFIED = ssl.create_default_context()
_UNVERIFIED.check_hostname, _UNVERIFIED.verify_mode = False, ssl.CERT_NONE
TELLS_WITHIN_S = 20
OWN = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_UNVERIFIED))


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster of this machine, the service's folder, and the processes that it cannot be without."""

    dashboard_url: str
    gcs: str
    """Host and port, which `ray status` asks."""
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
    served = {each.application: each for each in classifiers(config)}
    on_cpu: set[str] = set()
    for application in config["applications"]:
        url, name = application_url(config, application), application["name"]
        lines.append(f"  {name + ' API':<11} {url}/   docs: {url}/docs")
        if name in served:
            source = key_sources(config).get(name)
            key = read_keys(source)[0].key if source else None
            if model := _ask_model(f"{url}/", key):
                lines += _model_lines(served[name], model)
                if model["device"] == "cpu":
                    on_cpu.add(name)
            else:
                lines.append(f"  model       busy: {url}/ tells what it is")
    lines += _thread_lines(list(served.values()), on_cpu)
    lines.append(f"  dashboard   {cluster.dashboard_url}   asks for a token, which this prints:")
    lines.append(f"              {_command('ray')} get-auth-token")
    # `serve` sends the token through any http_proxy of the environment, `ray` does not.
    serve = f"{_token_variables()} no_proxy=127.0.0.1 {_command('serve')}"
    lines.append(f"  status      {serve} status --address {cluster.dashboard_url}")
    lines.append(f"              {_token_variables()} {_command('ray')} status --address {cluster.gcs}")
    also = {**ports, "Ray's agent": cluster.agent_port}
    lines.append("  ports       " + ", ".join(f"{name} {port}" for name, port in also.items()))
    lines.append(f"  logs        {cluster.logs}")
    lines.append("  stop        Ctrl-C")
    return "\n".join(lines)


def _ask_model(url: str, key: str | None, within_s: float = TELLS_WITHIN_S) -> dict[str, Any] | None:
    """Return what a model application says of itself; None if all its answers are refusals: clients came before."""
    until_s = time.monotonic() + within_s
    while True:
        try:
            told: dict[str, Any] = get_json(url, key=key)
        except (OSError, ValueError):
            if time.monotonic() > until_s:
                return None
            time.sleep(POLL_S)
        else:
            return told


def _model_lines(classifier: Classifier, model: dict[str, Any]) -> Iterator[str]:
    precision = f"{model['precision']} as TF32" if model["tf32"] else model["precision"]
    cache = f", cache: {model['cache']}" if model["cache"] != "off" else ""
    yield (
        f"  model       {model['name']} on {model['engine']} ({precision}), {classifier.engines}, "
        f"weights: {model['weights']}, labels: {model['labels']}{cache}"
    )
    if model["device"] != "cpu":
        yield f"  device      {model['device']}, {classifier.gpu_share:g} of one for each engine"
    elif classifier.gpu_share:
        yield (
            f"  WARNING     {model['engine']} computes on the CPU, and the GPU stays idle: remove `num_gpus`, or write "
            "`engine: jax`"
        )
    if model["choice"]:
        yield from _choice_lines(model["choice"])
    if model["calibrated"]:
        yield _int8_line(model["engine"], model["calibrated"])
    if model["weights"] == "random":
        yield "  WARNING     random weights: predictions mean nothing; see `weights:` in the config"


def _thread_lines(served: Sequence[Classifier], on_cpu: Container[str]) -> Iterator[str]:
    """Yield a warning if threads do not fit the cores, now that `auto` has chosen the CPU where a GPU was expected."""
    counted = [replace(each, gpu_share=0.0) if each.application in on_cpu else each for each in served]
    if counted != served and (fault := thread_budget_fault(counted, usable_cores())):
        yield f"  WARNING     {fault}"


def _int8_line(engine: str, calibrated: dict[str, Any]) -> str:
    found, right = calibrated["agreement"], calibrated["accuracy"]
    low, high = (100 * bound for bound in Share(found["same_class"], found["of"]).interval)
    told = f"; right about {right['int8']} of {right['of']}, float32 about {right['float32']}" if right else ""
    return (
        f"  int8        {found['same_class']} of {found['of']} {found['pictures']} have the best class of {engine} "
        f"(float32), {low:.1f} to {high:.1f} % of all such pictures{told}"
    )


def _choice_lines(choice: dict[str, Any]) -> Iterator[str]:
    """Yield a line for what `auto` has chosen, and one for each of the others."""
    for place, trial in enumerate(choice["trials"]):
        word = "refused" if trial["refused"] else "runner-up" if place else "chosen"
        facts = [f"{trial['images_per_s']:.1f} img/s"] if trial["images_per_s"] is not None else []
        facts += [f"{each['same_class']} of {each['of']} {each['pictures']}" for each in trial["agreement"]]
        if trial["refused"]:
            facts.append(trial["refused"])
        yield f"  {word:<11} {trial['engine']} ({trial['precision']}): {'; '.join(facts)}"
    yield f"              pictures with the same best class as {choice['reference']}; of one replica's engine alone"


def application_url(config: dict[str, Any], application: dict[str, Any]) -> str:
    """Return where an application is asked on this machine."""
    host = http_host(config)
    here = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 what listens everywhere is asked here
    scheme = "http" if tls_in(config) is None else "https"
    return f"{scheme}://{here}:{api_port(config)}" + str(application["route_prefix"]).rstrip("/")


def _command(name: str) -> str:
    path = Path(sys.executable).with_name(name)
    return os.path.relpath(path) if path.is_file() else name


def _token_variables() -> str:
    """Return what Ray's own commands need to send the token: without it, they do not even look for one."""
    given = os.environ.get(FILE_VARIABLE)
    return f"{MODE_VARIABLE}={MODE}" + (f" {FILE_VARIABLE}={shlex.quote(given)}" if given else "")


def why_not_answering(url: str) -> str | None:
    """Return why a URL of this service does not answer with JSON, in its own words if it has any; None if it does."""
    try:
        get_json(url)
    except urllib.error.HTTPError as exc:
        return f"status {exc.code}: {_detail_of(exc)}"
    except (OSError, ValueError) as exc:
        return str(exc)
    return None


def _detail_of(answer: urllib.error.HTTPError) -> str:
    try:
        with answer:
            return str(json.load(answer)["detail"])
    except (OSError, ValueError, LookupError, TypeError):  # not an answer of ours: HAProxy's, or Serve's
        return answer.reason


def get_json(url: str, key: str | None = None) -> Any:
    """Return what a URL of this service answers, past any proxy. Raises OSError and ValueError."""
    request = urllib.request.Request(url, headers={"X-API-Key": key} if key else {})
    with OWN.open(request, timeout=5) as response:
        return json.load(response)
