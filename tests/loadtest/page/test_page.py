"""The page of a report: one file that loads nothing, whatever the report quotes."""

import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loadtest.page import page
from loadtest.page.drawing import DARK, LIGHT
from loadtest.page.page import render_page
from loadtest.page.plots import draw_plots
from loadtest.page.text import render_markdown
from loadtest.rows.run_folder import RunFolder
from loadtest.verdict.summary import summarize
from tests.made_run import write_made_run

SVG = '<svg class="plot" viewBox="0 0 1 1"><defs><path id="cpu.1" d="M0 0"/></defs><use href="#cpu.1"/></svg>\n'
VOID = {"meta", "br", "hr"}
RENDER_S = 120


class Page(HTMLParser):
    """What a browser finds in a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        """With the tags that are open around it."""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "tags are closed in order"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self._open), data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for around, text in self.texts if around and around[-1] == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The Markdown and the pictures of a whole report."""
    figures = summarize(RunFolder(write_made_run(tmp_path_factory.mktemp("run") / "made")))
    drawn = draw_plots(figures)
    return render_markdown(figures, list(drawn)), drawn


@pytest.fixture(scope="module")
def html(report: tuple[str, dict[str, str]]) -> str:
    return render_page(*report, "A title")


def test_a_whole_report_loads_nothing(html: str) -> None:
    found = Page(html)
    loading = {"script", "link", "img", "image", "iframe", "object", "embed", "video", "audio", "form", "base"}
    assert not loading & {tag for tag, _ in found.tags}
    for _, attributes in found.tags:
        assert not {"src", "srcset", "xlink:href", "action", "background"} & attributes.keys()
        assert not any(key.startswith("on") for key in attributes)
        assert attributes.get("href", "#").startswith("#")
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    assert "@import" not in html
    policy = [attributes["content"] for attributes in found.all("meta") if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_ids_are_there_once_and_every_reference_leads_to_one(html: str) -> None:
    found = Page(html)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = [attributes["href"][1:] for _, attributes in found.tags if "href" in attributes]
    references += re.findall(r"url\(#([^)]+)\)", html)
    assert references
    assert set(references) <= set(ids)


def test_every_picture_is_in_the_page_once(report: tuple[str, dict[str, str]], html: str) -> None:
    _, drawn = report
    assert {figure["id"] for figure in Page(html).all("figure")} == {f"plot.{name}" for name in drawn}
    for svg in drawn.values():
        assert html.count(svg) == 1


def test_the_page_has_the_title_and_a_list_of_its_sections(html: str) -> None:
    found = Page(html)
    assert "A title" in found.text("title")
    assert len(found.all("h1")) == 1
    listed = [text for around, text in found.texts if "nav" in around and around[-1] == "a"]
    assert listed == found.text("h2")
    assert listed[0] == "System Specs"
    assert html.index("<h1") < html.index("<nav") < html.index("<h2")


def test_the_answer_stands_in_a_box_above_everything_else(html: str) -> None:
    found = Page(html)
    boxed = [around for around, text in found.texts if "header" in around and "blockquote" in around and text.strip()]
    assert len(boxed) > 10
    assert {"strong", "td", "th", "p"} <= {around[-1] for around in boxed}
    assert html.index("<header>") < html.index("<blockquote>") < html.index("</header>") < html.index("<nav")


def test_sections_of_narrow_tables_flow_in_columns_and_others_do_not() -> None:
    narrow, wide = (
        "| a | b |\n|---|---|\n| 1 | 2 |\n",
        "| a | b | c | d | e |\n|---|---|---|---|---|\n| 1 | 2 | 3 | 4 | 5 |\n",
    )
    html = render_page(f"# t\n\n## x\n\n{narrow}\n## y\n\n{narrow}\n{wide}\n## z\n\n- one\n", {}, "")
    assert [section.get("class") for section in Page(html).all("section")] == ["flowing", None, "flowing"]


def test_a_number_and_its_unit_stay_on_one_line() -> None:
    text = "from 5 to 60 users it had 29.1 requests/s, 0 % failures and a median of 5.52 ms; 3 more, `7 ms`"
    html = render_page(f"{text}\n\n| a |\n|---|\n| +42 % (+18 to +71) |\n", {}, "")
    told = "from 5 to 60~users it had 29.1~requests/s, 0~% failures and a median of 5.52~ms; 3 more, <code>7 ms</code>"
    assert told.replace("~", "\N{NO-BREAK SPACE}") in html
    assert "+42\N{NO-BREAK SPACE}% (+18 to +71)" in html


def test_few_sections_need_no_list() -> None:
    assert "<nav" not in render_page("# a\n\n## b\n\n## c\n", {}, "a")
    assert "<nav" in render_page("# a\n\n## b\n\n## c\n\n## d\n", {}, "a")
    assert "<main>" in render_page("", {}, "")


def test_a_heading_has_the_id_that_github_gives_it() -> None:
    found = Page(render_page("## Where `p95 (ms)` goes\n\n### A, b\n\n## A, b\n\n## ⚠\n", {}, ""))
    ids = [attributes["id"] for tag, attributes in found.tags if tag in {"h2", "h3"}]
    assert ids == ["where-p95-ms-goes", "a-b", "a-b-1", "section"]


@pytest.mark.parametrize(
    "quoted",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</title></style><script>alert(1)</script>",
        "[a](javascript:alert(1)) [b](data:text/html,x) [c](vbscript:x)",
        "![a](https://evil.example/x.png) ![b](plots/../cpu.svg) ![c](//evil.example/plots/cpu.svg)",
        '![" onload="alert(1)](plots/cpu.svg)',
        "<https://evil.example/> <!-- --> <style>*{background:url(https://evil.example/)}</style>",
        "`</code><script>`",
        "{{ 7 * 7 }}{% include 'page.css' %}",
    ],
)
@pytest.mark.parametrize("place", ["{}", "# {}", "## {}\n\n## b\n\n## c", "| {} |\n|---|\n| {} |", "- {}", "> {}"])
def test_what_is_quoted_stays_text(quoted: str, place: str) -> None:
    html = render_page(place.replace("{}", quoted), {"cpu": SVG}, quoted)
    found = Page(html)
    assert not {"script", "img", "link"} & {tag for tag, _ in found.tags}
    assert len(found.all("style")) == 1
    for _, attributes in found.tags:
        assert not any(key.startswith("on") for key in attributes)
        assert re.match("#|https:", attributes.get("href", "#"))
    assert "".join(found.text("title")) == quoted
    assert "49" not in html.split("</head>")[1]


def test_a_second_reference_to_a_picture_is_a_link_to_it() -> None:
    found = Page(
        render_page("![a](plots/cpu.svg)\n\nsee ![b](plots/cpu.svg)\n\n![c](plots/none.svg)\n", {"cpu": SVG}, "")
    )
    assert len(found.all("svg")) == 1
    assert found.all("a") == [{"href": "#plot.cpu"}]
    assert found.text("a") == ["b"]
    assert found.text("em") == ["c"]


def test_a_picture_is_described_and_stands_in_no_paragraph() -> None:
    html = render_page("![CPU & more](plots/cpu.svg)\n![b](plots/none.svg)\n", {"cpu": SVG}, "")
    assert Page(html).all("figure") == [{"id": "plot.cpu", "aria-label": "CPU & more"}]
    assert [box["class"] for box in Page(html).all("div")] == ["plots"]
    assert "<p>" not in html


def test_numbers_and_verdicts_have_classes_and_a_table_its_own_box() -> None:
    rows = [
        "| a | 1.0 |",
        "| VALID | 1 |",
        "| **INVALID** | 1 |",
        "| 2 % **missed** | 1 |",
        "| met | 1 |",
        "| **a** | 1 |",
    ]
    table = "\n".join(["| cell | ms |", "| --- | ---: |", *rows])
    found = Page(render_page(table, {}, ""))
    assert [cell.get("class") for cell in found.all("td")][::2] == [None, "good", "bad", "bad", "good", None]
    assert [cell.get("class") for cell in found.all("td")][1::2] == ["number"] * len(rows)
    assert [cell.get("class") for cell in found.all("th")] == [None, "number"]
    assert not any("style" in attributes for _, attributes in found.tags)
    tags = [tag for tag, _ in found.tags]
    assert tags[tags.index("table") - 1] == "div"
    assert [box["class"] for box in found.all("div")] == ["table"]


def test_the_page_has_the_colours_of_its_pictures_and_prints_light() -> None:
    css = (Path(page.__file__).parent / "templates" / "page.css").read_text()
    light, dark = css.split("@media screen and (prefers-color-scheme: dark)")
    for variable, colour in (("paper", "paper"), ("ink", "ink"), ("muted", "muted"), ("line", "grid")):
        assert f"--{variable}: {getattr(LIGHT, colour)};" in light
        assert f"--{variable}: {getattr(DARK, colour)};" in dark
    assert "@media print" in dark
    assert css.count("prefers-color-scheme") == 1


def test_the_same_report_gives_the_same_bytes_in_any_process(
    tmp_path: Path, report: tuple[str, dict[str, str]], html: str
) -> None:
    markdown, drawn = report
    (tmp_path / "report.md").write_text(markdown)
    for name, svg in drawn.items():
        (tmp_path / f"{name}.svg").write_text(svg)
    program = """if True:
        import hashlib, pathlib
        from loadtest.page.page import render_page

        plots = {path.stem: path.read_text() for path in sorted(pathlib.Path().glob("*.svg"), reverse=True)}
        page = render_page(pathlib.Path("report.md").read_text(), plots, "A title")
        print(hashlib.sha256(page.encode()).hexdigest())
    """
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        timeout=RENDER_S,
        check=True,
    )
    assert ended.stdout.decode().strip() == hashlib.sha256(html.encode()).hexdigest()
