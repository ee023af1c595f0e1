"""The kit's one reader of YAML: plans, tune files, fault plans, baselines and tables to audit.

It reads by the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema), where a value is what it looks
like. PyYAML reads by YAML 1.1: `0150` as 104, `1:30` as 90, `no` and `off` as false, `2026-01-02` as a date, `1e3` as
text. A duplicate key is an error: PyYAML would silently keep the last one. Of YAML 1.1, `<<` is kept.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from loadtest.errors import BadInputError

_TAG = "tag:yaml.org,2002:"

# Tag, pattern, and the characters that a value of it can begin with.
_CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
)


class KitLoader(yaml.SafeLoader):
    """Reads the core schema of YAML 1.2, and one value for each key."""

    # PyYAML's class has those of YAML 1.1.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # as PyYAML has it

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the mapping that comes next. Raises ConstructorError for a duplicate key."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[Any, yaml.ScalarNode] = {}
        for key, _ in node.value:
            known = first.setdefault(self._read_key(key), key) if isinstance(key, yaml.ScalarNode) else key
            if known is not key:
                fault = f"the key {key.value!r} appears twice, first in line {known.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(None, None, fault, key.start_mark)
        return node

    def _read_key(self, key: yaml.ScalarNode) -> Any:
        # Mappings know keys by their values: 01 is 1, and True is true.
        return key.tag if key.tag == f"{_TAG}merge" else self.construct_object(key)


def construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    """Return the number in a node; a constructor of YAML loaders."""
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)


for _name, _pattern, _first in _CORE_SCHEMA:
    KitLoader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), _first)
KitLoader.add_constructor(f"{_TAG}int", _construct_int)
KitLoader.add_constructor(f"{_TAG}float", construct_float)


def read_yaml_file(path: Path, loader: type[KitLoader] = KitLoader) -> Any:
    """Return what the YAML file at `path` holds. Raises BadInputError."""
    try:
        return load_yaml(path.read_text(encoding="utf-8"), loader)
    except OSError as exc:
        raise BadInputError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise BadInputError(f"{path}: is not YAML: {exc}") from exc


def read_yaml_mapping(path: Path, keys: list[str], loader: type[KitLoader] = KitLoader) -> dict[str, Any]:
    """Return the mapping in the YAML file at `path`. Raises BadInputError, with the `keys` that it may have."""
    found = read_yaml_file(path, loader)
    if not isinstance(found, dict):
        raise BadInputError(f"{path}: must be a mapping with the keys {', '.join(keys)}")
    return found


def load_yaml(text: str, loader: type[KitLoader] = KitLoader) -> Any:
    """Return what YAML text holds. Raises ValueError with the place of what is wrong."""
    with _with_place():
        return yaml.load(text, loader)  # noqa: S506 # it is a SafeLoader


def compose_yaml(text: str, loader: type[KitLoader] = KitLoader) -> yaml.Node | None:
    """Return the nodes of YAML text, each with its place. Raises ValueError."""
    with _with_place():
        return yaml.compose(text, loader)


@contextmanager
def _with_place() -> Iterator[None]:
    try:
        yield
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{exc.problem or exc.context}") from exc
    except yaml.YAMLError as exc:
        raise ValueError(" ".join(str(exc).split())) from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    except (LookupError, AttributeError) as exc:  # PyYAML's own, of a tag such as !!bool before something else
        raise ValueError(f"a value does not fit its tag: {exc}") from exc
