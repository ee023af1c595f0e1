"""`python -m serve_app.configuration` prints docs/configuration.md: every key, from the settings classes."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from serve_app import places, service_folder
from serve_app.cache.settings import CacheSettings
from serve_app.classifier.job_settings import JobSettings
from serve_app.classifier.settings import ClassifierSettings
from serve_app.deployments import options, ports
from serve_app.deployments.config_file import SERVE_SCHEMAS
from serve_app.deployments.invalid_values import serve_default
from serve_app.entrance import haproxy, tls, under_way
from serve_app.entrance.environment import SERVE_ENV
from serve_app.entrance.keys import KeySource
from serve_app.entrance.tls import Tls
from serve_app.redis.address import VARIABLE as REDIS_VARIABLE
from serve_app.users.settings import VARIABLE as DATABASE_VARIABLE
from serve_app.users.settings import UsersSettings

_SUFFIX_UNITS = {"_s": "s", "_bytes": "bytes", "_percent": "%"}
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}

_HAPROXY_FILES = service_folder.haproxy_files(Path("folder"))

_HEAD = """# Configuration

Made by `python -m serve_app.configuration > docs/configuration.md` from the settings classes; a test keeps both equal.

A config is a YAML file for Ray Serve. `make serve CONFIG=…`, `serve run` and `python -m serve_app` take its path;
`python -m serve_app`, or `serve-app` where the package is installed, also takes the name of a shipped one:
{names}. A key that is left out has the default listed here.
A misspelled key stops the start, and the message names the nearest right one;
`python -m serve_app --check CONFIG` checks without starting.
(`serve run` refuses misspelled keys below `args` only; it silently ignores others.)
"""
_OPTIONS = """`num_replicas` is the number of processes that serve. These options have other defaults than Serve's:
"""
_TLS = """Left out, the service speaks HTTP. HAProxy terminates HTTPS. It looks at both files every 2 s and shows a new
pair to new connections without a restart. `python -m serve_app.redeploy` does not change these paths, and warns if the
ingress speaks something else: HAProxy gets them when Ray starts. [cluster.md](cluster.md#https) says more.
"""
_SERVE_ENV = """Serve and HAProxy read these variables when Ray starts. They come from the `serve.env` beside the
config, or else from the shipped one; a variable that is already in the environment wins.
"""
_SERVE = """The other keys are Ray Serve's, described in its words. The defaults of `deployments` above go first.
[Serve's documentation](https://docs.ray.io/en/latest/serve/configure-serve-deployment.html) says more.
"""


@dataclass(frozen=True)
class Variable:
    """An environment variable that the service reads itself."""

    name: str
    default: str
    meaning: str


VARIABLES = (
    Variable(DATABASE_VARIABLE, "a SQLite file in SERVE_APP_DATA_DIR", "The users: postgresql://… or sqlite:///…"),
    Variable(REDIS_VARIABLE, "not set", "Redis for cache and jobs: redis://…, rediss://… or unix://…; docs/redis.md."),
    Variable("the NAME in `auth: {keys_env: NAME}`", "not set", "API keys, `name: KEY` or `KEY`, separated by commas."),
    Variable(places.DATA_VARIABLE, "the user's data folder", "Folder of the demo database."),
    Variable(places.CACHE_VARIABLE, "the user's cache folder", "Folder of prepared models and downloads."),
    Variable(service_folder.VARIABLE, "serve-app-UID in /tmp", "Folder of running services, with one folder per port."),
    Variable(
        under_way.VARIABLE, "set by the launcher", "Folder of this service, for its own processes. Do not set it."
    ),
    Variable(tls.CERT_VARIABLE, "`tls.cert` of the config", "For HAProxy where no launcher sets it."),
    Variable(tls.KEY_VARIABLE, "`tls.key` of the config", "Likewise."),
    Variable(haproxy.HEADER_TIMEOUT_VARIABLE, f"{haproxy.HEADER_TIMEOUT_S} (s)", "See serve.env, below."),
    Variable(haproxy.BINARY_VARIABLE, haproxy.PROGRAM, "What Ray starts as HAProxy. This program hardens its config."),
    *(
        Variable(use.variable, f"{use.usual}, or the next free one", f"Port of {use.name}.")
        for use in (*ports.HAPROXY_PORTS, *ports.GRPC_PORTS)
    ),
    Variable(ports.REPLICA_PORTS[0], "30000, or the next free block of 250", "First port of the replicas."),
    Variable(ports.REPLICA_PORTS[1], "the end of that block", "The first port after those of the replicas."),
    Variable(ports.GRPC_REPLICA_PORTS[0], "40000, or the next free block of 250", "The same for their gRPC ports."),
    Variable(ports.GRPC_REPLICA_PORTS[1], "the end of that block", "The first port after those."),
    *(Variable(name, "in the folder of this service", "A file of HAProxy.") for name in _HAPROXY_FILES),
    Variable("RAY_AUTH_MODE", "token", "Any other value is refused: without Ray's token everyone may run code."),
    Variable("RAY_AUTH_TOKEN", "what the file below holds", "Ray's token, for the launcher and `redeploy`."),
    Variable("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token", "File of Ray's token."),
    Variable("RAY_DASHBOARD_ADDRESS", "that of your service on the config's port", "The dashboard, for `redeploy`."),
    Variable(service_folder.RAY_VARIABLE, "a folder in SERVE_APP_RUN_DIR", "Folder of Ray's sessions and logs."),
    Variable("LOADTEST_API_KEY", "not set", "The API key that the stress kit sends."),
)


def main() -> int:
    """Print the page."""
    sys.stdout.write(render_page())
    return 0


def render_page() -> str:
    """Return docs/configuration.md."""
    names = ", ".join(f"`{path.stem}`" for path in sorted(SERVE_ENV.parent.glob("*.yaml")))
    return "\n".join(
        [
            _HEAD.format(names=names),
            *_section("Application `users`: below `args`", settings_table(UsersSettings)),
            *_section("Application `model`: below `args`", settings_table(ClassifierSettings)),
            *_section("`cache` of `model`", settings_table(CacheSettings)),
            *_section("`jobs` of `model`", settings_table(JobSettings)),
            *_section("`auth` of both: `keys_env` or `keys_file`", settings_table(KeySource)),
            *_section("`tls` at the top: HTTPS", [_TLS, *settings_table(Tls)]),
            *_section("Deployments: items of `deployments`", [_OPTIONS, *_options_table()]),
            *_section("Environment variables", _variables_table()),
            *_section("The data plane: serve.env", [_SERVE_ENV, *_environment_table(SERVE_ENV)]),
            *_section("Serve's keys", [_SERVE]),
            *(line for place, schema in SERVE_SCHEMAS.items() for line in _serve_section(place, schema)),
        ]
    )


def settings_table(settings: type[BaseModel]) -> Iterator[str]:
    """Yield a table with a row for each key of the settings."""
    yield from _table(
        ("key", "default", "unit", "values", "meaning"),
        (
            (f"`{key}`", _default(default_of(field)), unit_of(key, field), _values(field), field.description or "")
            for key, field in settings.model_fields.items()
        ),
    )


def default_of(field: FieldInfo) -> object:
    """Return the value of a key that is left out; PydanticUndefined where it must be given."""
    return field.get_default(call_default_factory=True)


def unit_of(key: str, field: FieldInfo) -> str:
    """Return what a number counts or measures: by the end of its key, or as the field says; "" for other values."""
    extra = field.json_schema_extra
    if isinstance(extra, dict):
        return str(extra["unit"])
    return next((unit for suffix, unit in _SUFFIX_UNITS.items() if key.endswith(suffix)), "")


def read_meanings(path: Path) -> dict[str, tuple[str, str]]:
    """Return value and comment of each variable of an environment file."""
    found: dict[str, tuple[str, str]] = {}
    comment: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        name, is_assignment, value = line.partition("=")
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif is_assignment:
            found[name] = value, " ".join(comment)
            comment = []
        else:
            comment = []
    return found


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"## {title}\n"
    yield from lines
    yield ""


def _serve_section(place: str, schema: type[BaseModel]) -> Iterator[str]:
    yield f"### {place}\n"
    yield from _table(
        ("key", "Serve's default", "Serve's words"),
        (
            (f"`{key}`", _default(serve_default(schema, key)), _first_sentence(field.description or ""))
            for key, field in schema.model_fields.items()
        ),
    )
    yield ""


def _options_table() -> Iterator[str]:
    yield from _table(
        ("key", "`Users`", "`Classifier`", "`Engine`", "unit", "meaning"),
        (
            (
                f"`{key}`",
                _shown(getattr(options.USERS, key)),
                _shown(getattr(options.CLASSIFIER, key)),
                _shown(getattr(options.ENGINE, key)),
                unit_of(key, field),
                field.description or "",
            )
            for key, field in options.DeploymentOptions.model_fields.items()
        ),
    )


def _variables_table() -> Iterator[str]:
    rows = ((f"`{one.name}`" if " " not in one.name else one.name, one.default, one.meaning) for one in VARIABLES)
    return _table(("variable", "default", "meaning"), rows)


def _environment_table(path: Path) -> Iterator[str]:
    rows = ((f"`{name}`", f"`{value}`", meaning) for name, (value, meaning) in read_meanings(path).items())
    return _table(("variable", "shipped value", "meaning"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |"


def _default(default: object) -> str:
    if default is None:
        return "not set"
    if default is PydanticUndefined:
        return "has none"
    return "its own keys" if isinstance(default, BaseModel) else _shown(default)


def _shown(value: Any) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, Mapping):
        return f"`{{{', '.join(f'{key}: {inner}' for key, inner in value.items())}}}`"
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, float):
        value = str(value).removesuffix(".0")
    return f"`{getattr(value, 'value', value)}`" if value != "" else "`''`"


def _values(field: FieldInfo) -> str:
    words = [word for each in (field.annotation, *get_args(field.annotation)) for word in _words(each)]
    if words:
        return ", ".join(words)
    bounds = [
        pattern.format(bound)
        for each in field.metadata
        for name, pattern in _BOUNDS.items()
        if (bound := getattr(each, name, None)) is not None
    ]
    return ", ".join(bounds) or ("text" if str in (field.annotation, *get_args(field.annotation)) else "")


def _words(annotation: object) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield from (f"`{word}`" for word in get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, KeySource):
        yield from (f"`{{{key}: …}}`" for key, field in annotation.model_fields.items() if field.default is None)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z\])]\.)\s", " ".join(text.split()), maxsplit=1)[0]


if __name__ == "__main__":
    sys.exit(main())
