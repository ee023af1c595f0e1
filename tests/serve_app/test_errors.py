"""Every error code stands in serve_app/errors.py and in the API page, and no other code exists anywhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.exceptions import HTTPException

from serve_app import errors
from serve_app.classifier.classifier import Classifier
from serve_app.client import service
from serve_app.errors import JOB_ERRORS, service_errors
from serve_app.jobs.queue.state import State
from serve_app.web import build_api
from tests.jobs import replica
from tests.redis_server import RedisServer

PACKAGE = Path(errors.__file__).parent
CODES = {error.code for error in service_errors()}
JOB_CODES = {error.code for error in JOB_ERRORS}


def codes_in(source: str) -> Iterator[str]:
    """Yield each text that Python code gives to something called `code`."""
    for node in ast.walk(ast.parse(source)):
        named: list[tuple[str, ast.expr | None]] = []
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                named = [(name, value)]
            case ast.AnnAssign(target=ast.Name(id=name), value=value):
                named = [(name, value)]
            case ast.keyword(arg=str(name), value=value):
                named = [(name, value)]
            case ast.Dict(keys=keys, values=values):
                named = [
                    (str(key.value), value)
                    for key, value in zip(keys, values, strict=True)
                    if isinstance(key, ast.Constant)
                ]
        for name, value in named:
            if name == "code" and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def test_the_drawing_of_the_errors_has_each_of_them_with_its_status_and_code() -> None:
    drawn = re.findall(r"^\W*([A-Z]\w+) +(\d{3}) +(\w+)", errors.__doc__ or "", re.MULTILINE)
    assert sorted(drawn) == sorted((error.__name__, str(error.status), error.code) for error in service_errors())
    for error in JOB_ERRORS:
        assert re.search(rf"^ +{error.code.upper()} +{error.code} ", errors.__doc__ or "", re.MULTILINE)


def test_python_code_names_no_code_outside_of_errors() -> None:
    assert set(codes_in((PACKAGE / "errors.py").read_text())) == CODES
    others = [path for path in PACKAGE.rglob("*.py") if path.name != "errors.py" and "client" not in path.parts]
    assert len(others) > 50
    assert {(path.name, code) for path in others for code in codes_in(path.read_text())} == set()


def test_the_scripts_in_redis_name_no_code_and_no_state_of_their_own() -> None:
    scripts = {path.name: path.read_text() for path in (PACKAGE / "jobs" / "queue").glob("*.lua")}
    assert len(scripts) == 11
    # A set of jobs is called `running` there, and a field `done`.
    words = CODES | JOB_CODES | {state.value for state in State} - {"running", "done"}
    for name, script in scripts.items():
        assert words.isdisjoint(re.findall(r"""['"](\w+)['"]""", script)), name
    assert "EXPIRED.code" in scripts["sweep.lua"]


def test_the_client_compares_with_codes_that_exist() -> None:
    assert {service.JOBS_UNAVAILABLE, service.JOB_ENDED} <= CODES
    client = [path for path in (PACKAGE / "client").glob("*.py") if path.name != "errors.py"]
    assert {(path.name, code) for path in client for code in codes_in(path.read_text())} == set()


async def test_the_api_page_has_every_code_with_its_meaning(classifier: Classifier, redis_server: RedisServer) -> None:
    async with replica(classifier, redis_server.url) as desk:
        schemas = desk.api.openapi()["components"]["schemas"]
    described = schemas["ErrorBody"]["properties"]["code"]["description"]
    assert set(re.findall(r"^\* `(\w+)`: \d{3}, \w", described, re.MULTILINE)) == CODES
    described = schemas["JobFault"]["properties"]["code"]["description"]
    assert set(re.findall(r"^\* `(\w+)`: \w", described, re.MULTILINE)) == JOB_CODES


@pytest.mark.parametrize(
    ("status", "code"), [(400, "malformed_request"), (405, "method_not_allowed"), (418, "internal_error")]
)
async def test_what_the_framework_refuses_has_a_known_code_too(status: int, code: str) -> None:
    api = build_api("An API", "of this test")

    @api.get("/")
    async def refuse() -> None:
        raise HTTPException(status)

    transport = httpx.ASGITransport(api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        response = await http.get("/")
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert code in CODES
