"""HEAD answers as GET does, without a body, wherever GET answers: monitors ask so. And what a 405 says is allowed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Scope

from serve_app.entrance.guard import Guard
from serve_app.entrance.keys import ApiKeys, KeySource
from serve_app.users.store import ensure_seeded
from serve_app.web import build_api
from tests.serve_app.users.test_users import users_client

OWN = ("x-request-id", "date")
KEY = "a-key-of-these-tests"


@pytest.fixture
async def users(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of the users API with three users."""
    url = f"sqlite:///{tmp_path}/users.sqlite3"
    await ensure_seeded(url, 3)
    async with users_client(url, pool_wait_s=30, statement_timeout_s=30) as client:
        yield client


async def assert_head_is_get(client: httpx.AsyncClient, path: str) -> httpx.Response:
    """Check that HEAD has the status and headers of GET, Content-Length included, and no body; return it."""
    with_body, head = await client.get(path), await client.head(path)
    assert head.status_code == with_body.status_code, path
    kept = [{name: value for name, value in each.headers.items() if name not in OWN} for each in (with_body, head)]
    assert kept[0] == kept[1]
    assert int(head.headers["content-length"]) == len(with_body.content) > 0
    assert head.content == b""
    return head


def get_paths(api: dict[str, dict[str, object]]) -> list[str]:
    return [path for path, operations in api.items() if "get" in operations]


async def test_every_path_of_users_that_answers_get_answers_head(users: httpx.AsyncClient) -> None:
    paths = get_paths((await users.get("/openapi.json")).json()["paths"])
    assert set(paths) == {"/", "/{user_id}", "/ready"}
    for path in paths:
        assert (await assert_head_is_get(users, path.replace("{user_id}", "2"))).status_code == 200
    for page in ("/docs", "/redoc", "/openapi.json", "/?limit=2&after=1", ""):
        assert (await assert_head_is_get(users, page)).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/9", 404), ("/x", 422), ("/?limit=0", 422), ("/nothing/here", 404)])
async def test_head_fails_as_get_does(users: httpx.AsyncClient, path: str, status: int) -> None:
    assert (await assert_head_is_get(users, path)).status_code == status


async def test_every_path_of_the_model_that_answers_get_answers_head(model_client: httpx.AsyncClient) -> None:
    paths = get_paths((await model_client.get("/openapi.json")).json()["paths"])
    assert set(paths) == {"/", "/labels", "/ready"}
    for path in [*paths, "/docs", "/redoc", "/openapi.json"]:
        assert (await assert_head_is_get(model_client, path)).status_code == 200
    assert (await assert_head_is_get(model_client, "/predict")).status_code == 405


async def test_the_description_has_no_second_operation_for_head(users: httpx.AsyncClient) -> None:
    paths = (await users.get("/openapi.json")).json()["paths"]
    assert {method for operations in paths.values() for method in operations} == {"get"}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_a_405_names_head_beside_get(users: httpx.AsyncClient, method: str) -> None:
    for path in ("/", "", "/1", "/ready", "/docs", "/openapi.json"):
        answer = await users.request(method, path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD"), path


def example() -> FastAPI:
    """Return an API with what our two have not: a path with several methods, an answer without a length."""
    api = build_api("Example", "")

    @api.get("/both/{name}")
    async def look(name: str) -> Response:
        return Response(name)

    @api.delete("/both/{name}")
    async def remove(name: str) -> Response:
        return Response(name)

    @api.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(iter([b"a" * 1000] * 1000))

    return api


async def messages(api: FastAPI, method: str, path: str) -> list[Message]:
    """Return what the application sends to the server for a request."""
    sent: list[Message] = []
    scope: Scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}

    async def receive() -> Message:
        await asyncio.Event().wait()  # the client sends nothing, and stays
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await api(scope, receive, send)
    return sent


async def test_no_part_of_a_body_leaves_the_application() -> None:
    """Not even for the server to drop."""
    start, end = await messages(example(), "HEAD", "/stream")
    assert start["status"] == 200
    assert end == {"type": "http.response.body", "body": b""}


async def test_a_405_names_the_methods_of_all_routes_to_its_path() -> None:
    transport = httpx.ASGITransport(example())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.put("/both/x")).headers["Allow"] == "DELETE, GET, HEAD"
        assert (await client.put("/stream")).headers["Allow"] == "GET, HEAD"
        assert (await client.head("/both/x")).headers["Content-Length"] == "1"


async def test_head_needs_a_key_where_get_does(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    api = example()
    Guard(ApiKeys(KeySource(keys_file=str(keys)))).protect(api)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:
        assert (await client.head("/both/x")).status_code == 401
        assert (await client.head("/both/x", headers={"X-API-Key": KEY})).status_code == 200
        assert (await client.head("/docs")).status_code == 200
