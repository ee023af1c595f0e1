"""What an upload that is not read says of itself: its encoding, the fields of its form, its charset. Through ASGI."""

import gzip
import zlib
from io import BytesIO
from traceback import walk_tb

import httpx
import pytest
from fastapi import Request
from starlette.types import Message

from serve_app.classifier.formats import begins_as
from serve_app.classifier.upload import BodyBounds, files_in, parse_form, read_body
from serve_app.errors import MalformedUpload, Overloaded, UploadTooLarge
from serve_app.uploads import HeldUpload, UploadBudget
from tests.conftest import Fitted
from tests.counted import Counted
from tests.hostile import BOUNDARY, FORM_TYPE, encode, file_part, form, part
from tests.patience import HANG_S
from tests.picture_files import four_corners
from tests.serve_app.classifier.test_model_api import assert_error
from tests.small_classifier import client_of, small_classifier

PICTURE = encode(four_corners(), "JPEG")
FORM = form(file_part(PICTURE))
DEFLATED = zlib.compress(PICTURE)
ENCODED = {
    "gzip": (gzip.compress(PICTURE), ["gzip"]),
    "x-gzip": (gzip.compress(PICTURE), ["x-gzip"]),
    "deflate": (DEFLATED, ["deflate"]),
    "deflate without its head": (DEFLATED[2:-4], ["deflate"]),
    "br": (b"\x0b\x02\x80", ["br"]),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x58", ["zstd"]),
    "GZIP": (gzip.compress(PICTURE), ["GZIP"]),
    "gzip, br": (b"\x0b\x02\x80", ["gzip, br"]),
    "deflate, gzip": (b"\x1f\x8b\x08", ["deflate", "gzip"]),
    "identity, gzip": (gzip.compress(PICTURE), ["identity", "gzip"]),
    "of the client's own": (b"\x00\x01", ["rot13"]),
}


@pytest.mark.parametrize("fault", ["too large", "no memory"])
async def test_of_a_refused_body_nothing_is_kept_while_the_rest_is_drained(fault: str) -> None:
    budget = UploadBudget(10**9 if fault == "too large" else 150_000, 150_000, lambda _: Overloaded("no memory"))
    chunks = iter([bytes(100_000)] * 3)

    async def receive() -> Message:
        return {"type": "http.request", "body": next(chunks), "more_body": True}

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises((UploadTooLarge, Overloaded)) as caught:
        await read_body(request, HeldUpload(budget), BodyBounds(150_000, timeout_s=HANG_S))
    kept = [value for frame, _ in walk_tb(caught.value.__traceback__) for value in frame.f_locals.values()]
    assert [value.closed for value in kept if isinstance(value, BytesIO)] == [True]


@pytest.mark.parametrize("name", ENCODED)
async def test_the_encoding_of_a_body_that_is_no_picture_is_named(small_client: httpx.AsyncClient, name: str) -> None:
    body, encodings = ENCODED[name]
    headers = [("Content-Encoding", encoding) for encoding in encodings]
    response = await small_client.post("/predict", content=body, headers=headers)
    assert_error(response, 415, "unsupported_image", f"Content-Encoding: {', '.join(encodings)}", "without this header")
    assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("body", [gzip.compress(FORM), zlib.compress(FORM)])
async def test_the_encoding_of_a_body_that_is_no_form_is_named(small_client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": FORM_TYPE}
    assert_error(await small_client.post("/predict", content=body, headers=headers), 415, "unsupported_image", "gzip")


@pytest.mark.parametrize(
    ("header", "content"),
    [("Content-Encoding: gzip", gzip.compress(PICTURE)), ("Content-Transfer-Encoding: base64", b"/9j/4AAQSkZJRg==")],
)
async def test_the_encoding_of_a_part_is_named(small_client: httpx.AsyncClient, header: str, content: bytes) -> None:
    body = form(file_part(content, header.encode() + b"\r\n"))
    response = await small_client.post("/predict", content=body, headers={"Content-Type": FORM_TYPE})
    assert_error(response, 415, "unsupported_image", header)


@pytest.mark.parametrize("encoding", ["gzip", "identity", "binary", "utf-8", "", "identity, identity", "IDENTITY"])
async def test_content_decides_and_not_what_is_said_of_it(small_client: httpx.AsyncClient, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    bare = await small_client.post("/predict", content=PICTURE, headers=headers)
    in_form = await small_client.post("/predict", content=FORM, headers={**headers, "Content-Type": FORM_TYPE})
    assert [bare.status_code, in_form.status_code] == [200, 200]


@pytest.mark.parametrize("encoding", ["identity", "", "Identity"])
async def test_no_encoding_is_not_blamed(small_client: httpx.AsyncClient, encoding: str) -> None:
    response = await small_client.post("/predict", content=b"hello", headers={"Content-Encoding": encoding})
    assert_error(response, 415, "unsupported_image", "not a picture in one of the formats")


async def test_a_long_encoding_is_shortened(small_client: httpx.AsyncClient) -> None:
    response = await small_client.post("/predict", content=b"hello", headers={"Content-Encoding": "x" * 4000})
    assert_error(response, 415, "unsupported_image", "Content-Encoding: xxx")
    assert len(response.json()["detail"]) < 300


def text_part(name: str, content: bytes = b"text") -> bytes:
    return part(f'name="{name}"', content)


def other_file(name: str) -> bytes:
    return part(f'name="{name}"; filename="a.jpg"', PICTURE)


FIELDS = {
    "a picture without a file name": (form(text_part("file", PICTURE)), ["found: `file` (text)", "has a filename"]),
    "a large picture without a file name": (
        form(text_part("note"), text_part("file", PICTURE + bytes(1_200_000))),
        ["found: `note` (text), `file` (text)", "has a filename", "1,048,576 bytes"],
    ),
    "a file name in RFC 5987's form only": (
        form(part("name=\"file\"; filename*=utf-8''a.jpg", PICTURE)),
        ["found: `file` (text)"],
    ),
    "another field": (form(other_file("image")), ["found: `image` (a file)"]),
    "another letter": (form(other_file("File")), ["found: `File` (a file)"]),
    "several": (
        form(text_part("a"), text_part("b"), other_file("picture")),
        ["found: `a` (text), `b` (text), `picture` (a file)"],
    ),
    "the same name twice": (form(text_part("a"), text_part("a")), ["found: `a` (text);"]),
    "none": (form(), ["found: no complete field"]),
    "a name of control characters": (form(text_part("a\x01\x7fb")), ["`a��b`"]),
    "a name of 4,000 characters": (form(text_part("n" * 4000)), [f"`{'n' * 40}`"]),
}


@pytest.mark.parametrize("name", FIELDS)
async def test_a_form_without_the_file_is_told_which_fields_it_has(small_client: httpx.AsyncClient, name: str) -> None:
    body, words = FIELDS[name]
    response = await small_client.post("/predict", content=body, headers={"Content-Type": FORM_TYPE})
    assert_error(response, 400, "malformed_upload", "no complete file in the field `file`", *words)
    assert len(response.json()["detail"]) < 1000


async def test_a_form_that_breaks_off_is_refused_wherever_it_does() -> None:
    body = form(file_part(b"one"), text_part("note"), file_part(b"two"))
    request = Request({"type": "http", "headers": [(b"content-type", FORM_TYPE.encode())]})
    end = body.rindex(b"--")
    for length in range(end + 2):
        with pytest.raises(MalformedUpload, match=r"breaks off within its last|found: no complete field"):
            files_in(await parse_form(request, body[:length], max_files=2))
    with pytest.raises(MalformedUpload, match="breaks off within its last file; send its closing boundary"):
        await parse_form(request, body[:end], max_files=2)
    whole = await parse_form(request, body[: end + 2], max_files=2)
    assert len(files_in(whole)) == 2
    await whole.close()


async def test_text_beside_the_file_is_no_hindrance(model_client: httpx.AsyncClient, fitted: Fitted) -> None:
    body = form(text_part("file"), text_part("note"), file_part(fitted.pictures["thing 7"]))
    response = await model_client.post("/predict", content=body, headers={"Content-Type": FORM_TYPE})
    assert response.json()["prediction"] == "thing 7"


@pytest.mark.parametrize("query", ["", "?top_k=2"])
async def test_top_k_may_be_a_field_of_the_form(model_client: httpx.AsyncClient, fitted: Fitted, query: str) -> None:
    files = {"file": fitted.pictures["thing 7"]}
    answer = await model_client.post(f"/predict{query}", files=files, data={"top_k": "2"})
    assert len(answer.json()["predictions"]) == 2


@pytest.mark.parametrize(
    ("query", "given", "words"),
    [
        ("", "11", "form.top_k: Input should be less than or equal to 10"),
        ("", "many", "form.top_k: Input should be a valid integer"),
        ("?top_k=5", "2", "query.top_k is 5 and form.top_k is 2; send one of them"),
    ],
)
async def test_a_top_k_of_the_form_that_is_not_allowed_is_named(
    small_client: httpx.AsyncClient, query: str, given: str, words: str
) -> None:
    answer = await small_client.post(f"/predict{query}", files={"file": PICTURE}, data={"top_k": given})
    assert_error(answer, 422, "invalid_parameter", words)


@pytest.mark.parametrize(
    ("query", "fields", "told"),
    [
        ("?top_k=3&top_k=5", [], "query.top_k is 3 and query.top_k is 5; send one of them"),
        ("?top_k=3&top_k=3", [], 3),
        ("?top_k=3&top_k=5", ["5"], "query.top_k is 3 and query.top_k is 5 and form.top_k is 5; send one of them"),
        ("?top_k=2", ["2", "7"], "query.top_k is 2 and form.top_k is 2 and form.top_k is 7; send one of them"),
        ("", ["2", "7"], "form.top_k is 2 and form.top_k is 7; send one of them"),
        ("", ["2", "many"], "form.top_k: Input should be a valid integer"),
        ("?top_k=11&top_k=5", [], "query.top_k: Input should be less than or equal to 10"),
        ("?top_k=4", ["4", "4"], 4),
    ],
)
async def test_two_different_top_k_are_refused_wherever_they_are(
    query: str, fields: list[str], told: str | int
) -> None:
    body = {"files": {"file": PICTURE}, "data": {"top_k": fields}} if fields else {"content": PICTURE}
    async with small_classifier(Counted()) as classifier, client_of(classifier) as client:
        answer = await client.post(f"/predict{query}", **body)
    if isinstance(told, str):
        assert_error(answer, 422, "invalid_parameter", told)
    else:
        assert len(answer.json()["predictions"]) == told


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-16", "utf-32", "undefined", "cp037", "utf_16_le"])
async def test_a_charset_that_does_not_contain_ascii_is_refused(small_client: httpx.AsyncClient, charset: str) -> None:
    """With punycode, a text field of 1 MB held the event loop for minutes."""
    body = form(text_part("note", b"a-" + b"0" * 20), file_part(PICTURE))
    headers = {"Content-Type": f"multipart/form-data; charset={charset}; boundary={BOUNDARY}"}
    response = await small_client.post("/predict", content=body, headers=headers)
    assert_error(response, 400, "malformed_upload", "charset")


@pytest.mark.parametrize(
    "charset", ["utf-8", "UTF8", "latin1", "us-ascii", "shift_jis", "windows-1251", "no-such", "zlib"]
)
async def test_a_form_in_another_charset_is_read(small_client: httpx.AsyncClient, charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; charset={charset}; boundary={BOUNDARY}"}
    assert (await small_client.post("/predict", content=FORM, headers=headers)).status_code == 200


def test_formats_are_told_by_their_first_bytes() -> None:
    for image_format in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
        assert begins_as(encode(four_corners(), image_format)) == image_format
    assert begins_as(b"") is begins_as(b"RIFF") is begins_as(gzip.compress(PICTURE)) is None
