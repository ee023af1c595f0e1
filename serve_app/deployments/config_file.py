"""Reads a Serve config and finds the faults that Serve itself passes over: it drops misspelled keys in silence."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import suppress
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

from serve_app.address import MOST_PORT, AddressFault, read_port
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments.config_text import MODEL, USERS, read_config
from serve_app.entrance.keys import REMEDY, KeySource, is_loopback
from serve_app.errors import SetupError
from serve_app.redis.address import VARIABLE as REDIS_VARIABLE
from serve_app.users.settings import VARIABLE as DATABASE_VARIABLE
from serve_app.users.settings import UsersSettings

BUILDER_ARGS: dict[str, type[UsersSettings | ClassifierSettings]] = {
    USERS: UsersSettings,
    MODEL: ClassifierSettings,
}
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


def load_config(path: Path) -> dict[str, Any]:
    """Return the config as Serve's REST API takes it. Raises SetupError that lists all its faults."""
    config = read_config(path)
    check_config(config, path)
    return config


def check_config(config: dict[str, Any], path: Path) -> None:
    """Return if Serve and our applications can use the config, read from `path`. Raises SetupError with all faults."""
    faults = [
        *find_unknown_keys(config),
        *_find_invalid_values(config),
        *_find_open_applications(config),
        *_find_secrets_for_rays_logs(config),
    ]
    if faults:
        raise SetupError(f"{path}:\n" + "\n".join(f"  {fault}" for fault in faults))


def serve_default(schema: type[BaseModel], key: str) -> object:
    """Return what Serve takes where a config lacks a key of SERVE_SCHEMAS; PydanticUndefined where it may not."""
    fields = schema.model_fields
    if schema is DeploymentSchema and key in DeploymentConfig.model_fields:  # the schema says only: as in the code
        fields = DeploymentConfig.model_fields
    default = fields[key].get_default(call_default_factory=True)
    return None if default is DEFAULT.VALUE else default


def find_unknown_keys(config: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each key that Serve would drop, at any depth."""
    return _compare("", config, ServeDeploySchema)


def classifier_threads_and_replicas(config: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield engine threads and number of replicas for each classifier in the config."""
    for application in _dicts(config.get("applications")):
        if BUILDER_ARGS.get(application.get("import_path", "")) is ClassifierSettings:
            settings = ClassifierSettings.model_validate(application.get("args") or {})
            for deployment in _dicts(application.get("deployments")):
                if isinstance(deployment.get("num_replicas"), int):
                    yield settings.threads, deployment["num_replicas"]


def key_sources(config: dict[str, Any]) -> dict[str, KeySource]:
    """Return where the API keys stand, by the name of each application of ours that asks for any."""
    return {name: settings.auth for name, settings in _our_settings(config) if isinstance(settings.auth, KeySource)}


def http_host(config: dict[str, Any]) -> str:
    """Return the address that the service listens on; Serve's own default is every interface."""
    options = config.get("http_options")
    return str((options.get("host") if isinstance(options, dict) else None) or HTTPOptionsSchema().host)


def api_port(config: dict[str, Any]) -> int:
    """Return the port that the service listens on, of a config that was checked."""
    given = _given_port(config)
    return int(HTTPOptionsSchema().port if given is None else given)


def _given_port(config: dict[str, Any]) -> Any:
    options = config.get("http_options")
    return options.get("port") if isinstance(options, dict) else None


def _compare(where: str, given: object, schema: type[BaseModel]) -> Iterator[str]:
    for item in _dicts(given if isinstance(given, list) else [given]):
        here = f"{where}[{item['name']}]" if "name" in item and where else where
        known = {name: info.annotation for field, info in schema.model_fields.items() for name in (field, info.alias)}
        for key, value in item.items():
            path = f"{here}.{key}" if here else str(key)
            if key not in known:
                yield _unknown(path, "Serve", filter(None, known))
            elif key == "runtime_env":
                yield from _compare_names(path, value, RuntimeEnv.known_fields)
            elif inner := UNTYPED.get(key) or _model_in(known[key]):
                yield from _compare(path, value, inner)


def _compare_names(where: str, given: object, known: set[str]) -> Iterator[str]:
    for item in _dicts([given]):
        for key in item.keys() - known:
            yield _unknown(f"{where}.{key}", "Ray", known)


def _unknown(path: str, who: str, known: Iterable[str]) -> str:
    """Return a line about the key at the end of `path`, with the nearest of those that `who` knows."""
    names = sorted(known)
    nearest = difflib.get_close_matches(path.rpartition(".")[2], names, 1, _LIKE)
    meant = f"did you mean {nearest[0]}? " if nearest else ""
    return f"{path}: no such key; {meant}{who} knows {', '.join(names)}"


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the pydantic model in an annotation such as Optional[List[Model]]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _find_invalid_values(config: dict[str, Any]) -> Iterator[str]:
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as exc:
        yield from _lines("", exc)
    port = _given_port(config)
    if port is not None and not _is_port(port):
        given = f" (given: {port!r})" if isinstance(port, bool | int | float) else ""
        yield f"http_options.port: must be a whole number from 1 to {MOST_PORT}; choose a free one, such as 8000{given}"
    for index, application in enumerate(_dicts(config.get("applications"))):
        for key in {"name", "route_prefix"} - application.keys():
            yield f"applications[{index}].{key}: missing; the launcher has to know where to ask whether it is ready"
        settings = BUILDER_ARGS.get(application.get("import_path", ""))
        try:
            if settings is not None:
                settings.model_validate(application.get("args") or {})
        except ValidationError as exc:
            yield from _lines(f"applications[{application.get('name')}].args", exc, settings)


def _is_port(given: object) -> bool:
    try:
        return not isinstance(given, bool) and read_port(str(given)) > 0
    except AddressFault:
        return False


def _find_open_applications(config: dict[str, Any]) -> Iterator[str]:
    host = http_host(config)
    if not is_loopback(host):
        for name, settings in _our_settings(config):
            if settings.auth is None:
                yield (
                    f"applications[{name}].args.auth: missing, while other machines can reach "
                    f"http_options.host: {host}; {REMEDY}"
                )


def _find_secrets_for_rays_logs(config: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each variable of a `runtime_env` that may hold a password: Ray logs what is in there."""
    keys = [source.keys_env for source in key_sources(config).values() if source.keys_env]
    for application in _dicts(config.get("applications")):
        here = f"applications[{application.get('name')}]"
        for where, runtime_env in _runtime_envs(application):
            given = runtime_env.get("env_vars")
            for variable in (REDIS_VARIABLE, DATABASE_VARIABLE, *keys):
                if isinstance(given, dict) and given.get(variable):  # an empty one takes it away
                    yield (
                        f"{here}.{where}.env_vars.{variable}: Ray writes runtime_env into its logs; "
                        "set it in the environment in which Ray starts"
                    )


def _runtime_envs(application: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield those of an application and of its deployments, with where they stand."""
    places = [("runtime_env", application.get("runtime_env"))]
    for deployment in _dicts(application.get("deployments")):
        where = f"deployments[{deployment.get('name')}].ray_actor_options.runtime_env"
        places += [(where, options.get("runtime_env")) for options in _dicts([deployment.get("ray_actor_options")])]
    yield from ((where, found) for where, found in places if isinstance(found, dict))


def _our_settings(config: dict[str, Any]) -> Iterator[tuple[str, UsersSettings | ClassifierSettings]]:
    """Yield name and settings of each application of ours whose settings are valid."""
    for application in _dicts(config.get("applications")):
        schema = BUILDER_ARGS.get(application.get("import_path", ""))
        if schema is not None:
            with suppress(ValidationError):
                yield str(application.get("name")), schema.model_validate(application.get("args") or {})


def _lines(where: str, exc: ValidationError, settings: type[BaseModel] | None = None) -> Iterator[str]:
    for fault in exc.errors(include_url=False, include_context=False):
        place = ".".join([*filter(None, [where]), *map(str, fault["loc"])])
        if settings is not None and fault["type"] == "extra_forbidden":
            yield _unknown(place, "the application", _model_at(settings, fault["loc"][:-1]).model_fields)
            continue
        # Serve's words about a runtime_env quote URLs, of which one for private code holds a token.
        words = "Serve cannot use it" if "runtime_env" in fault["loc"] else fault["msg"]
        # A text may be an address with a password, or a key that somebody wrote there.
        given = f" (given: {fault['input']!r})" if isinstance(fault["input"], bool | int | float | None) else ""
        yield f"{place}: {words}{given}"


def _model_at(settings: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the settings that a location in `settings` leads to; pydantic names the members of a union in it too."""
    for step in location:
        field = settings.model_fields.get(str(step))
        settings = (field and _model_in(field.annotation)) or settings
    return settings


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
