"""What stands in front of Serve: headers taken away, Serve's plain answers in the error shape."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from serve_app.deployments import ingress
from serve_app.entrance.gate import GATE
from serve_app.entrance.middleware import middlewares
from serve_app.errors import Overloaded, Unauthorized
from tests.serve_app.classifier.test_model_api import assert_error


async def show_headers(request: Request) -> Response:
    return JSONResponse(dict(request.headers))


async def refuse(_: Request) -> Response:
    return PlainTextResponse("Request dropped\ndue to backpressure", 503, {"Retry-After": "7", "X-Request-ID": "abc"})


async def fail(_: Request) -> Response:
    return PlainTextResponse("", 500)


async def speak(_: Request) -> Response:
    return PlainTextResponse("fine")


async def own_health(_: Request) -> Response:
    return PlainTextResponse("DRAINING", 503)


@pytest.fixture
def root_path() -> str:
    """Return the `http_options.root_path`, with which uvicorn has every path begin."""
    return ""


@pytest.fixture
async def http(root_path: str) -> AsyncIterator[httpx.AsyncClient]:
    routes = [
        Route("/headers", show_headers),
        Route("/busy", refuse, methods=["GET", "POST"]),
        Route("/fails", fail),
        Route("/fine", speak),
        Route("/-/healthz", own_health),
    ]
    stack = [*reversed(middlewares())]  # Serve puts the last one outermost, Starlette the first
    api = Starlette(routes=routes, middleware=stack)
    transport = httpx.ASGITransport(api, root_path=root_path, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://test{root_path}") as client:
        yield client


async def test_headers_that_change_serves_limits_do_not_reach_it(http: httpx.AsyncClient) -> None:
    sent = {"X-Request-Timeout-Seconds": "-1", "x-request-disconnect-disabled": "?1", "X-Request-ID": "mine"}
    seen = (await http.get("/headers", headers=sent)).json()
    assert seen["x-request-id"] == "mine"
    assert not {"x-request-timeout-seconds", "x-request-disconnect-disabled"} & set(seen)


@pytest.mark.parametrize("name", ["x-session-id", "serve_multiplexed_model_id", "Serve-Multiplexed-Model-Id"])
async def test_headers_that_serve_cannot_decode_do_not_reach_it(http: httpx.AsyncClient, name: str) -> None:
    seen = (await http.get("/headers", headers={name.encode(): b"\xff\xfe"})).json()
    assert name.lower() not in seen


async def test_a_plain_refusal_gets_the_error_shape_and_keeps_its_headers(http: httpx.AsyncClient) -> None:
    response = await http.get("/busy")
    assert_error(response, 503, "overloaded", "Request dropped due to backpressure")
    assert response.headers["Retry-After"] == "7"
    assert response.json()["request_id"] == response.headers["X-Request-ID"] == "abc"
    assert response.headers["Content-Type"] == "application/json"


async def test_the_upload_is_read_before_the_refusal(http: httpx.AsyncClient) -> None:
    sent: list[int] = []

    async def upload() -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"x" * 1000
            sent.append(number)

    assert_error(await http.post("/busy", content=upload()), 503, "overloaded")
    assert sent == [0, 1, 2, 3, 4]


async def test_an_upload_without_end_is_not_read_for_ever(http: httpx.AsyncClient) -> None:
    async def upload() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    assert_error(await http.post("/busy", content=upload()), 503, "overloaded")


async def test_an_empty_failure_says_what_its_status_means(http: httpx.AsyncClient) -> None:
    assert_error(await http.get("/fails"), 500, "internal_error", "Internal Server Error")


async def test_other_answers_and_serves_own_paths_stay_as_they_are(http: httpx.AsyncClient) -> None:
    assert (await http.get("/fine")).text == "fine"
    health = await http.get("/-/healthz")
    assert (health.status_code, health.text) == (503, "DRAINING")


@pytest.mark.parametrize("root_path", ["", "/behind/a/proxy"])
async def test_haproxys_question_needs_no_api_key(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def enter(_: Scope) -> Iterator[None]:
        raise Unauthorized("this needs an API key")
        yield

    monkeypatch.setattr(GATE, "enter", enter)
    assert (await http.get("/-/healthz")).text == "DRAINING"
    assert_error(await http.get("/fine"), 401, "unauthorized", "this needs an API key")


async def test_what_the_gate_refuses_is_answered_at_once_when_its_upload_is_read(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    sent: list[bytes] = []

    @contextmanager
    def enter(scope: Scope) -> Iterator[None]:
        asked.append(scope["path"])
        if scope["path"] == "/busy":
            raise Overloaded("too many", retry_after_s=3)
        yield

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(3):
            sent.append(b"x" * 1000)
            yield sent[-1]

    monkeypatch.setattr(GATE, "enter", enter)
    response = await http.post("/busy", content=upload(), headers={"X-Request-ID": "mine"})
    assert_error(response, 503, "overloaded", "too many")
    assert (response.headers["retry-after"], response.headers["x-request-id"]) == ("3", "mine")
    assert response.json()["request_id"] == "mine"
    assert len(sent) == 3
    assert (await http.get("/fine")).text == "fine"
    assert asked == ["/busy", "/fine"]


@pytest.mark.parametrize("given", ["a" * 129, "one two", 'x"} {"level": "ERROR', "é", ""])
async def test_an_id_that_could_forge_the_log_does_not_reach_serve(http: httpx.AsyncClient, given: str) -> None:
    seen = (await http.get("/headers", headers={b"X-Request-ID": given.encode()})).json()
    assert "x-request-id" not in seen


async def test_a_refusal_has_the_shape_of_its_path(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def enter(_: Scope) -> Iterator[None]:
        raise Overloaded("try again", 7)
        yield

    monkeypatch.setattr(GATE, "enter", enter)
    monkeypatch.setattr(GATE, "_shaped", GATE._shaped)
    GATE.shape_errors("/v2", lambda _code, detail, _request_id: {"error": detail})
    for path, keys in (("/model/v2/models/x/infer", ["error"]), ("/model/v2", ["error"]), ("/model/v22", [*OWN])):
        refused = await http.post(path, content=b"x")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "7")
        assert list(refused.json()) == keys


OWN = ("code", "detail", "request_id")


def test_environment_files_of_version_0_1_0_find_the_middleware_where_it_was() -> None:
    assert ingress.middlewares is middlewares
