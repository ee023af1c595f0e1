"""docs/architecture.md says what the import contracts enforce."""

import re
import tomllib

import pytest

from tests.service import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


@pytest.mark.parametrize("package", ["serve_app", "loadtest"])
def test_the_layers_of_the_page_are_those_of_the_contract(package: str) -> None:
    [contract] = [one for one in CONTRACTS if one["type"] == "layers" and one["containers"] == [package]]
    [drawing] = re.findall(rf"^The .*, `{package}`:\n\n```text\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert drawing.splitlines() == contract["layers"]


@pytest.mark.parametrize("package", ["serve_app", "loadtest"])
def test_every_room_is_on_the_page(package: str) -> None:
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")} - {"redis"}
    rows = re.findall(rf"^\| (`{package}/.*?) \|", PAGE, re.MULTILINE)
    assert rooms == {name.removeprefix(f"{package}/") for row in rows for name in re.findall(r"`([\w/]+)`", row)}
