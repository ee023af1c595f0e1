"""A query parameter that an endpoint does not have is refused by name, on every endpoint of both applications."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serve_app.classifier.api import build_model_api
from serve_app.classifier.classifier import Classifier
from serve_app.jobs.api import add_job_routes
from serve_app.users.api import build_users_api
from serve_app.users.settings import UsersSettings
from serve_app.users.store import UserStore
from tests.conftest import Fitted
from tests.jobs import replica
from tests.redis_server import RedisServer
from tests.serve_app.classifier.test_model_api import assert_error

METHODS = ("get", "post", "delete")


def client_of(api: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(api, root_path="/x", raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test/x")


@pytest.fixture
async def apis(classifier: Classifier, redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[list[FastAPI]]:
    """Return the users API and the model's with jobs."""
    store = UserStore(f"sqlite:///{tmp_path}/none.sqlite3", UsersSettings())
    await store.open()
    async with replica(classifier, redis_server.url) as desk:
        yield [build_users_api(store), desk.api]
    await store.close()


def operations(api: FastAPI) -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, path with its places filled in, and description of each operation."""
    paths = api.openapi()["paths"]
    return [
        (method, path.replace("{user_id}", "1").replace("{job}", "0" * 22), described)
        for path, item in paths.items()
        for method, described in item.items()
        if method in METHODS
    ]


async def test_every_endpoint_refuses_a_parameter_that_it_does_not_have(apis: list[FastAPI]) -> None:
    asked = set()
    for api in apis:
        async with client_of(api) as http:
            for method, path, described in operations(api):
                answer = await http.request(method, path, params={"nonsense": "1"})
                assert_error(answer, 422, "invalid_parameter", "query.nonsense: unknown parameter")
                names = [one["name"] for one in described.get("parameters", []) if one["in"] == "query"]
                assert f"takes {', '.join(names) or 'no query parameters'}" in answer.json()["detail"]
                assert "422" in described["responses"]
                asked.add((method, path.replace("0" * 22, "JOB")))
    assert asked >= {("get", "/"), ("get", "/1"), ("get", "/ready"), ("post", "/predict"), ("post", "/jobs")}
    assert asked >= {("get", "/jobs/JOB"), ("delete", "/jobs/JOB")}


async def test_every_documented_parameter_is_known(apis: list[FastAPI]) -> None:
    for api in apis:
        async with client_of(api) as http:
            for method, path, described in operations(api):
                for parameter in described.get("parameters", []):
                    if parameter["in"] == "query":
                        answer = await http.request(method, path, params={parameter["name"]: "1"})
                        assert "unknown parameter" not in answer.text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("topk=2", "query.topk: unknown parameter (did you mean top_k?)"),
        ("top-k=2&deadline=1", "query.deadline: unknown parameter"),
        ("TOP_K=2", "query.TOP_K: unknown parameter (did you mean top_k?)"),
        ("Top-K=2", "query.Top-K: unknown parameter (did you mean top_k?)"),
        ("%00%ff=1", "takes top_k"),
        ("k" * 5000, "query." + "k" * 40 + ": unknown"),
        ("&".join(f"parameter_{number}" for number in range(500)), "query.parameter_7: unknown"),
    ],
)
async def test_the_nearest_parameter_is_named_in_an_answer_of_bounded_length(
    model_client: httpx.AsyncClient, fitted: Fitted, query: str, words: str
) -> None:
    api = model_client._transport.app  # type: ignore[attr-defined]
    async with client_of(api) as http:
        answer = await http.post(f"/predict?{query}", content=fitted.pictures["thing 7"])
    assert_error(answer, 422, "invalid_parameter", words)
    assert len(answer.content) < 1000


async def test_without_redis_the_pages_offer_no_jobs(classifier: Classifier, apis: list[FastAPI]) -> None:
    without = build_model_api(classifier)
    add_job_routes(without, classifier.settings, None)
    assert {path for path in apis[1].openapi()["paths"] if "jobs" in path} == {"/jobs", "/jobs/{job}"}
    assert "jobs" not in " ".join(without.openapi()["paths"])
    assert "Job" not in without.openapi()["components"]["schemas"]
