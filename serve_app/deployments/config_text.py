"""Reads the YAML of a Serve config. Imports no Ray."""

import re
from pathlib import Path
from typing import Any

import yaml

from serve_app.errors import SetupError

USERS = "serve_app.deployments.users:build"
MODEL = "serve_app.deployments.model:build"


_QUOTED = re.compile(r"""'(?!<|\\?.')[^']*'|"[^"]*\"""")
"""What PyYAML repeats of a text, but for names of its own and single characters."""
_TAG = "tag:yaml.org,2002:"
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+\Z")
_MOST = 2**64
"""No key takes more, and sums with much larger numbers end in an OverflowError."""
_AMBIGUOUS = "YAML 1.1 takes 010 for 8 and 1:30 for 90; write the number in decimal, or text in quotes"


class _Refusal(yaml.constructor.ConstructorError):
    """Words of ours, which may be shown."""

    def __init__(self, words: str, mark: Any) -> None:
        super().__init__(None, None, words, mark)


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.1, as Serve does, but for what one does not see to mean something else.

    Refuses a key that stands twice in a mapping, of which YAML readers keep the last in silence, and numbers that begin
    with 0 (octal) or have a colon (sexagesimal).
    """

    # Those of the class, and our own: a leading 0 before 8 or 9 would make text of a number.
    yaml_implicit_resolvers = {  # noqa: RUF012 # as PyYAML has it
        first: [*known, *([(f"{_TAG}int", _LEADING_ZERO)] if first in "-+0" else ())]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if not isinstance(node, yaml.ScalarNode) or node.tag not in (f"{_TAG}int", f"{_TAG}float"):
            return node
        where = f"{_shown(index)}: " if isinstance(index, yaml.ScalarNode) else ""
        if ":" in node.value or _LEADING_ZERO.match(node.value):
            raise _Refusal(f"{where}{_AMBIGUOUS}", node.start_mark)
        if node.tag == f"{_TAG}int" and abs(self.construct_object(node)) > _MOST:
            raise _Refusal(f"{where}the number is above 2^64; write a smaller one", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here, as a mapping that others are merged into has keys twice later on.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                # By what it is read as: 1 is 0x1, and yes is true.
                read = key.tag if key.tag == f"{_TAG}merge" else self.construct_object(key)
                if read in seen:
                    raise _Refusal(f"the key {_shown(key)} stands twice", key.start_mark)
                seen.add(read)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 # as PyYAML has it
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, TypeError):  # PyYAML's own, some of which quote the value
            raise _Refusal("the value is not what it looks like or is said to be", node.start_mark) from None


def _shown(key: yaml.ScalarNode) -> str:
    return repr(key.value) if re.fullmatch(r"[\w.<-]+", key.value) else "…"  # else it may be a URL with a password


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
        return yaml.load(text, _Loader)  # noqa: S506 a SafeLoader
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        words = exc.problem if isinstance(exc, _Refusal) else _QUOTED.sub("…", str(exc.problem))
        raise SetupError(f"not {'usable' if isinstance(exc, _Refusal) else 'YAML'}: {where}{words}") from None
    except RecursionError:
        raise SetupError("not YAML: it is nested too deeply") from None
    except yaml.YAMLError:
        raise SetupError("not YAML: it has characters that YAML does not allow") from None
