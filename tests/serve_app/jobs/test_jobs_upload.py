"""What may be sent as a job, and what may not: forms, ZIPs, bodies and their bounds, through ASGI with a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from serve_app.classifier.classifier import Classifier
from serve_app.classifier.job_settings import JobSettings
from tests.conftest import Fitted
from tests.hostile import FORM_TYPE, file_part, form, part
from tests.jobs import Desk, replica, zipped
from tests.redis_server import RedisServer
from tests.serve_app.classifier.test_model_api import assert_error


@pytest.fixture(scope="module")
async def desk(classifier: Classifier, redis_server: RedisServer) -> AsyncIterator[Desk]:
    async with replica(classifier, redis_server.url) as opened:
        yield opened


async def test_a_zip_is_one_job(desk: Desk, fitted: Fitted) -> None:
    members = [(f"summer/{label}.jpg", data) for label, data in fitted.pictures.items()]
    members.append(("inner.zip", zipped(members[:1])))
    litter = [("summer/.DS_Store", b"x"), ("__MACOSX/summer/._a.jpg", b"x")]
    packed = zipped([*members, *litter])
    for response in (
        await desk.http.post("/jobs", files={"file": ("holiday.zip", packed)}),
        await desk.http.post("/jobs", content=packed, headers={"content-type": "application/zip"}),
    ):
        ended = await desk.ended(response.json()["id"])
        assert [result["name"] for result in ended["results"]] == [name for name, _ in members]
        predicted = [result["prediction"]["prediction"] for result in ended["results"][:-1]]
        assert predicted == list(fitted.pictures)
        assert ended["results"][-1]["error"]["code"] == "unsupported_image"  # a ZIP in a ZIP is not opened


async def test_the_picture_may_be_the_body_itself(desk: Desk, fitted: Fitted) -> None:
    response = await desk.http.post("/jobs", content=fitted.pictures["thing 7"], headers={"content-type": "image/jpeg"})
    ended = await desk.ended(response.json()["id"])
    assert ended["results"][0]["name"] == "file"
    assert ended["results"][0]["prediction"]["prediction"] == "thing 7"


async def test_names_are_kept_without_what_controls_a_screen(desk: Desk) -> None:
    kept = [
        "09.10\u202fAM.png",
        "夏\u3000休み.jpg",
        "no\u00a0break.jpg",
        "👩\u200d👩\u200d👧.jpg",
        "new\u0378.jpg",
        "n" * 255,
    ]
    spoilt = ["\x1b[2J", "\x7f", "\x85", "\u2028", "\u2029", "\u061c", "\u200e", "\u202e", "\u2066"]
    named = [(name, name) for name in kept] + [(f"a{letter}b", f"a\ufffd{letter[1:]}b") for letter in spoilt]
    for response in (
        await desk.http.post("/jobs", content=zipped((name, b"x") for name, _ in named)),
        await desk.http.post(
            "/jobs",
            content=form(*[file_part(b"x", filename=name) for name, _ in named]),
            headers={"content-type": FORM_TYPE},
        ),
    ):
        ended = await desk.ended(response.json()["id"])
        assert [result["name"] for result in ended["results"]] == [name for _, name in named]


async def test_half_a_character_in_a_name_is_replaced(desk: Desk) -> None:
    body = form(file_part(b"x", filename="a+2AA-b"), file_part(b"x", filename="n" * 256))
    response = await desk.http.post("/jobs", content=body, headers={"content-type": f"{FORM_TYPE}; charset=utf-7"})
    ended = await desk.ended(response.json()["id"])
    assert [result["name"] for result in ended["results"]] == ["a\ufffdb", "n" * 255]


async def test_two_different_top_k_in_the_query_are_refused_without_a_form_too(desk: Desk, fitted: Fitted) -> None:
    picture = fitted.pictures["thing 7"]
    refused = await desk.http.post("/jobs?top_k=3&top_k=5", content=picture)
    assert_error(refused, 422, "invalid_parameter", "query.top_k is 3")
    assert (await desk.http.post("/jobs?top_k=3&top_k=3", content=picture)).status_code == 202


async def test_top_k_may_be_a_field_of_the_form(desk: Desk, fitted: Fitted) -> None:
    files = {"file": fitted.pictures["thing 7"]}
    ended = await desk.ended((await desk.http.post("/jobs", files=files, data={"top_k": "2"})).json()["id"])
    assert len(ended["results"][0]["prediction"]["predictions"]) == 2
    assert_error(
        await desk.http.post("/jobs", files=files, data={"top_k": "0"}), 422, "invalid_parameter", "form.top_k"
    )


async def test_what_is_no_file_in_another_field_is_no_hindrance(desk: Desk, fitted: Fitted) -> None:
    unfilled = part('name="other"; filename=""', b"")  # as a browser sends a field in which no file was chosen
    body = form(part('name="note"', b"text"), unfilled, file_part(fitted.pictures["thing 7"]))
    response = await desk.http.post("/jobs", content=body, headers={"content-type": FORM_TYPE})
    assert response.json()["files"] == 1


async def test_uploads_are_bounded(classifier: Classifier, redis_server: RedisServer, fitted: Fitted) -> None:
    data = fitted.pictures["thing 7"]
    bounds = {"max_files": 3, "max_job_bytes": 3_000_000, "max_held_bytes": 9_300_000}
    async with replica(classifier, redis_server.url, **bounds) as desk:
        assert_error(await desk.submit(*[data] * 4), 413, "upload_too_large", "more than 3 files", "fewer")
        assert_error(await desk.submit(b"x" * 2_000_001), 413, "upload_too_large", "'0.jpg'", "2,000,000")
        assert_error(await desk.submit(*[b"x" * 1_100_000] * 3), 413, "upload_too_large", "3,000,000", "fewer")
        packed = zipped((f"{index}.jpg", data) for index in range(4))
        assert_error(await desk.http.post("/jobs", content=packed), 413, "upload_too_large", "4 files", "up to 3")
        desk.jobs.uploads.hold(8_800_000)
        assert_error(await desk.submit(b"x" * 600_000), 503, "overloaded", "are in memory already")
        desk.jobs.uploads.free(8_800_000)
        assert desk.jobs.uploads._held_bytes == 0
        assert (await desk.ended(await desk.accepted(data, data, data)))["state"] == "done"


async def test_a_dawdling_upload_is_a_408(classifier: Classifier, redis_server: RedisServer) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Future()

    async with replica(classifier, redis_server.url, upload_timeout_s=0.2) as desk:
        assert_error(await desk.http.post("/jobs", content=slowly()), 408, "upload_too_slow", "0.2 s")


BAD_UPLOADS: dict[str, tuple[dict[str, object], str]] = {
    "nothing": ({"content": b""}, "empty"),
    "an empty file": ({"files": {"file": b""}}, "empty"),
    "another field": ({"files": {"image": b"x"}}, "`file`"),
    "a field beside it": ({"files": [("file", b"x"), ("file2", b"x")]}, "`file2`"),
    "half a form": (
        {"content": form(file_part(b"x"), file_part(b"x"))[:-16], "headers": {"content-type": FORM_TYPE}},
        "breaks off within its last file",
    ),
    "an empty ZIP": ({"content": zipped([])}, "no files"),
    "a ZIP of folders": ({"content": zipped([("a/", b"")])}, "no files"),
    "half a ZIP": ({"content": zipped([("a.jpg", b"x" * 999)])[:60]}, "ZIP cannot be read"),
    "no boundary": ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, "boundary"),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
async def test_a_bad_upload_is_a_clear_400(desk: Desk, name: str) -> None:
    request, word = BAD_UPLOADS[name]
    assert_error(await desk.http.post("/jobs", **request), 400, "malformed_upload", word)  # type: ignore[arg-type]


def test_a_queue_for_less_than_one_upload_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="max_waiting_bytes: must be at least 50256000, max_job_bytes"):
        JobSettings(max_waiting_bytes=50_255_999)


def test_memory_for_less_than_one_upload_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="max_held_bytes: must be at least 3100"):
        JobSettings(max_job_bytes=1000, max_held_bytes=2000)


async def test_results_are_kept_for_a_year_at_most(
    classifier: Classifier, redis_server: RedisServer, fitted: Fitted
) -> None:
    year_s = 365 * 86_400
    async with replica(classifier, redis_server.url, result_ttl_s=year_s) as desk:
        ended = await desk.ended(await desk.accepted(fitted.pictures["thing 7"]))
    kept = datetime.fromisoformat(ended["expires_at"]) - datetime.fromisoformat(ended["ended_at"])
    assert kept == timedelta(days=365)
    with pytest.raises(ValueError, match="result_ttl_s"):
        JobSettings(result_ttl_s=year_s + 1)
