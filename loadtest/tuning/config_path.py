"""Finds and replaces single values of a YAML file by a path, and leaves all else as it stands, comments included.

A path is `key.key[name=value].key`: a key of a mapping, or of the one item of a list whose field has that value.
"""

import re
from collections.abc import Mapping

import yaml

from loadtest.yaml_file import compose_yaml, load_yaml

Scalar = bool | int | float | str

_STEP = re.compile(r"(?P<key>[\w-]+)(?:\[(?P<field>[\w-]+)=(?P<wanted>[^\[\]]+)\])?")
_BLOCK_STYLES = ("|", ">")


def check_path(path: str) -> str:
    """Return the path. Raises ValueError when it is not of the form above."""
    _steps(path)
    return path


def read_value(text: str, path: str) -> Scalar:
    """Return the value at `path` in the YAML `text`. Raises ValueError that says what stands there instead."""
    node = _find(_compose(text), path)
    value: Scalar = load_yaml(text[node.start_mark.index : node.end_mark.index])
    return value


def replace_values(text: str, values: Mapping[str, Scalar]) -> str:
    """Return the YAML `text` with the values at these paths instead of its own. Raises ValueError."""
    root = _compose(text)
    spans = {path: _find(root, path) for path in values}
    for path, node in sorted(spans.items(), key=lambda item: item[1].start_mark.index, reverse=True):
        text = text[: node.start_mark.index] + _render(values[path]) + text[node.end_mark.index :]
    return text


def _compose(text: str) -> yaml.Node | None:
    try:
        return compose_yaml(text)
    except ValueError as exc:
        raise ValueError(f"is not YAML: {exc}") from exc


def _steps(path: str) -> list[re.Match[str]]:
    # A point inside brackets belongs to the value that is looked for.
    found = [_STEP.fullmatch(step) for step in re.split(r"\.(?![^\[]*\])", path)]
    steps = [step for step in found if step]
    if len(steps) < len(found):
        raise ValueError(f"{path!r} is not a path such as `applications[name=model].args.threads`")
    return steps


def _find(root: yaml.Node | None, path: str) -> yaml.ScalarNode:
    node, here = root, ""
    for step in _steps(path):
        node = _child(node, step["key"], here)
        here = f"{here}.{step['key']}" if here else step["key"]
        if step["field"]:
            node = _item(node, step["field"], step["wanted"], here)
            here += f"[{step['field']}={step['wanted']}]"
    if not isinstance(node, yaml.ScalarNode) or node.style in _BLOCK_STYLES:
        raise ValueError(f"{here} is not a single value")
    return node


def _child(node: yaml.Node | None, key: str, here: str) -> yaml.Node:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    children: dict[str, yaml.Node] = {name.value: child for name, child in pairs}
    if key not in children:
        known = ", ".join(map(str, children)) or "none"
        raise ValueError(f"{here or 'the file'} has no key {key!r}; known: {known}")
    return children[key]


def _item(node: yaml.Node, field: str, wanted: str, here: str) -> yaml.Node:
    items = node.value if isinstance(node, yaml.SequenceNode) else []
    values = [_field(item, field) for item in items]
    if values.count(wanted) != 1:
        known = ", ".join(value for value in values if value is not None) or "none"
        raise ValueError(f"{here} has {values.count(wanted)} items with {field}={wanted}; known: {known}")
    found: yaml.Node = items[values.index(wanted)]
    return found


def _field(item: yaml.Node, field: str) -> str | None:
    if not isinstance(item, yaml.MappingNode):
        return None
    return next((str(child.value) for name, child in item.value if name.value == field), None)


def _render(value: Scalar) -> str:
    return yaml.safe_dump(value, width=10_000).removesuffix("...\n").strip()
