"""Reads a Serve config and finds its faults, also those that Serve itself passes over: it drops misspelled keys."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from ray.runtime_env import RuntimeEnv
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    LoggingConfig,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from serve_app.deployments.applications import BUILDER_ARGS, dicts
from serve_app.deployments.config_rules import RULES
from serve_app.deployments.config_text import read_config
from serve_app.deployments.invalid_values import find_invalid_values, model_in, shown
from serve_app.entrance.tls import Tls
from serve_app.errors import Fault, SetupError
from serve_app.spelling import nearest

# Where the keys of Serve stand in a config, for the page that lists them.
SERVE_SCHEMAS: dict[str, type[BaseModel]] = {
    "top level": ServeDeploySchema,
    "http_options": HTTPOptionsSchema,
    "logging_config": LoggingConfig,
    "applications": ServeApplicationSchema,
    "deployments": DeploymentSchema,
    "ray_actor_options": RayActorOptionsSchema,
    "autoscaling_config": AutoscalingConfig,
    "policy": AutoscalingPolicy,
}

# Keys whose values Serve's schema leaves untyped.
UNTYPED: dict[str, type[BaseModel]] = {
    "autoscaling_config": AutoscalingConfig,
    "request_router_config": RequestRouterConfig,
}
_SERVE, _OURS = "Serve", "the application"


def load_config(path: Path) -> dict[str, Any]:
    """Return the config as Serve's REST API takes it. Raises SetupError that lists all its faults."""
    config = read_config(path)
    check_config(config, path)
    return config


def check_config(config: dict[str, Any], path: Path) -> None:
    """Return if Serve and our applications can use the config, read from `path`. Raises SetupError with all faults."""
    if faults := list(config_faults(config)):
        raise SetupError(f"{path}:\n" + "\n".join(f"  {fault}" for fault in faults))


def config_faults(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield what in the config neither Serve nor our applications can use, whatever the machine is."""
    yield from find_unknown_keys(config)
    yield from _find_invalid_values(config)
    for rule in RULES:
        yield from rule(config)


def find_unknown_keys(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each key that nobody knows, at any depth, and for true and false in the place of a number."""
    yield from _compare("", serve_part(config), ServeDeploySchema, _SERVE)
    yield from _compare("tls", config.get("tls"), Tls, _OURS)
    for where, args, settings in _our_args(config):
        yield from _compare(where, args, settings, _OURS)


def serve_part(config: dict[str, Any]) -> dict[str, Any]:
    """Return what of a config is Serve's: all but `tls`, of which Serve knows nothing."""
    return {key: value for key, value in config.items() if key != "tls"}


def _our_args(config: dict[str, Any]) -> Iterator[tuple[str, Any, type[BaseModel]]]:
    for application in dicts(config.get("applications")):
        settings = BUILDER_ARGS.get(str(application.get("import_path")))
        if settings is not None:
            yield f"applications[{application.get('name')}].args", application.get("args") or {}, settings


def _compare(where: str, given: object, schema: type[BaseModel], who: str) -> Iterator[Fault]:
    for item in dicts(given if isinstance(given, list) else [given]):
        here = f"{where}[{item['name']}]" if "name" in item and where else where
        known = {name: info.annotation for field, info in schema.model_fields.items() for name in (field, info.alias)}
        for key, value in item.items():
            path = f"{here}.{key}" if here else str(key)
            if key not in known:
                yield _unknown(path, who, filter(None, known))
            elif key == "runtime_env":
                yield from _compare_names(path, value, RuntimeEnv.known_fields)
            elif isinstance(value, bool) and _is_number(known[key]) and path != "http_options.port":
                yield Fault(path, f"must be a number (given: {shown(value)})", "write the number itself")
            elif inner := UNTYPED.get(key) or model_in(known[key]):
                yield from _compare(path, value, inner, who)


def _compare_names(where: str, given: object, known: set[str]) -> Iterator[Fault]:
    for item in dicts([given]):
        for key in item.keys() - known:
            yield _unknown(f"{where}.{key}", "Ray", known)


def _unknown(path: str, who: str, known: Iterable[str]) -> Fault:
    """Return a fault about the key at the end of `path`, with the nearest of those that `who` knows."""
    names = sorted(known)
    near = nearest(path.rpartition(".")[2], names)
    meant = f"did you mean {near}? " if near else ""
    return Fault(path, "no such key", f"{meant}{who} knows {', '.join(names)}")


def _is_number(annotation: object) -> bool:
    """Tell whether an annotation such as Optional[Union[PositiveInt, str]] takes numbers, and no true or false."""
    members = {annotation}
    while unpacked := {inner for member in members for inner in get_args(member)} - members:
        members |= unpacked
    return bool(members & {int, float}) and bool not in members


def _find_invalid_values(config: dict[str, Any]) -> Iterator[Fault]:
    bare = list(_bare_deployments(config))
    yield from bare
    yield from find_invalid_values(
        "", serve_part(_without_bare_deployments(config) if bare else config), ServeDeploySchema
    )
    if config.get("tls") is not None:
        yield from find_invalid_values("tls", config["tls"], Tls)
    for where, args, settings in _our_args(config):
        yield from find_invalid_values(where, args, settings)
    for application in dicts(config.get("applications")):
        for deployment in dicts(application.get("deployments")):
            where = f"applications[{application.get('name')}].deployments[{deployment.get('name')}]"
            for key, schema in UNTYPED.items():
                if isinstance(deployment.get(key), dict):
                    yield from find_invalid_values(f"{where}.{key}", deployment[key], schema)


def _bare_deployments(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each item of `deployments` that is no mapping, on which a validator of Serve fails."""
    for application in dicts(config.get("applications")):
        given = application.get("deployments")
        for index, item in enumerate(given if isinstance(given, list) else ()):
            if not isinstance(item, dict):
                where = f"applications[{application.get('name')}].deployments[{index}]"
                yield Fault(where, "must have keys of its own", "write its name as `name: …`, and its options below")


def _without_bare_deployments(config: dict[str, Any]) -> dict[str, Any]:
    applications = [
        {**each, "deployments": dicts(each["deployments"])}
        if isinstance(each, dict) and isinstance(each.get("deployments"), list)
        else each
        for each in config["applications"]
    ]
    return {**config, "applications": applications}
