"""The generated parts of docs/faults.md, docs/soak.md and docs/overload.md have the words that the kit writes now."""

import re
from pathlib import Path

import pytest

from tests.kit import ROOT
from tests.recorded.kinds import RECORDED

IDIOM = re.compile(
    r"\b(?:anew|nobody|struck|lived on|of its own|what came of it|so many|as it stands|goes on)\b", re.IGNORECASE
)


def without_figures(text: str) -> str:
    """Return text with one space between its words, and a # for each figure and each name of an endpoint."""
    text = re.sub(r"`(?:serial|fixed|predict|lookup)`", "`#`", text)
    return re.sub(r"\d+(?:\.\d+)?", "#", " ".join(text.split()))


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [
        ("faults", "Definitions:", "Observations:"),
        ("soak", "Memory is", "begins with the fault."),
        ("overload", "The capacity is", "recovery."),
    ],
)
def test_a_page_of_the_manual_defines_its_terms_as_the_kit_does(kind: str, first: str, last: str) -> None:
    written = (RECORDED / kind / kind / f"{kind}.md").read_text()
    part = without_figures(written[written.index(first) :])
    part = part[: part.index(last) + len(last)]
    assert len(part) > 100
    assert part in without_figures((ROOT / "docs" / f"{kind}.md").read_text())


@pytest.mark.parametrize(
    "path", [*RECORDED.glob("*/*/faults.md"), *RECORDED.glob("*/*/soak.md"), *RECORDED.glob("*/*/overload.md")]
)
def test_a_generated_page_has_no_foreign_idiom(path: Path) -> None:
    assert IDIOM.findall(path.read_text()) == []
