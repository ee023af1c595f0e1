"""What holds for any input at all: a picture, or a refusal that names what is wrong, and never a fault of ours."""

import io
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from serve_app.classifier.images import FORMATS, decode_image
from serve_app.errors import ServiceError
from serve_app.users.store import ensure_seeded
from tests.serve_app.classifier.test_images import encode, smooth
from tests.serve_app.users.test_users import users_client

MAX_PIXELS = 1_000_000
SIGNATURES = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\x10\0\0\0WEBPVP8 ")
MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "1", "P", "RGBA", "LA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P"),
    "BMP": ("RGB", "L", "1", "P"),
}
SHOWN = {"code", "detail", "request_id"}
# Pillow warns of damaged metadata; the service silences it.
pytestmark = pytest.mark.filterwarnings("ignore")


def expect_picture_or_refusal(data: bytes) -> None:
    try:
        picture = decode_image(data, MAX_PIXELS)
    except ServiceError as refusal:
        assert 400 <= refusal.status < 500, refusal.detail  # noqa: PT017 either is right
    else:
        assert picture.shape == (224, 224, 3)
        assert picture.dtype == np.uint8


def expect_answer_or_refusal(response: httpx.Response) -> None:
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    if response.status_code != 200:
        body = response.json()
        assert set(body) == SHOWN
        assert all(isinstance(value, str) and value for value in body.values())


@st.composite
def damaged_pictures(draw: st.DrawFn) -> bytes:
    """Return a valid picture with bytes changed, a span removed or doubled, and perhaps its end cut off."""
    image_format = draw(st.sampled_from(FORMATS))
    options: dict[str, Any] = {"progressive": True} if image_format == "JPEG" and draw(st.booleans()) else {}
    data = bytearray(encode(smooth(40, 30), image_format, **options))
    # Damage near the start is the kind that decoders trust.
    places = st.one_of(st.integers(0, 64), st.integers(0, len(data) - 1))
    for place, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        data[min(place, len(data) - 1)] = value
    start, count, times = draw(st.tuples(places, st.integers(0, 100), st.sampled_from((0, 1, 1, 2, 50))))
    data[start : start + count] = bytes(data[start : start + count]) * times
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))])


@settings(max_examples=300)
@given(st.builds(bytes.__add__, st.sampled_from(SIGNATURES), st.binary(max_size=300)))
def test_any_bytes_are_a_picture_or_a_refusal(data: bytes) -> None:
    expect_picture_or_refusal(data)


@settings(max_examples=300)
@given(damaged_pictures())
def test_a_picture_damaged_anywhere_is_a_picture_or_a_refusal(data: bytes) -> None:
    expect_picture_or_refusal(data)


@settings(max_examples=150)
@given(
    st.sampled_from([(image_format, mode) for image_format, modes in MODES.items() for mode in modes]),
    st.integers(1, 700),
    st.integers(1, 700),
)
@example(("PNG", "RGB"), 1, 65_535)
@example(("PNG", "1"), 65_535, 1)
def test_any_valid_picture_is_decoded(kind: tuple[str, str], width: int, height: int) -> None:
    image_format, mode = kind
    data = encode(Image.new(mode, (width, height)), image_format)
    assert decode_image(data, MAX_PIXELS).shape == (224, 224, 3)


headers = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60).map(
    lambda text: text.encode("latin1")
)


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=500), damaged_pictures()), st.none() | headers)
async def test_no_body_and_no_content_type_is_ever_our_fault(
    small_client: httpx.AsyncClient, body: bytes, content_type: bytes | None
) -> None:
    given_headers = [] if content_type is None else [(b"content-type", content_type)]
    expect_answer_or_refusal(await small_client.post("/predict", content=body, headers=given_headers))


PARAMETERS = st.sampled_from((b"name", b"filename", b"filename*", b"x", b"NAME")) | st.binary(max_size=8)
VALUES = st.sampled_from((b"file", b"a.jpg", b"", b'"', b"\x00", b"../..", b"\xff\xfe")) | st.binary(max_size=20)
PARTS = st.tuples(
    st.sampled_from((b"Content-Disposition", b"content-disposition", b"Content-Type", b"X")),
    st.sampled_from((b"form-data", b"attachment", b"")) | st.binary(max_size=10),
    st.lists(st.tuples(PARAMETERS, VALUES), max_size=4),
    st.sampled_from((b"\r\n", b"\n", b"")),
    st.binary(max_size=100) | st.just(encode(Image.new("L", (8, 8)), "PNG")),
)
CHARSETS = (
    "utf-8",
    "undefined",
    "idna",
    "punycode",
    "utf-16",
    "zlib",
    "rot13",
    "none",
    "unicode_escape",
    "mbcs",
    "\0",
    "é",
)


@settings(max_examples=300)
@given(
    st.lists(PARTS, max_size=10),
    st.sampled_from((b"b", b"B", b"", b"-" * 70)) | st.binary(max_size=20),
    st.none() | st.sampled_from(CHARSETS),
    st.sampled_from((b"--\r\n", b"\r\n", b"", b"--\r\ntrailing")),
)
async def test_no_form_whatever_its_structure_is_ever_our_fault(
    small_client: httpx.AsyncClient,
    parts: list[tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, bytes]],
    boundary: bytes,
    charset: str | None,
    end: bytes,
) -> None:
    body = io.BytesIO()
    for name, kind, parameters, line, content in parts:
        joined = b"".join(b"; " + key + b'="' + value + b'"' for key, value in parameters)
        body.write(b"--b\r\n" + name + b": " + kind + joined + b"\r\n" + line + content + b"\r\n")
    body.write(b"--b" + end)
    content_type = b"multipart/form-data; boundary=" + boundary
    content_type += b"" if charset is None else b"; charset=" + charset.encode("latin1")
    response = await small_client.post("/predict", content=body.getvalue(), headers=[(b"content-type", content_type)])
    expect_answer_or_refusal(response)


@pytest.fixture(scope="module")
async def users(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    url = f"sqlite:///{tmp_path_factory.mktemp('properties')}/users.sqlite3"
    await ensure_seeded(url, 50)
    async with users_client(url) as client:
        yield client


ODD = st.sampled_from(
    ("1", "0", "-1", "1' OR '1'='1", "1;DROP TABLE users", "\0", "٣", "1e3", "NaN", "9" * 500, "0x1", "")
)
QUERIES = st.lists(
    st.tuples(st.sampled_from(("limit", "after", "id", "")) | st.text(max_size=5), ODD | st.text(max_size=10)),
    max_size=5,
)


@settings(max_examples=120)
@given(QUERIES, st.binary(max_size=20))
async def test_no_query_of_users_is_ever_our_fault(
    users: httpx.AsyncClient, query: list[tuple[str, str]], raw: bytes
) -> None:
    expect_answer_or_refusal(await users.get("/", params=httpx.QueryParams(tuple(query))))
    expect_answer_or_refusal(await users.get(f"/?limit={quote_from_bytes(raw)}&after=0"))


@settings(max_examples=200)
@given(ODD.map(str.encode) | st.binary(max_size=30))
async def test_no_path_of_users_is_ever_our_fault(users: httpx.AsyncClient, path: bytes) -> None:
    response = await users.get(users.base_url.copy_with(raw_path=b"/" + quote_from_bytes(path, safe="/").encode()))
    expect_answer_or_refusal(response)
