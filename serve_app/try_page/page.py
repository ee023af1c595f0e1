"""GET /try: a page in which a person sends pictures to the classifier. One answer, with nothing to fetch besides.

Its Content-Security-Policy lets nothing run but the script and the style that are in it, and lets it ask this service
only.
"""

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from serve_app.entrance.haproxy import PAGE_PATH

_FOLDER = Path(__file__).parent


def add_try_page(api: FastAPI, dashboard: str | None = None) -> None:
    """Add the page to an application; it links to `dashboard`, a URL, if there is one."""

    @api.get(PAGE_PATH, include_in_schema=False)
    async def page() -> HTMLResponse:
        html, policy = build_page(dashboard)
        headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        return HTMLResponse(html, headers=headers)


@cache
def build_page(dashboard: str | None) -> tuple[str, str]:
    """Return the page and its Content-Security-Policy."""
    style, script, html = (_read(f"page.{suffix}") for suffix in ("css", "js", "html"))
    html = html.replace("{{style}}", style).replace("{{script}}", script)
    if dashboard is not None:
        html = html.replace("<html ", f'<html data-dashboard="{escape(dashboard)}" ', 1)
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; "
        f"img-src blob: data:; script-src {_source(script)}; style-src {_source(style)}"
    )
    return html, policy


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return what names an inline script or style in a policy (W3C Content Security Policy Level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
