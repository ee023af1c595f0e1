"""Renders a report as one HTML file that loads nothing: its pictures are embedded as they are, within bounds."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from serve_app.client.evaluate.report import Card, Report, Table
from serve_app.client.items import media_type
from serve_app.client.plain_text import printable

MOST_PICTURE_BYTES = 1_000_000
MOST_BYTES = 25_000_000
"""Of all embedded pictures together."""

_STYLE = """
:root{color-scheme:light dark}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:80rem;font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse}
th,td{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #8884}
.facts th{white-space:nowrap;font-weight:600}
.scroll table{overflow-wrap:normal}
.scroll td:first-child{min-width:9rem;max-width:36rem;overflow-wrap:anywhere}
.scroll th,.number{white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums}
.cards{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,18rem),1fr))}
figure{margin:0;padding:.6rem;border:1px solid #8886;border-radius:.4rem}
img{display:block;width:100%;height:14rem;object-fit:contain;background:#8882}
.none{display:grid;height:14rem;place-items:center;background:#8882}
.file{font-size:.85rem;margin:.4rem 0}
.groups{font-size:.85rem;display:flex;flex-wrap:wrap;gap:.4rem 1rem}
.groups section{flex:1 1 7rem}
h3{font-size:1em;margin:0;opacity:.75}
ul{list-style:none;margin:0;padding:0}li:first-child{font-weight:600}
@media(max-width:40rem){.scroll{font-size:.85rem}}
""".strip()


def write_page(report: Report, sources: Mapping[str, str], page: Path) -> None:
    """Write the page of a report to `page`; `sources` are the paths of its pictures by name. Raises OSError."""
    page.write_text(render_page(report, sources), encoding="utf-8", errors="backslashreplace")


def render_page(report: Report, sources: Mapping[str, str]) -> str:
    """Return the page of a report. All text is escaped: names and labels may be anybody's."""
    style_hash = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; base-uri 'none'; form-action 'none'"
    tables = "\n".join(_table(table) for table in report.tables if table.rows)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">
<title>{_text(report.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_text(report.title)}</h1>
<table class="facts">
{"".join(f"<tr><th scope=row>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in report.facts)}
</table>
{tables}
{_cards(report, sources)}
</body>
</html>
"""


def _table(table: Table) -> str:
    classes = [' class="number"' if column.startswith(">") else "" for column in table.columns]
    heads = "".join(
        f"<th{kind}>{_text(column.removeprefix('>'))}</th>" for kind, column in zip(classes, table.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{_text(cell)}</td>" for kind, cell in zip(classes, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f"<h2>{_text(table.heading)}</h2>\n<div class=scroll><table>\n<tr>{heads}</tr>\n{rows}\n</table></div>"


def _cards(report: Report, sources: Mapping[str, str]) -> str:
    if not report.cards:
        return ""
    left_bytes = MOST_BYTES
    figures = []
    for card in report.cards:
        data = _read(sources.get(card.file), left_bytes)
        left_bytes -= len(data)
        figures.append(_figure(card, data))
    shown = (
        f"the worst {len(figures):,} of {report.of_cards:,}"
        if report.of_cards > len(figures)
        else f"all {len(figures):,}"
    )
    return f"<h2>Pictures: {shown}</h2>\n<div class=cards>\n{''.join(figures)}</div>"


def _figure(card: Card, data: bytes) -> str:
    kind = media_type(data)
    picture = (
        f'<img alt="" loading="lazy" src="data:{kind};base64,{base64.b64encode(data).decode()}">'
        if kind
        else "<div class=none>not embedded: too large, or not readable</div>"
    )
    groups = "".join(f"<section><h3>{_text(heading)}</h3>{_list(lines)}</section>" for heading, lines in card.groups)
    return (
        f"<figure>{picture}<figcaption><p class=file>{_text(card.file)}</p>"
        f"<div class=groups>{groups}</div></figcaption></figure>\n"
    )


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>"


def _read(path: str | None, left_bytes: int) -> bytes:
    """Return the picture's bytes, none if it cannot be read or is too large."""
    if path is None:
        return b""
    most_bytes = min(MOST_PICTURE_BYTES, left_bytes)
    try:
        with Path(path).open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError:
        return b""
    return data if len(data) <= most_bytes else b""


def _text(text: str) -> str:
    return escape(printable(text))
