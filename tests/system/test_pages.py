"""The pages that people look at, in a real browser: nothing is cut off, on a desk or on a phone."""

from pathlib import Path

import pytest

from tests.system.browser import chromium, errors_of

ROOT = Path(__file__).parents[2]
REPORTS = [ROOT / "docs/reports/published/report.html", ROOT / "tests/recorded/run/run/report.html"]
HEIGHTS = {1280: 720, 390: 844}
"""Of a first screen, by its width, in CSS pixels."""

pytestmark = pytest.mark.system("chromium", "chromedriver")


@pytest.mark.parametrize("report", REPORTS, ids=["published", "recorded"])
@pytest.mark.parametrize("width", HEIGHTS)
def test_the_report_fits_the_screen_shows_its_pictures_and_loads_nothing(
    tmp_path: Path, width: int, report: Path
) -> None:
    with chromium(tmp_path, width) as browser:
        browser.get(report.as_uri())
        assert browser.execute_script("return window.innerWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        pictures = browser.execute_script(
            "return [...document.querySelectorAll('figure > svg')].map(svg => svg.getBoundingClientRect().toJSON())"
        )
        assert len(pictures) >= 5
        assert all(box["left"] >= 0 and box["right"] <= width and box["height"] > 100 for box in pictures)
        papers = browser.execute_script(
            "return [...document.querySelectorAll('figure svg svg')].map(svg => svg.getBoundingClientRect().width > 0)"
        )
        assert papers == [shown for _ in pictures for shown in (True, False)]
        answer = browser.execute_script(
            "return document.querySelector('header blockquote').getBoundingClientRect().toJSON()"
        )
        assert 0 < answer["top"] < answer["bottom"] <= HEIGHTS[width]
        assert answer["right"] - answer["left"] >= 0.9 * width
        cut = browser.execute_script(
            "return [...document.querySelectorAll('header .table')].filter(box => box.scrollWidth > box.clientWidth)"
        )
        assert cut == []
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [name for name in loaded if not name.startswith("data:")] == []
        assert errors_of(browser) == []
