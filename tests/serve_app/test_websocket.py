"""Neither API speaks WebSocket, and says so in the error shape."""

import json
from collections.abc import MutableMapping
from typing import Any

import pytest

from serve_app.errors import NotFound
from serve_app.web import build_api

ANSWER = "websocket.http.response"


async def sent_by_the_api(path: str, headers: dict[bytes, bytes], extensions: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the API sends to its server for a handshake."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": list(headers.items()), "subprotocols": [], "extensions": extensions,
    }  # fmt: skip

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    await build_api("Example", "")(scope, receive, send)
    return sent


@pytest.mark.parametrize("path", ["/", "/docs", "/nothing"])
async def test_a_handshake_gets_a_404_in_the_error_shape(path: str) -> None:
    start, body = await sent_by_the_api(path, {b"x-request-id": b"order-66"}, {ANSWER: {}})
    assert (start["type"], start["status"]) == (f"{ANSWER}.start", NotFound.status)
    headers = dict(start["headers"])
    assert (headers[b"content-type"], headers[b"x-request-id"]) == (b"application/json", b"order-66")
    found = json.loads(body["body"])
    assert (found["code"], found["request_id"]) == (NotFound.code, "order-66")
    assert found["detail"] == f"{path}: WebSocket is not supported; send the request without `Upgrade`"


async def test_a_server_that_takes_no_body_closes_as_before() -> None:
    [close] = await sent_by_the_api("/", {}, {})
    assert close["type"] == "websocket.close"
