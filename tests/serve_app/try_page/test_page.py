"""GET /try: one answer in which all is, under a policy that lets nothing else in."""

import base64
import hashlib
import re

import httpx
import pytest
from fastapi import FastAPI

from serve_app.entrance.guard import Guard
from serve_app.entrance.keys import ApiKeys, KeySource
from serve_app.try_page.page import add_try_page, build_page
from serve_app.web import build_api

KEY = "a-key-of-some-length"


def client_of(api: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test")


def api_with_page() -> FastAPI:
    api = build_api("Test", "A page")
    add_try_page(api)
    return api


async def test_script_and_style_are_those_of_the_policy_and_nothing_else_may_run() -> None:
    async with client_of(api_with_page()) as http:
        answer = await http.get("/try")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for tag in ("script", "style"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"


async def test_the_page_fetches_nothing_from_elsewhere_and_sets_no_styles_that_the_policy_forbids() -> None:
    html, _ = build_page(None)
    assert not re.findall(r"https?://|<link (?!rel=\"icon\")|<script |@import| style=", html)


def test_the_script_finds_every_element_that_it_names() -> None:
    html, _ = build_page(None)
    named = set(re.findall(r'\$\("([^"]+)"\)', html))
    assert named
    assert named <= set(re.findall(r' id="([^"]+)"', html))


def test_the_dashboard_is_linked_where_there_is_one() -> None:
    assert 'data-dashboard="http://127.0.0.1:8265"' in build_page("http://127.0.0.1:8265")[0]
    assert "data-dashboard=" not in build_page(None)[0]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_page_needs_no_key_since_it_asks_for_one(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setenv("PAGE_KEYS", KEY)
    api = api_with_page()
    Guard(ApiKeys(KeySource(keys_env="PAGE_KEYS"))).protect(api)
    async with client_of(api) as http:
        assert (await http.request(method, "/try")).status_code == 200
        assert (await http.get("/try/")).status_code == 401


async def test_the_page_stands_in_no_openapi_document() -> None:
    assert "/try" not in api_with_page().openapi()["paths"]
