"""Renders the Markdown of a report as one HTML file that loads nothing. Called by `report`.

It knows Markdown, not figures: it takes the tables and pictures as they come and gives them a page for a phone,
a screen and paper. The Markdown may quote anybody, so HTML in it is text.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from html import escape
from itertools import chain, count, pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from loadtest.page.layout import load_template

_PLOT = re.compile(r"plots/([\w-]+)\.svg")
_NO_BREAK = "\N{NO-BREAK SPACE}"
_UNIT = re.compile(
    r"(?<=\d) (?=(?:%|ms|s|[kKMGT]i?B|RPS|requests?/s|requests?|users?|points?|minutes?|cores?|threads?|replicas?"
    r"|processes|cells|repetitions?|times)(?!\w))"
)
_VERDICTS = {"VALID": "good", "met": "good", "INVALID": "bad", "missed": "bad"}
_NARROW_COLUMNS = 4
_LEAST_CONTENTS = 3  # fewer headings need no list


def render_page(markdown: str, plots: Mapping[str, str], title: str) -> str:
    """Return the HTML page of a report.

    `plots` are SVG texts by name; the first `![alt](plots/NAME.svg)` of each becomes the picture itself, a further
    one a link to it, and any other image its description.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    contents = _name_headings(tokens)
    _put_in_plots(tokens, plots)
    _mark_cells(tokens)
    _join_units(tokens)
    body = next((at for at, token in enumerate(tokens) if token.tag == "h2"), len(tokens))
    opening = [part for token in tokens[:body] for part in _in_box(token)]
    sections = [part for section in _sections(tokens[body:]) for token in section for part in _in_box(token)]
    return load_template("page.html.j2").render(
        title=title,
        opening=parser.renderer.render(opening, parser.options, {}),
        contents=contents if len(contents) >= _LEAST_CONTENTS else {},
        body=parser.renderer.render(sections, parser.options, {}),
    )


def _name_headings(tokens: list[Token]) -> dict[str, str]:
    """Give each heading the id that GitHub gives it; return text by id of those of the second level."""
    ids: set[str] = set()
    contents = {}
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            text = _plain_text(inline)
            name = _free_id(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") or "section", ids)
            ids.add(name)
            heading.attrSet("id", name)
            if heading.tag == "h2":
                contents[name] = text
    return contents


def _free_id(name: str, taken: set[str]) -> str:
    return next(free for free in chain([name], (f"{name}-{number}" for number in count(1))) if free not in taken)


def _plain_text(inline: Token) -> str:
    breaks = {"softbreak", "hardbreak"}
    return "".join(" " if child.type in breaks else child.content for child in inline.children or [])


def _put_in_plots(tokens: list[Token], plots: Mapping[str, str]) -> None:
    """Replace all images, none of which is loaded."""
    shown: set[str] = set()
    for at, inline in enumerate(tokens):
        images = [child for child in inline.children or [] if child.type == "image"]
        for image in images:
            found = _PLOT.fullmatch(str(image.attrGet("src")))
            name = found[1] if found and found[1] in plots else None
            image.type, image.content = "html_inline", _picture(image.content, name, plots, shown)
        if images and tokens[at - 1].type == "paragraph_open":
            tokens[at - 1].tag = tokens[at + 1].tag = "div"  # a <p> cannot hold a <figure>
            tokens[at - 1].attrSet("class", "plots")


def _picture(description: str, name: str | None, plots: Mapping[str, str], shown: set[str]) -> str:
    description = escape(description)
    if name is None:
        return f"<em>{description}</em>"
    if name in shown:
        return f'<a href="#plot.{name}">{description}</a>'
    shown.add(name)
    return f'<figure id="plot.{name}" aria-label="{description}">\n{plots[name]}</figure>'


def _mark_cells(tokens: list[Token]) -> None:
    """Give classes to the cells of numbers and of verdicts, for the style sheet to show them."""
    for cell, inline in pairwise(tokens):
        if cell.type not in {"td_open", "th_open"}:
            continue
        if cell.attrGet("style") == "text-align:right":
            cell.attrs.pop("style")
            cell.attrJoin("class", "number")
        verdicts = {_VERDICTS.get(child.content, "") for child in inline.children or []} - {""}
        if verdicts:
            cell.attrJoin("class", "bad" if "bad" in verdicts else "good")


def _join_units(tokens: list[Token]) -> None:
    """Put a space that does not break between a number and its unit."""
    for inline in tokens:
        for child in inline.children or []:
            if child.type == "text":
                child.content = _UNIT.sub(_NO_BREAK, child.content)


def _sections(tokens: list[Token]) -> Iterator[list[Token]]:
    """Yield each heading of the second level with what follows it, as a section.

    One that holds no picture and only narrow tables has the class that the style sheet sets in two columns.
    """
    for section in _split(tokens, lambda token: token.type == "heading_open" and token.tag == "h2"):
        tables = _split(section, lambda token: token.type == "table_open")
        columns = [sum(cell.type == "th_open" for cell in table) for table in tables]
        is_flowing = max(columns, default=0) <= _NARROW_COLUMNS
        is_flowing &= not any(token.attrGet("class") == "plots" for token in section)
        yield [
            Token("html_block", "", 0, content='<section class="flowing">\n' if is_flowing else "<section>\n"),
            *section,
            Token("html_block", "", 0, content="</section>\n"),
        ]


def _split(tokens: list[Token], begins: Callable[[Token], bool]) -> Iterator[list[Token]]:
    """Yield the parts that begin with such tokens; what is before the first is left out."""
    places = [at for at, token in enumerate(tokens) if begins(token)]
    for begin, end in pairwise([*places, len(tokens)]):
        yield tokens[begin:end]


def _in_box(token: Token) -> list[Token]:
    """Return a table's first or last token with that of a box around it, which scrolls when the table is wide."""
    if token.type == "table_open":
        return [
            Token("html_block", "", 0, content='<div class="table" role="region" aria-label="table" tabindex="0">'),
            token,
        ]
    if token.type == "table_close":
        return [token, Token("html_block", "", 0, content="</div>\n")]
    return [token]
