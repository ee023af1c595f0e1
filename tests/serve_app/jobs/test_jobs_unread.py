"""What a job's upload that is not read says of itself: its encoding and the fields of its form."""

import gzip
from collections.abc import AsyncIterator

import pytest

from serve_app.classifier.classifier import Classifier
from tests.conftest import Fitted
from tests.hostile import FORM_TYPE, file_part, form, part
from tests.jobs import Desk, replica, zipped
from tests.redis_server import RedisServer
from tests.serve_app.classifier.test_model_api import assert_error


@pytest.fixture(scope="module")
async def desk(classifier: Classifier, redis_server: RedisServer) -> AsyncIterator[Desk]:
    async with replica(classifier, redis_server.url) as opened:
        yield opened


async def test_an_encoded_body_is_refused_at_once_and_its_encoding_is_named(desk: Desk, fitted: Fitted) -> None:
    packed = gzip.compress(fitted.pictures["thing 7"])
    for content_type in ("image/jpeg", "application/zip", FORM_TYPE):
        headers = {"Content-Encoding": "gzip", "Content-Type": content_type}
        response = await desk.http.post("/jobs", content=packed, headers=headers)
        assert_error(response, 415, "unsupported_image", "Content-Encoding: gzip")


async def test_a_picture_and_a_zip_are_taken_whatever_is_said_of_them(desk: Desk, fitted: Fitted) -> None:
    picture = fitted.pictures["thing 7"]
    for content in (picture, zipped([("a.jpg", picture)])):
        response = await desk.http.post("/jobs", content=content, headers={"Content-Encoding": "gzip"})
        ended = await desk.ended(response.json()["id"])
        assert ended["results"][0]["prediction"]["prediction"] == "thing 7"


async def test_a_form_without_files_is_told_which_fields_it_has(desk: Desk, fitted: Fitted) -> None:
    picture = fitted.pictures["thing 7"]
    wrong = [part(f'name="picture{number}"; filename="a.jpg"', b"x") for number in range(12)]
    for body, words in (
        (form(part('name="file"', picture)), "found: `file` (text)"),
        (form(*wrong), "`picture9` (a file) and 2 more"),
        (form(), "found: no complete field"),
    ):
        response = await desk.http.post("/jobs", content=body, headers={"Content-Type": FORM_TYPE})
        assert_error(response, 400, "malformed_upload", "no complete file in the field `file`", words)


async def test_text_beside_the_files_is_no_hindrance(desk: Desk, fitted: Fitted) -> None:
    body = form(part('name="file"', b"text"), file_part(fitted.pictures["thing 7"]))
    response = await desk.http.post("/jobs", content=body, headers={"Content-Type": FORM_TYPE})
    ended = await desk.ended(response.json()["id"])
    assert [result["name"] for result in ended["results"]] == ["a.jpg"]


async def test_openapi_has_the_refusal_of_encodings(desk: Desk) -> None:
    document = (await desk.http.get("/openapi.json")).json()
    for path in ("/predict", "/jobs"):
        assert "Content-Encoding" in document["paths"][path]["post"]["responses"]["415"]["description"]
