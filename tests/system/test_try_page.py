"""The page at /try in a real browser: pictures in, classes out; what goes wrong in words; keys; phone and desk."""

import asyncio
import base64
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from fastapi import FastAPI
from PIL import Image
from selenium.webdriver import ActionChains, Chrome, Keys

from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.classifier.settings import ClassifierSettings
from serve_app.entrance.guard import Guard
from serve_app.entrance.keys import ApiKeys, KeySource
from serve_app.try_page.page import add_try_page
from serve_app.users.api import build_users_api
from serve_app.users.settings import UsersSettings
from serve_app.users.store import UserStore, ensure_seeded
from tests.patience import HANG_S
from tests.serve_app.classifier.small_networks import COLOURS, pictures, write_onnx
from tests.served_api import served
from tests.system.browser import chromium, errors_of

KEY = "a-key-of-some-length"
pytestmark = [pytest.mark.system("chromium", "chromedriver"), pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Served:
    """A classifier and users with their pages, in a thread of its own."""

    url: str
    classifier: Classifier

    @property
    def page(self) -> str:
        return f"{self.url}/model/try"


@contextmanager
def running(
    folder: Path, *, keys: KeySource | None = None, users_keys: KeySource | None = None, **args: object
) -> Iterator[Served]:
    """Serve a network that knows three colours, with `args` over its settings, and users; keys are asked for if given.

    `keys` are those of the network.
    """
    ready: Future[Served] = Future()
    end = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(folder, (keys, users_keys), args, ready, end)))
    thread.start()
    try:
        yield ready.result(HANG_S)
    finally:
        end.set()
        thread.join(HANG_S)
        assert not thread.is_alive()


async def _serve(
    folder: Path,
    sources: tuple[KeySource | None, KeySource | None],
    args: dict[str, object],
    ready: "Future[Served]",
    end: threading.Event,
) -> None:
    try:
        labels = folder / "colours.txt"
        labels.write_text("\n".join(COLOURS))
        settings = {
            "model": str(write_onnx(folder / "colours.onnx")), "engine": "onnxruntime", "labels": str(labels),
            "preprocessing": "scale_0_1", "cache": {"store": "off"},
        }  # fmt: skip
        classifier = await Classifier.load(ClassifierSettings.model_validate(settings | args))
        api = build_model_api(classifier)
        add_try_page(api, dashboard="http://127.0.0.1:8265")
        url = f"sqlite+aiosqlite:///{folder}/users.db"
        await ensure_seeded(url, 25)
        store = UserStore(url, UsersSettings())
        await store.open()
        users = build_users_api(store)
        for each, source in zip((api, users), sources, strict=True):
            Guard(ApiKeys(source) if source else None).protect(each)
        whole = FastAPI()
        whole.mount("/model", api)
        whole.mount("/user", users)

        @whole.get("/-/routes")
        async def routes() -> dict[str, str]:
            return {"/model": "model", "/user": "users"}

        async with served(whole, at="") as address:
            ready.set_result(Served(address, classifier))
            await asyncio.to_thread(end.wait)
        await store.close()
        await classifier.close()
    except BaseException as exc:
        if not ready.done():
            ready.set_exception(exc)
        raise


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with running(tmp_path_factory.mktemp("served"), max_upload_bytes=200_000) as started:
        yield started


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A picture as a file, and its class."""
    images, classes = pictures(1, seed=4)
    path = tmp_path_factory.mktemp("picture") / "it's a picture.png"
    Image.fromarray(images[0]).resize((64, 64), Image.Resampling.NEAREST).save(path)
    return path, COLOURS[int(classes[0])]


def wait(browser: Chrome, script: str) -> Any:
    """Return what a JavaScript expression is once that is true."""
    deadline = time.monotonic() + HANG_S
    while not (found := browser.execute_script(f"return {script}")):
        assert time.monotonic() < deadline, (script, browser.find_element("tag name", "body").text)
        time.sleep(0.05)
    return found


def choose(browser: Chrome, *paths: Path) -> None:
    browser.find_element("id", "files").send_keys("\n".join(map(str, paths)))


def answers(browser: Chrome, count: int) -> list[str]:
    """Return the text of each result, the newest first, once there are so many."""
    wait(browser, f"document.querySelectorAll('.classes, .out .fault').length === {count}")
    return [each.text for each in browser.find_elements("css selector", "#results > li")]


def opened(browser: Chrome, served: Served) -> None:
    browser.get(served.page)
    wait(browser, "document.querySelectorAll('#links a').length > 1")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_pictures_are_classified_and_the_page_fits_and_is_accessible(
    plain: Served, picture: tuple[Path, str], tmp_path: Path, width: int, *, dark: bool
) -> None:
    path, label = picture
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    with chromium(tmp_path, width) as browser:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        opened(browser, plain)
        choose(browser, path, path, path)
        for text in answers(browser, 3):
            assert text.splitlines()[:3] == [path.name, "Classes", text.splitlines()[2]]
            assert label in text.splitlines()[2]
            assert "inference" in text
        assert "colours.onnx on onnxruntime" in browser.find_element("id", "served").text
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        violations = Axe().run(browser)["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []
        assert errors_of(browser) == []
        links = {each.text: each.get_attribute("href") for each in browser.find_elements("css selector", "#links a")}
        assert links["API of model"] == f"{plain.url}/model/docs"
        assert links["Ray dashboard"] == "http://127.0.0.1:8265/"


def test_the_curl_line_sends_the_same_picture(plain: Served, picture: tuple[Path, str], tmp_path: Path) -> None:
    path, label = picture
    with chromium(tmp_path, 1280) as browser:
        opened(browser, plain)
        choose(browser, path)
        answers(browser, 1)
        line = browser.execute_script("return document.querySelector('pre').textContent")
    done = subprocess.run(["sh", "-c", line], cwd=path.parent, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["prediction"] == label


@pytest.mark.parametrize(
    "event",
    [
        "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})",
        "new ClipboardEvent('paste', {clipboardData: data, bubbles: true})",
    ],
)
def test_a_picture_is_taken_that_is_dropped_or_pasted(
    plain: Served, picture: tuple[Path, str], tmp_path: Path, event: str
) -> None:
    path, label = picture
    script = """
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
        document.body.dispatchEvent(EVENT);
    """.replace("EVENT", event)
    with chromium(tmp_path, 1280) as browser:
        opened(browser, plain)
        browser.execute_script(script, base64.b64encode(path.read_bytes()).decode())
        assert label in answers(browser, 1)[0]


def test_what_is_wrong_with_a_picture_is_said_in_words(plain: Served, tmp_path: Path) -> None:
    text, large = tmp_path / "text.png", tmp_path / "large.png"
    text.write_text("not a picture")
    large.write_bytes(bytes(200_001))
    with chromium(tmp_path / "profile", 390) as browser:
        opened(browser, plain)
        choose(browser, text, large)
        too_large, no_picture = answers(browser, 2)
        assert "more than the 200,000 that are taken; send a smaller one" in too_large
        assert "not a picture in one of the formats" in no_picture
        assert "unsupported_image, request " in no_picture
        browser.find_element("id", "clear").click()
        assert browser.find_elements("css selector", "#results > li") == []


def test_overload_names_the_time_to_come_back_and_the_picture_can_be_sent_again(
    picture: tuple[Path, str], tmp_path: Path
) -> None:
    path, label = picture
    with running(tmp_path, max_queue=1) as served, chromium(tmp_path / "profile", 390) as browser:
        opened(browser, served)
        with served.classifier.admission.place():
            choose(browser, path)
            [text] = answers(browser, 1)
            assert "try again later. Try again in 1 s." in text
        browser.find_element("css selector", "#results button").click()
        wait(browser, "document.querySelectorAll('.classes').length === 1")
        assert label in answers(browser, 1)[0]


def test_a_service_that_has_gone_is_told(picture: tuple[Path, str], tmp_path: Path) -> None:
    with chromium(tmp_path / "profile", 390) as browser:
        with running(tmp_path) as served:
            opened(browser, served)
        choose(browser, picture[0])
        assert "the service does not answer; check that it runs" in answers(browser, 1)[0]


def test_a_key_is_asked_for_and_kept_in_memory_only(
    picture: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGE_KEYS", KEY)
    path, label = picture
    keys = KeySource(keys_env="PAGE_KEYS")
    with running(tmp_path, keys=keys, users_keys=keys) as served, chromium(tmp_path / "profile", 390) as browser:
        opened(browser, served)
        wait(browser, "!document.getElementById('keys').hidden")
        choose(browser, path)
        assert "needs an API key" in answers(browser, 1)[0]
        browser.find_element("id", "key").send_keys("wrong" + Keys.ENTER)
        wait(browser, "document.getElementById('key-fault').textContent.includes('does not know this key')")
        assert browser.switch_to.active_element.get_attribute("id") == "key"
        browser.switch_to.active_element.send_keys(KEY + Keys.ENTER)
        wait(browser, "document.getElementById('served').textContent.includes('colours.onnx')")
        wait(browser, "document.querySelectorAll('#people tr').length === 10")
        browser.find_element("css selector", "#results button").click()
        wait(browser, "document.querySelectorAll('.classes').length === 1")
        assert label in answers(browser, 1)[0]
        assert '-H "X-API-Key: $API_KEY"' in browser.execute_script("return document.querySelector('pre').textContent")
        kept = browser.execute_script(
            "return [document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage), location.href,"
            " document.documentElement.outerHTML, document.getElementById('key').value]"
        )
        assert not any(KEY in each for each in kept)
        browser.refresh()
        wait(browser, "!document.getElementById('keys').hidden")


def test_a_key_that_no_header_can_carry_is_refused_in_words(
    picture: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGE_KEYS", KEY)
    path, _ = picture
    keys = KeySource(keys_env="PAGE_KEYS")
    with running(tmp_path, keys=keys, users_keys=keys) as served, chromium(tmp_path / "profile", 390) as browser:
        opened(browser, served)
        wait(browser, "!document.getElementById('keys').hidden")
        for wrong in ("ключ-of-some-length", "a key of words"):
            browser.find_element("id", "key").clear()
            browser.find_element("id", "key").send_keys(wrong + Keys.ENTER)
            assert "ASCII" in browser.find_element("id", "key-fault").text
        browser.find_element("id", "key").clear()
        hold_401 = """
            const real = window.fetch;
            window.held = [];
            window.fetch = async (...given) => {
                const answer = await real(...given);
                if (answer.status === 401) await new Promise((go) => window.held.push(go));
                return answer;
            };
        """
        browser.execute_script(hold_401)
        choose(browser, path)
        wait(browser, "window.held.length === 1")
        browser.find_element("id", "key").send_keys(KEY + Keys.ENTER)
        wait(browser, "document.getElementById('served').textContent.includes('colours.onnx')")
        assert browser.find_element("id", "key-fault").text == ""
        browser.execute_script("window.held[0]()")  # the answer to a request without a key comes after the key
        assert "needs an API key" in answers(browser, 1)[0]
        assert not browser.find_element("id", "keys").is_displayed()
        browser.find_element("css selector", "#results button").click()
        wait(browser, "document.querySelectorAll('.classes').length === 1")


def hold_answers(browser: Chrome, path: str) -> None:
    """Have the next page, and this one, hold the answers at `path` until `window.held` is called."""
    hold = """
        const real = window.fetch;
        window.held = [];
        window.fetch = async (...given) => {
            const answer = await real(...given);
            if (given[0].pathname === "PATH") await new Promise((go) => window.held.push(go));
            return answer;
        };
    """.replace("PATH", path)
    browser.execute_script(hold)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": hold})


USERS_REFUSE = "document.getElementById('users-fault').textContent.includes('needs an API key')"
MODEL_ANSWERS = "document.getElementById('served').textContent.includes('colours.onnx')"


@pytest.mark.parametrize("last", ["/user/", "/model/"])
def test_a_key_that_only_the_model_knows_is_kept(
    picture: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    first, then = (MODEL_ANSWERS, USERS_REFUSE) if last == "/user/" else (USERS_REFUSE, MODEL_ANSWERS)
    monkeypatch.setenv("PAGE_KEYS", KEY)
    monkeypatch.setenv("PAGE_USERS_KEYS", "another-key-of-some-length")
    keys, users_keys = KeySource(keys_env="PAGE_KEYS"), KeySource(keys_env="PAGE_USERS_KEYS")
    with (
        running(tmp_path, keys=keys, users_keys=users_keys) as served,
        chromium(tmp_path / "profile", 390) as browser,
    ):
        opened(browser, served)
        wait(browser, USERS_REFUSE)
        browser.execute_script("document.getElementById('users-fault').textContent = ''")
        hold_answers(browser, last)
        browser.find_element("id", "key").send_keys(KEY + Keys.ENTER)
        wait(browser, "window.held.length === 1")
        wait(browser, first)
        browser.execute_script("window.held[0]()")
        wait(browser, then)
        assert not browser.find_element("id", "keys").is_displayed()
        assert browser.find_element("id", "users-fault").is_displayed()
        choose(browser, picture[0])
        assert picture[1] in answers(browser, 1)[0]


def test_a_key_that_only_the_users_need_is_asked_for_until_they_know_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGE_USERS_KEYS", KEY)
    users_keys = KeySource(keys_env="PAGE_USERS_KEYS")
    with running(tmp_path, users_keys=users_keys) as served, chromium(tmp_path / "profile", 390) as browser:
        hold_answers(browser, "/model/")
        opened(browser, served)
        wait(browser, USERS_REFUSE)
        wait(browser, "window.held.length === 1")
        browser.execute_script("window.held[0]()")
        wait(browser, MODEL_ANSWERS)
        browser.execute_script("document.getElementById('users-fault').textContent = ''")
        browser.find_element("id", "key").send_keys("wrong" + Keys.ENTER)
        wait(browser, USERS_REFUSE)
        browser.find_element("id", "key").send_keys(KEY + Keys.ENTER)
        wait(browser, "document.querySelectorAll('#people tr').length === 10")
        assert not browser.find_element("id", "users-fault").is_displayed()


def test_of_more_pictures_than_the_list_shows_each_is_classified(
    plain: Served, picture: tuple[Path, str], tmp_path: Path
) -> None:
    count = """
        const real = window.fetch;
        window.answered = 0;
        window.fetch = async (...given) => {
            const answer = await real(...given);
            window.answered += answer.ok;
            return answer;
        };
    """
    with chromium(tmp_path, 1280) as browser:
        opened(browser, plain)
        browser.execute_script(count)
        choose(browser, *[picture[0]] * 110)
        wait(browser, "document.getElementById('progress').textContent === '10 older results removed from the list'")
        assert browser.execute_script("return window.answered") == 110
        assert len(answers(browser, 100)) == 100
        browser.find_element("id", "clear").click()
        assert browser.find_element("id", "progress").text == ""


def test_errors_stay_in_the_list_and_a_second_click_sends_nothing_twice(
    plain: Served, picture: tuple[Path, str], tmp_path: Path
) -> None:
    hold = """
        window.real = window.fetch;
        window.held = [];
        window.fetch = (...given) => new Promise((go) => window.held.push(go)).then(() => window.real(...given));
    """
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with chromium(tmp_path / "profile", 1280) as browser:
        opened(browser, plain)
        choose(browser, bad, *[picture[0]] * 105)
        wait(browser, "document.getElementById('progress').textContent === '6 older results removed from the list'")
        assert "bad.png" in answers(browser, 100)[-1]
        browser.execute_script(hold)
        choose(browser, *[picture[0]] * 4)
        wait(browser, "window.held.length === 4")
        browser.find_element("css selector", "#results button").click()
        assert browser.find_elements("css selector", "#results button") == []
        assert browser.find_element("id", "progress").text.startswith("5 pictures under way")


def test_two_clicks_on_next_are_one_page(plain: Served, tmp_path: Path) -> None:
    with chromium(tmp_path, 390) as browser:
        opened(browser, plain)
        first = wait(browser, "document.querySelector('#people td')?.textContent")
        browser.execute_script("const next = document.getElementById('next'); next.click(); next.click()")
        wait(browser, f"document.querySelector('#people td').textContent !== '{first}'")
        browser.find_element("id", "previous").click()
        wait(browser, f"document.querySelector('#people td').textContent === '{first}'")
        assert not browser.find_element("id", "previous").is_enabled()


def test_the_users_have_pages(plain: Served, tmp_path: Path) -> None:
    def ids() -> list[str]:
        return [each.text for each in browser.find_elements("css selector", "#people td:first-child")]

    with chromium(tmp_path, 390) as browser:
        opened(browser, plain)
        wait(browser, "document.querySelectorAll('#people tr').length === 10")
        first = ids()
        assert not browser.find_element("id", "previous").is_enabled()
        for _ in range(2):
            shown = ids()
            browser.find_element("id", "next").click()
            wait(browser, f"document.querySelector('#people td').textContent !== '{shown[0]}'")
        assert len(ids()) == 5
        assert not browser.find_element("id", "next").is_enabled()
        for _ in range(2):
            shown = ids()
            browser.find_element("id", "previous").click()
            wait(browser, f"document.querySelector('#people td').textContent !== '{shown[0]}'")
        assert ids() == first


def test_everything_can_be_reached_with_the_keyboard(plain: Served, picture: tuple[Path, str], tmp_path: Path) -> None:
    with chromium(tmp_path, 1280) as browser:
        opened(browser, plain)
        wait(browser, "document.querySelectorAll('#people tr').length === 10")
        choose(browser, picture[0])
        answers(browser, 1)
        browser.execute_script("document.activeElement.blur()")
        reached = []
        for _ in range(20):
            ActionChains(browser).send_keys(Keys.TAB).perform()
            reached.append(browser.execute_script("return document.activeElement.id || document.activeElement.tagName"))
        assert {"files", "top", "clear", "SUMMARY", "next", "A"} <= set(reached)
