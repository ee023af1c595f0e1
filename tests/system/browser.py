"""A headless Chromium for tests, Debian's, driven by Selenium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

LOAD_S = 60


@contextmanager
def chromium(profile: Path, width: int, height: int = 900) -> Iterator[webdriver.Chrome]:
    """Yield a browser whose page is `width` CSS pixels wide; it loads nothing from the internet by itself."""
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for switch in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        "--hide-scrollbars", f"--user-data-dir={profile}", "--no-proxy-server",
    ):  # fmt: skip
        options.add_argument(switch)
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": width, "height": height}})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        browser.set_page_load_timeout(LOAD_S)
        yield browser
    finally:
        browser.quit()


def errors_of(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    """Return what the page wrote to the console as an error."""
    entries: list[dict[str, Any]] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry for entry in entries if entry["level"] == "SEVERE"]
