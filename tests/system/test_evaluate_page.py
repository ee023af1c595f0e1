"""The page of `evaluate` in a real browser: it fits a phone and a desk, shows its pictures, and loads nothing."""

from pathlib import Path

import pytest
from PIL import Image

from serve_app.client.evaluate.page import write_page
from serve_app.client.evaluate.report import Card, Report, Table
from tests.system.browser import chromium, errors_of

LONG = "photos/" + "a_name_without_a_place_to_break" * 5 + ".jpg"
PICTURES = 12

pytestmark = pytest.mark.system("chromium", "chromedriver")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_screen_shows_its_pictures_and_loads_nothing(tmp_path: Path, width: int) -> None:
    picture = tmp_path / "picture.png"
    Image.radial_gradient("L").save(picture)
    cards = [
        Card(
            f"{number} {LONG}",
            [("label", ["<script>document.title = 'run'</script>"]), ("prediction", ["0.900 great white shark"] * 5)],
        )
        for number in range(PICTURES)
    ]
    report = Report(
        title="Accuracy",
        facts=[("top-1", "95.00 % (95 % interval 91.04–97.26 %); 190 of 200"), ("labels", LONG)],
        tables=[Table("Wrong pictures", ("file", "label", ">probability"), [(LONG, "great white shark", "0.900")] * 3)],
        cards=cards,
        of_cards=200,
        values={},
    )
    write_page(report, {card.file: str(picture) for card in cards[1:]}, tmp_path / "page.html")
    with chromium(tmp_path / "profile", width) as browser:
        browser.get((tmp_path / "page.html").as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        browser.execute_script("document.querySelectorAll('img').forEach(each => each.loading = 'eager')")
        browser.execute_async_script("Promise.all([...document.images].map(each => each.decode())).then(arguments[0])")
        shown = browser.execute_script(
            "return [...document.images].map(each => [each.naturalWidth, each.getBoundingClientRect().right])"
        )
        assert len(shown) == PICTURES - 1
        assert all(natural == 256 and right <= width for natural, right in shown)
        columns = browser.execute_script(
            "return new Set([...document.querySelectorAll('figure')].map(each => each.offsetLeft)).size"
        )
        assert (columns == 1) == (width == 390)
        assert browser.title == "Accuracy"
        colour = browser.execute_script("return getComputedStyle(document.querySelector('table')).borderCollapse")
        assert colour == "collapse"  # the style sheet passes the page's own policy
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [name for name in loaded if not name.startswith("data:")] == []
        assert errors_of(browser) == []
