"""Reads a Serve config and finds its faults, also those that Serve itself passes over: it drops misspelled keys."""

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ray.runtime_env import RuntimeEnv
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.utils import DEFAULT
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
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
from serve_app.entrance.keys import REMEDY
from serve_app.errors import Fault, SetupError

# Where the keys of Serve stand in a config, for the page that lists them.
SERVE_SCHEMAS: dict[str, type[BaseModel]] = {
    "top level": ServeDeploySchema,
    "http_options": HTTPOptionsSchema,
    "logging_config": LoggingConfig,
    "applications": ServeApplicationSchema,
    "deployments": DeploymentSchema,
    "ray_actor_options": RayActorOptionsSchema,
}
_LIKE = 0.6
"""Of 1: from this likeness on (difflib's ratio) a known key is named as the one that was meant."""

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


def serve_default(schema: type[BaseModel], key: str) -> object:
    """Return what Serve takes where a config lacks a key of SERVE_SCHEMAS; PydanticUndefined where it may not."""
    fields = schema.model_fields
    if schema is DeploymentSchema and key in DeploymentConfig.model_fields:  # the schema says only: as in the code
        fields = DeploymentConfig.model_fields
    default = fields[key].get_default(call_default_factory=True)
    return None if default is DEFAULT.VALUE else default


def find_unknown_keys(config: dict[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each key that nobody knows, at any depth, and for true and false in the place of a number."""
    yield from _compare("", config, ServeDeploySchema, _SERVE)
    for where, args, settings in _our_args(config):
        yield from _compare(where, args, settings, _OURS)


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
                yield Fault(path, f"must be a number (given: {_shown(value)})", "write the number itself")
            elif inner := UNTYPED.get(key) or _model_in(known[key]):
                yield from _compare(path, value, inner, who)


def _compare_names(where: str, given: object, known: set[str]) -> Iterator[Fault]:
    for item in dicts([given]):
        for key in item.keys() - known:
            yield _unknown(f"{where}.{key}", "Ray", known)


def _unknown(path: str, who: str, known: Iterable[str]) -> Fault:
    """Return a fault about the key at the end of `path`, with the nearest of those that `who` knows."""
    names = sorted(known)
    nearest = difflib.get_close_matches(path.rpartition(".")[2], names, 1, _LIKE)
    meant = f"did you mean {nearest[0]}? " if nearest else ""
    return Fault(path, "no such key", f"{meant}{who} knows {', '.join(names)}")


def _is_number(annotation: object) -> bool:
    """Tell whether an annotation such as Optional[Union[PositiveInt, str]] takes numbers, and no true or false."""
    members = {annotation}
    while unpacked := {inner for member in members for inner in get_args(member)} - members:
        members |= unpacked
    return bool(members & {int, float}) and bool not in members


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the pydantic model in an annotation such as Optional[List[Model]]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _find_invalid_values(config: dict[str, Any]) -> Iterator[Fault]:
    yield from _validate("", config, ServeDeploySchema)
    for where, args, settings in _our_args(config):
        yield from _validate(where, args, settings)
    for application in dicts(config.get("applications")):
        for deployment in dicts(application.get("deployments")):
            where = f"applications[{application.get('name')}].deployments[{deployment.get('name')}]"
            for key, schema in UNTYPED.items():
                if isinstance(deployment.get(key), dict):
                    yield from _validate(f"{where}.{key}", deployment[key], schema)


def _validate(where: str, given: object, schema: type[BaseModel]) -> Iterator[Fault]:
    """Yield what pydantic says of a value, once for each place: of a union, each member says something."""
    told: set[str] = set()
    try:
        schema.model_validate(given)
    except ValidationError as exc:
        for fault in exc.errors(include_url=False, include_context=False):
            location, value = fault["loc"], fault["input"]
            place = _place(where, given, location)
            is_of_another_member = fault["type"] == "literal_error" and isinstance(value, dict)
            if fault["type"] == "extra_forbidden" or is_of_another_member or place in told:  # the first is told already
                continue
            told.add(place)
            # Serve's words about a runtime_env quote URLs, of which one for private code holds a token.
            words = "Serve cannot use it" if "runtime_env" in location else _one_line(fault["msg"])
            if place.endswith(".args.auth") and not isinstance(value, dict):
                words, remedy = "must be none, {keys_env: NAME} or {keys_file: /path}", REMEDY
            else:
                remedy = ""
            # A text may be an address with a password, or a key that somebody wrote there.
            shown = f" (given: {_shown(value)})" if isinstance(value, bool | int | float | None) else ""
            yield Fault(place, words + shown, remedy)


def _place(where: str, given: object, location: tuple[int | str, ...]) -> str:
    """Return where a fault is, items by their names. Pydantic's location has the members of unions in it, too."""
    place, value = where, given
    for step in location:
        if isinstance(value, list) and isinstance(step, int):
            value = value[step]
            place += f"[{value['name'] if isinstance(value, dict) and 'name' in value else step}]"
        elif isinstance(value, dict) and str(step).isidentifier():
            value = value.get(step)
            place += f".{step}" if place else str(step)
    return place


def _one_line(words: str) -> str:
    return " ".join(words.removeprefix("Value error, ").split())


def _shown(value: float | None) -> str:
    """Return a number, true, false or nothing as YAML has it."""
    return json.dumps(value)
