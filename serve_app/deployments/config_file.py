"""Reads a Serve config and finds the faults that Serve itself passes over: it drops misspelled keys in silence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import SetupError
from serve_app.users.settings import UsersSettings

BUILDER_ARGS: dict[str, type[BaseModel]] = {
    "serve_app.deployments.users:build": UsersSettings,
    "serve_app.deployments.model:build": ClassifierSettings,
}


def load_config(path: Path) -> dict[str, Any]:
    """Return the config as Serve's REST API takes it. Raises SetupError that lists all its faults."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SetupError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except yaml.YAMLError as exc:
        raise SetupError(f"{path} is not YAML: {exc}") from exc
    if not isinstance(config, dict):
        raise SetupError(f"{path} is not a Serve config: expected keys and values at the top level")
    faults = [*find_unknown_keys(config), *_find_invalid_values(config)]
    if faults:
        raise SetupError(f"{path}:\n" + "\n".join(f"  {fault}" for fault in faults))
    return config


def find_unknown_keys(config: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each key that Serve would drop."""
    yield from _compare("", config, ServeDeploySchema)
    yield from _compare("http_options.", config.get("http_options"), HTTPOptionsSchema)
    for application in _dicts(config.get("applications")):
        where = f"applications[{application.get('name')}]."
        yield from _compare(where, application, ServeApplicationSchema)
        for deployment in _dicts(application.get("deployments")):
            there = f"{where}deployments[{deployment.get('name')}]."
            yield from _compare(there, deployment, DeploymentSchema)
            yield from _compare(
                f"{there}ray_actor_options.", deployment.get("ray_actor_options"), RayActorOptionsSchema
            )


def classifier_threads_and_replicas(config: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield engine threads and number of replicas for each classifier in the config."""
    for application in _dicts(config.get("applications")):
        if BUILDER_ARGS.get(application.get("import_path", "")) is ClassifierSettings:
            settings = ClassifierSettings.model_validate(application.get("args") or {})
            for deployment in _dicts(application.get("deployments")):
                if isinstance(deployment.get("num_replicas"), int):
                    yield settings.threads, deployment["num_replicas"]


def _compare(where: str, given: object, schema: type[BaseModel]) -> Iterator[str]:
    if not isinstance(given, dict):
        return
    known = {name for field, info in schema.model_fields.items() for name in (field, info.alias) if name}
    for key in given:
        if key not in known:
            yield f"{where}{key}: no such key; Serve knows {', '.join(sorted(known))}"


def _find_invalid_values(config: dict[str, Any]) -> Iterator[str]:
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as exc:
        yield from _lines("", exc)
    for application in _dicts(config.get("applications")):
        settings = BUILDER_ARGS.get(application.get("import_path", ""))
        try:
            if settings is not None:
                settings.model_validate(application.get("args") or {})
        except ValidationError as exc:
            yield from _lines(f"applications[{application.get('name')}].args.", exc)


def _lines(where: str, exc: ValidationError) -> Iterator[str]:
    for fault in exc.errors():
        yield f"{where}{'.'.join(map(str, fault['loc']))}: {fault['msg']} (given: {fault['input']!r})"


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
