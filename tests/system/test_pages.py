"""The pages that people look at, in a real browser: nothing is cut off, on a desk or on a phone."""

from pathlib import Path

import pytest

from tests.system.browser import chromium, errors_of

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "docs" / "reports" / "published" / "report.html"

pytestmark = pytest.mark.system("chromium", "chromedriver")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_fits_the_screen_shows_its_pictures_and_loads_nothing(tmp_path: Path, width: int) -> None:
    with chromium(tmp_path, width) as browser:
        browser.get(REPORT.as_uri())
        assert browser.execute_script("return window.innerWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        pictures = browser.execute_script(
            "return [...document.querySelectorAll('svg')].map(svg => svg.getBoundingClientRect().toJSON())"
        )
        assert len(pictures) >= 5
        assert all(box["left"] >= 0 and box["right"] <= width and box["height"] > 100 for box in pictures)
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [name for name in loaded if not name.startswith("data:")] == []
        assert errors_of(browser) == []
