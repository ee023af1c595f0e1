"""Rules for values that Serve's schema lets pass, and on which a start would fail late or not be what was meant."""

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import PathFinder
from typing import Any

from serve_app.address import MOST_PORT, AddressFault, read_port
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.applications import (
    BUILDER_ARGS,
    DEPLOYMENT_NAMES,
    dicts,
    given_port,
    http_host,
    key_sources,
    our_settings,
    replicas_of,
)
from serve_app.deployments.http_host import GRPC_REACH
from serve_app.deployments.options import CLASSIFIER_NAME, ENGINE_NAME
from serve_app.entrance.keys import REMEDY, is_loopback
from serve_app.errors import Fault
from serve_app.redis.address import VARIABLE as REDIS_VARIABLE
from serve_app.spelling import nearest
from serve_app.users.settings import VARIABLE as DATABASE_VARIABLE

_ROUTE_PREFIX = re.compile(r"/|/[^{}]*[^{}/]")
_BRING_CODE = {"working_dir", "py_modules", "pip", "uv", "conda", "container", "image_uri"}
"""Of a runtime_env: with these a module may be there that is not here."""
_WHOLE_CAPACITY = 100
_NO_PROXY = "Disabled"
_LEAST_S = {"keep_alive_timeout_s": 1, "request_timeout_s": 0.001}


def _port(config: dict[str, Any]) -> Iterator[Fault]:
    port = given_port(config)
    if port is not None and not _is_port(port):
        given = f" (given: {port!r})" if isinstance(port, bool | int | float) else ""
        what = f"must be a whole number from 1 to {MOST_PORT}"
        yield Fault("http_options.port", what, f"choose a free one, such as 8000{given}")


def _is_port(given: object) -> bool:
    try:
        return not isinstance(given, bool) and read_port(str(given)) > 0
    except AddressFault:
        return False


def _times(config: dict[str, Any]) -> Iterator[Fault]:
    for options in dicts([config.get("http_options")]):
        for key, least in _LEAST_S.items():
            given = options.get(key)
            if isinstance(given, int | float) and not isinstance(given, bool) and given < least:
                what = f"must be {least} or more seconds (given: {given})"
                yield Fault(f"http_options.{key}", what, "remove the key to use the default")


def _not_behind_haproxy(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for what Serve can do, but no service that HAProxy takes the requests for."""
    if config.get("proxy_location") == _NO_PROXY:
        what = f"{_NO_PROXY} leaves nobody who takes requests"
        yield Fault("proxy_location", what, "remove the key")
    for options in dicts([config.get("http_options")]):
        for key in options:
            if str(key).startswith("ssl_") and options[key] is not None:
                what = "the replicas would speak TLS, and HAProxy speaks HTTP with them"
                yield Fault(f"http_options.{key}", what, "write `tls: {cert: …, key: …}` at the top of the config")


def _controller(config: dict[str, Any]) -> Iterator[Fault]:
    if config.get("controller_options"):
        what = "its variables would come into every replica too, and Ray writes them into its logs"
        yield Fault("controller_options", what, "remove the key; set them in the environment in which Ray starts")


def _applications(config: dict[str, Any]) -> Iterator[Fault]:
    if config.get("applications") == []:
        yield Fault("applications", "the list is empty", "name at least one, as configs/one_replica.yaml does")
    for index, application in enumerate(dicts(config.get("applications"))):
        for key, example in (("name", "model"), ("route_prefix", "/model")):
            if application.get(key) is None:
                what = "missing"
                remedy = f"write one, such as `{key}: {example}`: the start asks each application whether it is ready"
                yield Fault(f"applications[{index}].{key}", what, remedy)
        prefix = application.get("route_prefix")
        if isinstance(prefix, str) and not _ROUTE_PREFIX.fullmatch(prefix):
            what = "must begin with /, not end with /, and contain no { or }"
            yield Fault(f"applications[{application.get('name')}].route_prefix", what, "write, for example, /model")


def _import_paths(config: dict[str, Any]) -> Iterator[Fault]:
    for application in dicts(config.get("applications")):
        path, runtime_env = application.get("import_path"), application.get("runtime_env")
        if not isinstance(path, str) or path in BUILDER_ARGS:
            continue
        module = path.rpartition(":")[0] or path.rpartition(".")[0]
        is_ours = module.partition(".")[0] == __package__.partition(".")[0]
        brings_code = isinstance(runtime_env, dict) and not _BRING_CODE.isdisjoint(runtime_env)
        if module and (is_ours or not (brings_code or _is_there(module))):
            what = f"there is no {path}" if is_ours else f"there is no module {module}"
            yield Fault(f"applications[{application.get('name')}].import_path", what, _choose(path, BUILDER_ARGS))


def _is_there(module: str) -> bool:
    """Tell whether a module can be found. Imports nothing of it."""
    first, *others = module.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return False
    for name in others:
        folders = spec.submodule_search_locations if spec is not None else None
        spec = PathFinder.find_spec(name, folders) if folders is not None else None
    return spec is not None


def _deployments(config: dict[str, Any]) -> Iterator[Fault]:
    settings_of = dict(our_settings(config))
    for application in dicts(config.get("applications")):
        known = DEPLOYMENT_NAMES.get(str(application.get("import_path")), ())
        settings = settings_of.get(str(application.get("name")))
        for deployment in dicts(application.get("deployments")):
            name = deployment.get("name")
            here = f"applications[{application.get('name')}].deployments[{name}]"
            if known and isinstance(name, str) and name not in known:
                yield Fault(f"{here}.name", "the application has no such deployment", f"write `name: {known[0]}`")
            elif name == ENGINE_NAME and isinstance(settings, ClassifierSettings):
                yield from _engine(here, deployment, settings)


def _engine(here: str, deployment: dict[str, Any], settings: ClassifierSettings) -> Iterator[Fault]:
    if not settings.shared_engine:
        what = "each replica has an engine of its own"
        yield Fault(f"{here}.name", what, f"write `name: {CLASSIFIER_NAME}`, or args.shared_engine: true")
    elif deployment.get("autoscaling_config") or deployment.get("num_replicas") not in (None, 1):
        key = "autoscaling_config" if deployment.get("autoscaling_config") else "num_replicas"
        what = "the replicas share one engine"
        yield Fault(f"{here}.{key}", what, f"remove the key; the number of replicas belongs to {CLASSIFIER_NAME}")


def _replicas(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for what leaves fewer replicas than a start and a redeploy wait for."""
    capacity = config.get("target_capacity")
    if isinstance(capacity, int | float) and capacity != _WHOLE_CAPACITY:
        what = f"must be {_WHOLE_CAPACITY} (given: {capacity:g})"
        yield Fault("target_capacity", what, "remove the key: a start waits for all replicas that the config names")
    for application in dicts(config.get("applications")):
        for deployment in dicts(application.get("deployments")):
            autoscaling = deployment.get("autoscaling_config")
            if isinstance(autoscaling, dict) and replicas_of({"autoscaling_config": autoscaling}).least == 0:
                here = f"applications[{application.get('name')}].deployments[{deployment.get('name')}]"
                why = "a start waits for a replica, and a request does not wait as long as a model needs to load"
                yield Fault(
                    f"{here}.autoscaling_config.min_replicas", "must be 1 or more (given: 0)", f"write 1: {why}"
                )


def _open_applications(config: dict[str, Any]) -> Iterator[Fault]:
    host = http_host(config)
    reach = None if is_loopback(host) else f"http_options.host: {host}"
    options = config.get("grpc_options")
    if isinstance(options, dict) and options.get("grpc_servicer_functions"):
        reach = reach or GRPC_REACH
    for name, settings in our_settings(config) if reach else ():
        if settings.auth is None:
            yield Fault(f"applications[{name}].args.auth", f"missing, while other machines can reach {reach}", REMEDY)


def _grpc(config: dict[str, Any]) -> Iterator[Fault]:
    options = config.get("grpc_options")
    if not isinstance(options, dict) or not options.get("grpc_servicer_functions"):
        return
    port = options.get("port")
    if port is not None and (not _is_port(port) or str(port) == str(given_port(config))):
        what = f"must be a whole number from 1 to {MOST_PORT}, and another than http_options.port"
        yield Fault("grpc_options.port", what, f"choose a free one, such as 9000 (given: {port})")


def _secrets_for_rays_logs(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each variable of a `runtime_env` that may hold a password: Ray logs what is in there."""
    keys = [source.keys_env for source in key_sources(config).values() if source.keys_env]
    for application in dicts(config.get("applications")):
        here = f"applications[{application.get('name')}]"
        for where, runtime_env in _runtime_envs(application):
            given = runtime_env.get("env_vars")
            for variable in (REDIS_VARIABLE, DATABASE_VARIABLE, *keys):
                if isinstance(given, dict) and given.get(variable):  # an empty one takes it away
                    remedy = "set it in the environment in which Ray starts"
                    yield Fault(f"{here}.{where}.env_vars.{variable}", "Ray writes runtime_env into its logs", remedy)


def _runtime_envs(application: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield those of an application and of its deployments, with where they stand."""
    places = [("runtime_env", application.get("runtime_env"))]
    for deployment in dicts(application.get("deployments")):
        where = f"deployments[{deployment.get('name')}].ray_actor_options.runtime_env"
        places += [(where, options.get("runtime_env")) for options in dicts([deployment.get("ray_actor_options")])]
    yield from ((where, found) for where, found in places if isinstance(found, dict))


def find_shared_queues(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each model with the job queue of an earlier one: with Redis they answer each other's jobs."""
    owners: dict[str, str] = {}
    for name, settings in our_settings(config):
        if not isinstance(settings, ClassifierSettings):
            continue
        owner = owners.setdefault(settings.jobs.queue, name)
        if owner != name:
            what = f"the queue {settings.jobs.queue} is that of application {owner} too, which would take these jobs"
            yield Fault(f"applications[{name}].args.jobs.queue", what, f"write, for example, `queue: {name}`")


def _choose(given: str, known: Iterable[str]) -> str:
    """Return a remedy that names the nearest of the `known`, or all of them."""
    names = sorted(known)
    near = nearest(given, names)
    return f"did you mean {near}?" if near else f"write one of {', '.join(names)}, or a module that is there"


RULES: tuple[Callable[[dict[str, Any]], Iterator[Fault]], ...] = (
    _port,
    _times,
    _not_behind_haproxy,
    _controller,
    _applications,
    _import_paths,
    _deployments,
    _replicas,
    _open_applications,
    _grpc,
    _secrets_for_rays_logs,
)
