"""Tables in Markdown: whatever is quoted stays in its cell."""

import pytest

from loadtest.page.markdown import escape, make_aligned_table, make_table

QUOTED = "a|b\n<b>c</b>  \x0bd < e"


@pytest.mark.parametrize("make", [make_table, make_aligned_table])
def test_what_is_quoted_stays_in_its_cell(make: object) -> None:
    assert callable(make)
    table = make([QUOTED, "n"], [[QUOTED, "1"], ["x", "22"]]).splitlines()
    assert len(table) == 4
    assert table[2].split(" | ")[0].rstrip() == table[0].split(" | ")[0].rstrip() == r"| a\|b \<b>c\</b> d < e"
    assert escape(QUOTED) == r"a|b \<b>c\</b> d < e"


def test_columns_of_numbers_are_aligned_to_the_right_and_in_the_source() -> None:
    rows = [["x", "1.5 ms", "0 %", "1 to 2"], ["long name", "—", "+12 %", "—"]]
    assert make_aligned_table(["a", "b", "c", "d"], rows).splitlines() == [
        "| a         |      b |     c | d      |",
        "| --------- | -----: | ----: | ------ |",
        "| x         | 1.5 ms |   0 % | 1 to 2 |",
        "| long name |      — | +12 % | —      |",
    ]
    assert make_aligned_table(["a"], []) == ""


def test_a_table_without_rows_keeps_its_header_and_alignment_is_as_asked() -> None:
    assert make_table(["a", "b"], [], right=[1]) == "| a | b |\n| --- | ---: |"
