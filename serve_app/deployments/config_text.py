"""Reads a Serve config and checks the addresses that its applications take from the environment. Imports no Ray.

So whoever starts the service learns of a bad address in the first second, and soon of a table that cannot be served.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import SetupError
from serve_app.redis.address import redis_url
from serve_app.users.settings import VARIABLE as DATABASE_VARIABLE
from serve_app.users.settings import UsersSettings, database_url

USERS = "serve_app.deployments.users:build"
MODEL = "serve_app.deployments.model:build"


class _OneKeyOnce(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which YAML readers keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_config(path: Path) -> dict[str, Any]:
    """Return what the file says, its values not checked yet. Raises SetupError, which quotes no line of it."""
    try:
        config = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SetupError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise SetupError(f"{path} is not YAML: it is not UTF-8") from exc
    except SetupError as exc:
        raise SetupError(f"{path} is {exc}") from None
    if not isinstance(config, dict):
        raise SetupError(f"{path} is not a Serve config: expected keys and values at the top level")
    return config


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises SetupError with the place of a fault, and without the line there."""
    try:
        return yaml.load(text, _OneKeyOnce)  # noqa: S506 a SafeLoader
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise SetupError(f"not YAML: {where}{exc.problem}") from None
    except yaml.YAMLError:
        raise SetupError("not YAML: it has characters that YAML does not allow") from None


def check_environment(config: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Return if the applications of `config` can use the addresses in `environment`, and the users table there.

    Raises SetupError. A database that cannot be asked now is no fault: the service waits for it.

    What is wrong with the config itself is told elsewhere.
    """
    applications = config.get("applications")
    for application in applications if isinstance(applications, list) else ():
        if not isinstance(application, dict):
            continue
        if application.get("import_path") == USERS:
            _check_users(application.get("args") or {}, environment)
        elif application.get("import_path") == MODEL:
            _check_redis(application.get("args") or {}, environment)


def _check_users(args: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    url = database_url(environment=environment)
    if not environment.get(DATABASE_VARIABLE):  # then the table is one that the service has made
        return
    from serve_app.users.store import check_table

    with suppress(ValidationError):
        check_table(url, UsersSettings.model_validate(args))


def _check_redis(args: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    url = redis_url(environment)
    with suppress(ValidationError):
        ClassifierSettings.model_validate(args).cache.kind_with(url)
