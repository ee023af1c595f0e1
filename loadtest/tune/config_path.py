"""Finds and replaces single values of a YAML file by a path, and changes nothing else, comments included.

A path is `key.key[name=value].key`: a key of a mapping, or of the one item of a list whose field has that value. A key
that the file leaves to its default is added. A value that an anchor of YAML gives to several places is refused, also
where the anchor is on what the value is in: its text stands at one of them only.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Any

import yaml

from loadtest.plan.yaml_file import KitLoader, compose_yaml, load_yaml

Scalar = bool | int | float | str

_STEP = re.compile(r"(?P<key>[\w-]+)(?:\[(?P<field>[\w-]+)=(?P<wanted>[^\[\]]+)\])?")
_BLOCK_STYLES = ("|", ">")
_ANCHOR = re.compile(r"(?:!\S*\s+)?&(?P<name>[^\s,\[\]{}]+)")
"""How a value with an anchor begins; a tag may come first."""
_MERGE = "<<"
_LIKE = 0.85
"""Of 1: from this likeness on (difflib's ratio) a key that is not there is taken for a misspelling."""


def check_path(path: str) -> str:
    """Return the path. Raises ValueError when it is not of the form above."""
    _steps(path)
    return path


def read_value(text: str, path: str) -> Scalar | None:
    """Return the value at `path` in the YAML `text`; None where the file leaves the key to its default.

    Raises ValueError that says what is there instead, also for a key that resembles an existing one.
    """
    node, missing = _find(text, path)
    if missing:
        return None
    value: Scalar = load_yaml(text[node.start_mark.index : node.end_mark.index])
    return value


def replace_values(text: str, values: Mapping[str, Scalar]) -> str:
    """Return the YAML `text` with these values at these paths. Raises ValueError."""
    for path, value in values.items():
        text = _replace(text, path, _render(value))
    return text


class _PlacedLoader(KitLoader):
    """Gives an alias a place of its own; PyYAML has the node with the anchor there, and that one's place."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Return the node that comes next."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        if node is not None and isinstance(event, yaml.AliasEvent):
            node = copy(node)
            node.start_mark = event.start_mark
        return node


def _replace(text: str, path: str, value: str) -> str:
    node, missing = _find(text, path)
    begin, end = node.start_mark.index, node.end_mark.index
    if isinstance(node, yaml.ScalarNode):
        return text[:begin] + value + text[end:]
    for key in reversed(missing[1:]):
        value = f"{{{key}: {value}}}"
    entry = f"{missing[0]}: {value}"
    if node.flow_style:
        return text[: begin + 1] + entry + (", " if node.value else "") + text[begin + 1 :]
    return text[:begin] + entry + "\n" + " " * node.start_mark.column + text[begin:]


def _compose(text: str) -> yaml.Node | None:
    try:
        return compose_yaml(text, _PlacedLoader)
    except ValueError as exc:
        raise ValueError(f"is not YAML: {exc}") from exc


def _steps(path: str) -> list[re.Match[str]]:
    # A point inside brackets belongs to the value that is looked for.
    found = [_STEP.fullmatch(step) for step in re.split(r"\.(?![^\[]*\])", path)]
    steps = [step for step in found if step]
    if len(steps) < len(found):
        raise ValueError(f"{path!r} is not a path such as `applications[name=model].args.threads`")
    return steps


def _find(text: str, path: str) -> tuple[yaml.ScalarNode | yaml.MappingNode, list[str]]:
    """Return the value at `path` and no keys; or the mapping in which keys of the path are missing, and these keys."""
    node, here, steps = _compose(text), "", _steps(path)
    events = yaml.parse(text, _PlacedLoader) if "*" in text else ()  # an alias begins with it
    aliases = {event.anchor for event in events if isinstance(event, yaml.AliasEvent)}
    for number, step in enumerate(steps):
        left = steps[number:]
        if isinstance(node, yaml.MappingNode) and _may_be_added(node, left):
            if _MERGE in _keys(node):
                raise ValueError(
                    f"{here or 'the file'} may have {step['key']!r} from its `<<`; write the value out there"
                )
            _check_anchor(text, node, here)
            return node, [step["key"] for step in left]
        node = _child(node, step["key"], here)
        here = f"{here}.{step['key']}" if here else step["key"]
        _check_shared(text, node, here, aliases)
        if step["field"]:
            node = _item(node, step["field"], step["wanted"], here)
            here += f"[{step['field']}={step['wanted']}]"
            _check_shared(text, node, here, aliases)
    if not isinstance(node, yaml.ScalarNode) or node.style in _BLOCK_STYLES:
        raise ValueError(f"{here} is not a single value")
    _check_anchor(text, node, here)
    return node, []


def _check_shared(text: str, node: yaml.Node, here: str, aliases: set[str | None]) -> None:
    if text.startswith("*", node.start_mark.index):
        raise ValueError(f"{here} is an alias (`*`) of what stands elsewhere; write the value out there")
    anchor = _ANCHOR.match(text, node.start_mark.index)
    if anchor and anchor["name"] in aliases:
        told = f"(`&`), and `*{anchor['name']}` stands elsewhere, so several places would change"
        raise ValueError(f"{here} has an anchor {told}; write the value out there")


def _check_anchor(text: str, node: yaml.Node, here: str) -> None:
    if _ANCHOR.match(text, node.start_mark.index):
        raise ValueError(f"{here or 'the file'} has an anchor (`&`), so other places may share it; write the value out")


def _may_be_added(node: yaml.MappingNode, left: list[re.Match[str]]) -> bool:
    """Return whether a mapping lacks the next key, and has no similar one of which it may be a misspelling."""
    known = _keys(node)
    key = left[0]["key"]
    return not (key in known or _nearest(key, known) or any(step["field"] for step in left))


def _nearest(key: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(key, known, 1, _LIKE)), None)


def _keys(node: yaml.Node | None) -> dict[str, yaml.Node]:
    return {str(name.value): child for name, child in node.value} if isinstance(node, yaml.MappingNode) else {}


def _child(node: yaml.Node | None, key: str, here: str) -> yaml.Node:
    children = _keys(node)
    if key not in children:
        nearest = _nearest(key, children)
        meant = f"; did you mean {nearest}?" if nearest else f"; known: {', '.join(children) or 'none'}"
        raise ValueError(f"{here or 'the file'} has no key {key!r}{meant}")
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
