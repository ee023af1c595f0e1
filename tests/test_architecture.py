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


def test_every_room_of_the_service_is_on_the_page() -> None:
    rooms = {path.parent.name for path in (ROOT / "serve_app").glob("*/__init__.py")} - {"redis"}
    assert rooms == set(re.findall(r"^\| `serve_app/(\w+)` \|", PAGE, re.MULTILINE))
