"""docs/hostile_input.md lists every hostile request, in order, with the answer that the tests ask for."""

from pathlib import Path

from tests.hostile import cases

PAGE = Path(__file__).parents[1] / "docs" / "hostile_input.md"


def test_the_page_lists_every_kind_of_input_with_its_answer() -> None:
    _, table = PAGE.read_text(encoding="utf-8").split(
        "| kind | input | status | code | detail |\n|---|---|---|---|---|\n"
    )
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")][:4] for line in table.splitlines()]
    assert rows == [[case.kind, case.name, str(case.status), case.code] for case in cases()]
