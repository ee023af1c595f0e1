"""docs/configuration.md: it is what its command prints, and has every key, default, unit and variable there is."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from serve_app.cache.settings import CacheSettings
from serve_app.classifier.job_settings import JobSettings
from serve_app.classifier.settings import ClassifierSettings
from serve_app.configuration import unit_of
from serve_app.deployments.config_file import SERVE_SCHEMAS
from serve_app.deployments.model import ClassifierDeployment
from serve_app.deployments.options import CLASSIFIER, USERS, DeploymentOptions
from serve_app.deployments.users import UsersDeployment
from serve_app.entrance.environment import read_env_file
from serve_app.entrance.keys import KeySource
from serve_app.users.settings import UsersSettings
from tests.service import CONFIGS, ROOT, read_config

PAGE = ROOT / "docs" / "configuration.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "Application `users`: below `args`": UsersSettings,
    "Application `model`: below `args`": ClassifierSettings,
    "`cache` of `model`": CacheSettings,
    "`jobs` of `model`": JobSettings,
    "`auth` of both: `keys_env` or `keys_file`": KeySource,
}
NO_VALUE = {"not set", "its own keys"}


def rows_of(title: str) -> dict[str, list[str]]:
    """Return the cells of each row of a section's table, by the key in the first one."""
    sections = re.split(r"^#{2,3} (.*)\n", PAGE.read_text(), flags=re.MULTILINE)
    text = sections[sections.index(title) + 1]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def test_the_page_is_what_its_command_prints() -> None:
    command = [sys.executable, *re.findall(r"`python (-m serve_app\.configuration) >", PAGE.read_text())[0].split()]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed == PAGE.read_text(), "make docs/configuration.md again with the command that it names"


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_of_the_settings_has_a_row_with_its_default_unit_and_meaning(title: str) -> None:
    settings, rows = SECTIONS[title], rows_of(title)
    assert list(rows) == list(settings.model_fields)
    for key, (default, unit, _, meaning) in rows.items():
        field = settings.model_fields[key]
        if default not in NO_VALUE:
            assert yaml.safe_load(default.strip("`")) == field.default
        if {int, float} & {field.annotation, *get_args(field.annotation)}:
            assert unit, f"{key} is a number without a unit"
        assert meaning.endswith(".")


@pytest.mark.parametrize("title", SECTIONS)
def test_what_the_page_calls_defaults_can_be_written_and_changes_nothing(title: str) -> None:
    settings = SECTIONS[title]
    given = {key: row[0].strip("`") for key, row in rows_of(title).items() if row[0] not in NO_VALUE}
    needed = {"keys_env": "API_KEYS"} if settings is KeySource else {}
    written = yaml.safe_load("".join(f"{key}: {default}\n" for key, default in given.items()))
    assert settings.model_validate(written | needed) == settings.model_validate(needed)


def test_a_unit_is_said_once() -> None:
    """By the end of the key, or else in the field: `_s`, `_bytes` and `_percent` need no second word."""
    classes: list[type[BaseModel]] = [*SECTIONS.values(), DeploymentOptions]
    for settings in classes:
        for key, field in settings.model_fields.items():
            assert not (key.endswith(("_s", "_bytes", "_percent")) and field.json_schema_extra)
            if key.endswith(("_s", "_bytes", "_percent")):
                assert unit_of(key, field) in {"s", "bytes", "%"}


def test_every_option_of_the_deployments_has_a_row_and_is_what_serve_gets() -> None:
    rows = rows_of("Deployments: items of `deployments`")
    assert list(rows) == list(DeploymentOptions.model_fields)
    for column, wanted, deployment in ((0, USERS, UsersDeployment), (1, CLASSIFIER, ClassifierDeployment)):
        got: Any = deployment
        for key, value in wanted.model_dump().items():
            assert yaml.safe_load(rows[key][column].strip("`")) == value
            found = got.ray_actor_options if key == "ray_actor_options" else getattr(got._deployment_config, key)
            found = found.model_dump() if isinstance(found, BaseModel) else found
            assert found == value or found.items() >= value.items()


@pytest.mark.parametrize("place", SERVE_SCHEMAS)
def test_every_key_of_serve_has_a_row(place: str) -> None:
    assert list(rows_of(place)) == list(SERVE_SCHEMAS[place].model_fields)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_key_of_a_shipped_config_is_on_the_page(path: Path) -> None:
    known = {key for title in [*SECTIONS, *SERVE_SCHEMAS] for key in rows_of(title)}
    found = set(keys_in(read_config(path.name)))
    assert found
    assert found <= known


def keys_in(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys_in(inner)


def test_every_variable_of_serve_env_has_a_row_with_its_value_and_meaning() -> None:
    rows = rows_of("The data plane: serve.env")
    found = read_env_file(CONFIGS / "serve.env")
    assert {name: value.strip("`").strip('"') for name, (value, _) in rows.items()} == found
    assert all(meaning.endswith(".") for _, meaning in rows.values())


def test_every_variable_that_the_code_names_is_on_the_page() -> None:
    """A variable is read by its name, which stands in the code as a text of its own."""
    named = set()
    for folder in ("serve_app", "loadtest"):
        for path in (ROOT / folder).rglob("*.py"):
            texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            named |= {text for text in texts if isinstance(text, str) and re.fullmatch(VARIABLE, text)}
    assert {"REDIS_URL", "DATABASE_URL", "SERVE_APP_RUN_DIR", "LOADTEST_API_KEY", "RAY_TMPDIR"} <= named
    page = PAGE.read_text()
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []


VARIABLE = r"(RAY|SERVE|LOADTEST|REDIS|DATABASE)_[A-Z_]+"
