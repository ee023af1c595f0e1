"""Hostile requests by kind, and what the service has to answer: for the tests and for docs/hostile_input.md.

`python -m tests.hostile http://127.0.0.1:8000` sends all of them to a running service with the shipped limits and
prints the table in Markdown; exit code 1 if an answer is another than it should be.
"""

import asyncio
import base64
import functools
import gzip
import io
import json
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from PIL import Image

MAX_UPLOAD_BYTES = 10_000_000
"""As the shipped configs have it."""

PREDICT = "/model/predict"
INFER = "/model/v2/models/resnet50/infer"
INFER_FP32 = "/model/v2/models/resnet50_fp32/infer"
BOUNDARY = "b0undary"
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
ANSWER_S = 60

PICTURE_KINDS = (
    "too many pixels",
    "decompression bomb",
    "truncated",
    "corrupted",
    "unsupported",
    "polyglot",
    "extreme shape",
)


@dataclass(frozen=True)
class Case:
    """One request, its kind, and the answer that it has to get."""

    kind: str
    name: str
    status: int
    code: str = ""
    words: str = ""
    """What the detail has to say."""
    make_body: Callable[[], bytes] = bytes
    path: str = PREDICT
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    is_chunked: bool = False

    @property
    def is_inference(self) -> bool:
        """Return whether it is one of the Open Inference Protocol, whose errors have another shape and no code."""
        return "/v2/" in self.path


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: dict[str, Any]

    def fault(self, case: Case) -> str:
        """Return what is wrong with it as the answer to `case`; empty if nothing is."""
        if self.status != case.status:
            return f"status {self.status} instead of {case.status}: {self.body}"
        shape = {"error"} if case.is_inference else {"code", "detail", "request_id"}
        if case.status >= 400 and set(self.body) != shape:
            return f"not in the error shape: {self.body}"
        if self.body.get("code", "") != case.code or case.words not in self.detail:
            return f"not {case.code} with {case.words!r}: {self.body}"
        return ""

    @property
    def detail(self) -> str:
        """Return what an error says."""
        return str(self.body.get("detail") or self.body.get("error") or "")


def cases() -> list[Case]:
    """Return every case; bodies are made when they are asked for."""
    return [
        *_too_many_bytes(),
        *_too_many_pixels(),
        *_bombs(),
        *_damaged(),
        *_unsupported(),
        *_polyglots(),
        *_odd_shapes(),
        *_lying_types(),
        *_forms(),
        *_methods_and_paths(),
        *_parameters(),
        *_inferences(),
    ]


async def send(client: httpx.AsyncClient, case: Case) -> Answer:
    """Return the answer to `case`; the client's base URL is the service's."""
    url = client.base_url.copy_with(raw_path=case.path.encode())
    body = case.make_body()
    content = _in_chunks(body) if case.is_chunked else body
    headers = {**case.headers, **(json_length(body) if case.is_inference else {})}
    response = await client.request(case.method, url, content=content, headers=headers)
    try:
        parsed = response.json()
    except ValueError:
        parsed = {"text": response.text[:200]}
    return Answer(response.status_code, parsed)


def encode(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    """Return the picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


@functools.cache
def good(image_format: str = "JPEG", width: int = 80, height: int = 60) -> bytes:
    """Return a small valid file."""
    return encode(Image.linear_gradient("L").convert("RGB").resize((width, height)), image_format)


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *extra: bytes, pixels: bytes | None = None) -> bytes:
    """Return a greyscale PNG that says it is so large, with chunks before its data; by default all black."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((width + 1) * height) if pixels is None else pixels)
    return b"".join((b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *extra, chunk(b"IDAT", data), chunk(b"IEND", b"")))


@functools.cache
def zeros(count: int) -> bytes:
    """Return so many zeros, compressed to a thousandth."""
    return zlib.compress(bytes(count))


def compressed(kind: bytes, name: bytes, count: int) -> bytes:
    """Return a PNG chunk of `kind` with a name and so many zeros, compressed."""
    return chunk(kind, name + b"\0\0" + zeros(count))


def gif(width: int, height: int, *, frame: tuple[int, int] | None = None, blocks: bytes = b"") -> bytes:
    """Return a GIF that says it is so large, with a frame of another size and blocks before it."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)
    return screen + blocks + gif_frame(*(frame or (width, height))) + b";"


def gif_frame(width: int, height: int) -> bytes:
    """Return a frame that says it is so large, with data for sixteen pixels."""
    # Codes of three bits: 4 clears the table, 0 is a pixel, 5 the end. Cleared for each pixel, the codes never grow.
    codes = [4, 0] * 16 + [5]
    data = sum(code << 3 * place for place, code in enumerate(codes)).to_bytes(13, "little")
    return b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02" + bytes([len(data)]) + data + b"\0"


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = b"") -> bytes:
    """Return a BMP with such a header."""
    palette = bytes(4 * 2**bits) if bits <= 8 else b""
    offset = 54 + len(palette)
    header = struct.pack("<IIiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def webp(width: int, height: int) -> bytes:
    """Return a WEBP whose canvas is so large and whose picture is small."""
    small = good("WEBP")[12:]
    canvas = b"\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + small
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    """Return a JPEG that says it is so large."""
    data = bytearray(good())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def segments(marker: bytes, content: bytes, count: int) -> bytes:
    """Return a valid JPEG with so many segments after its start."""
    segment = marker + struct.pack(">H", len(content) + 2) + content
    data = good()
    return data[:2] + segment * count + data[2:]


def part(disposition: str, content: bytes, headers: bytes = b"") -> bytes:
    """Return one part of a form."""
    return f"Content-Disposition: form-data; {disposition}\r\n".encode() + headers + b"\r\n" + content + b"\r\n"


def form(*parts: bytes, boundary: str = BOUNDARY) -> bytes:
    """Return a form of these parts."""
    line = f"--{boundary}".encode()
    return b"".join(line + b"\r\n" + each for each in parts) + line + b"--\r\n"


def file_part(content: bytes, headers: bytes = b"", filename: str = "a.jpg") -> bytes:
    """Return the part that the service wants."""
    return part(f'name="file"; filename="{filename}"', content, headers)


def _too_many_bytes() -> list[Case]:
    kind, code, words = "too many bytes", "upload_too_large", f"{MAX_UPLOAD_BYTES:,} bytes"
    over = functools.partial(bytes, MAX_UPLOAD_BYTES + 1)
    form_type = {"content-type": FORM_TYPE}
    return [
        Case(kind, "one byte over the limit, with Content-Length", 413, code, words, over),
        Case(kind, "one byte over the limit, chunked", 413, code, words, over, is_chunked=True),
        Case(kind, "twice the limit, with Content-Length", 413, code, words, lambda: bytes(2 * MAX_UPLOAD_BYTES)),
        Case(
            kind,
            "three times the limit, chunked",
            413,
            code,
            words,
            lambda: bytes(3 * MAX_UPLOAD_BYTES),
            is_chunked=True,
        ),
        Case(
            kind,
            "a file over the limit in a form",
            413,
            code,
            words,
            lambda: form(file_part(over())),
            headers=form_type,
        ),
        Case(
            kind,
            "a file over the limit in a form, chunked",
            413,
            code,
            words,
            lambda: form(file_part(over())),
            headers=form_type,
            is_chunked=True,
        ),
    ]


def _too_many_pixels() -> list[Case]:
    kind, code, broken = "too many pixels", "image_too_large", "unreadable_image"
    return [
        Case(kind, "PNG of 7,500 × 7,500 in 60 kB", 413, code, "7500×7500", lambda: png(7500, 7500)),
        Case(
            kind, "PNG header of 60,000 × 60,000", 413, code, "far more pixels", lambda: png(60_000, 60_000, pixels=b"")
        ),
        Case(kind, "GIF screen of 65,535 × 65,535", 413, code, "far more pixels", lambda: gif(65_535, 65_535)),
        Case(kind, "GIF frame larger than its screen", 413, code, "8000×8000", lambda: gif(1, 1, frame=(8000, 8000))),
        Case(kind, "WEBP canvas of 16,384 × 16,384", 413, code, "far more pixels", lambda: webp(16_384, 16_384)),
        Case(kind, "WEBP canvas of 10,000 × 9,000, picture of 80 × 60", 400, broken, "", lambda: webp(10_000, 9_000)),
        Case(kind, "BMP header of 2³¹ × 2³¹", 413, code, "far more pixels", lambda: bmp(2**31, 2**31 - 1)),
        Case(kind, "JPEG header of 65,500 × 65,500", 413, code, "far more pixels", lambda: jpeg(65_500, 65_500)),
        Case(kind, "JPEG header of 8,000 × 8,000", 413, code, "8000×8000", lambda: jpeg(8000, 8000)),
    ]


def _many_texts() -> Iterator[bytes]:
    return (compressed(b"zTXt", b"k%d" % number, 1_000_000) for number in range(80))


def _bombs() -> list[Case]:
    kind, code = "decompression bomb", "unreadable_image"
    run_length = functools.partial(bmp, 7000, 7000, 8, 1, b"\x01\x00\x00\x00" * 7000)
    comments = b"!\xfe\x01a\0" * 200_000
    return [
        Case(kind, "PNG of 8 × 8 whose data inflate to 100 MB", 200, make_body=lambda: png(8, 8, pixels=bytes(10**8))),
        Case(
            kind,
            "PNG text (zTXt) that inflates to 100 MB",
            200,
            make_body=lambda: png(8, 8, compressed(b"zTXt", b"k", 100_000_000)),
        ),
        Case(
            kind,
            "PNG text (iTXt) that inflates to 100 MB",
            200,
            make_body=lambda: png(8, 8, chunk(b"iTXt", b"k\0\1\0\0\0" + zeros(100_000_000))),
        ),
        Case(
            kind,
            "PNG colour profile that inflates to 100 MB",
            200,
            make_body=lambda: png(8, 8, compressed(b"iCCP", b"p", 100_000_000)),
        ),
        Case(kind, "PNG with 80 texts of 1 MB", 200, make_body=lambda: png(8, 8, *_many_texts())),
        Case(kind, "PNG of 200,000 empty chunks", 400, code, "reads", lambda: png(8, 8, chunk(b"teSt", b"") * 200_000)),
        Case(kind, "GIF with 200,000 comments", 400, code, "reads", lambda: gif(4, 4, blocks=comments)),
        Case(kind, "GIF with 20,000 frames", 200, make_body=lambda: _animated(20_000)),
        Case(
            kind,
            "JPEG with 1,000,000 empty comments",
            400,
            code,
            "reads",
            lambda: segments(b"\xff\xfe", b"", 1_000_000),
        ),
        Case(
            kind,
            "JPEG with 500,000 Exif segments",
            400,
            code,
            "Exif segments",
            lambda: segments(b"\xff\xe1", b"Exif\0\0xxxx", 500_000),
        ),
        Case(kind, "JPEG with 400 scans", 400, code, "100 scans", lambda: _scans(400)),
        Case(
            kind, "run-length encoded BMP of 7,000 × 7,000 in 30 kB", 415, "unsupported_image", "run-length", run_length
        ),
    ]


def _damaged() -> list[Case]:
    found = []
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        data = good(image_format, 300, 200)
        damaged = data[:8] + bytes(len(data) - 8) if image_format == "PNG" else data[:12] + b"\xff" * (len(data) - 12)
        broken = (400, "unreadable_image")
        found += [
            Case(
                "truncated",
                f"first half of a {image_format}",
                *broken,
                "truncated",
                functools.partial(bytes, data[: len(data) // 2]),
            ),
            Case(
                "corrupted",
                f"{image_format}, overwritten after its first bytes",
                *broken,
                "corrupted",
                functools.partial(bytes, damaged),
            ),
        ]
    lying = functools.partial(bmp, 1000, 1000, data=bytes(100))
    return [
        *found,
        Case(
            "truncated", "BMP header of 1,000 × 1,000, 100 bytes of pixels", 400, "unreadable_image", "truncated", lying
        ),
    ]


def _unsupported() -> list[Case]:
    def case(name: str, words: str, make_body: Callable[[], bytes]) -> Case:
        return Case("unsupported", name, 415, "unsupported_image", words, make_body)

    return [
        case("BMP with 2 bits per pixel", "2 bits a pixel", lambda: bmp(8, 8, 2, data=bytes(64))),
        case("BMP with 16 bits per pixel, empty colour masks", "colour masks", lambda: bmp(8, 8, 16, 3, bytes(200))),
        case(
            "JPEG with 12 bits per sample",
            "12 bits a sample",
            lambda: good().replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
        ),
    ]


def _polyglots() -> list[Case]:
    kind, refused, words = "polyglot", (415, "unsupported_image"), "JPEG, PNG, WEBP, GIF, BMP"
    zip_end = b"PK\x05\x06" + bytes(18)
    scans = b"\xff\xda" * 400
    page = b"<html><script>alert(1)</script></html>"
    comment = b"!\xfe" + bytes([len(page)]) + page + b"\0"
    return [
        Case(kind, "JPEG followed by a ZIP archive", 200, make_body=lambda: good() + zip_end),
        Case(kind, "JPEG followed by a video", 200, make_body=lambda: good() + b"ftypmp42" + scans),
        Case(kind, "JPEG with scan markers in a comment", 200, make_body=lambda: segments(b"\xff\xfe", scans, 1)),
        Case(kind, "GIF with HTML in a comment", 200, make_body=lambda: gif(4, 4, blocks=comment)),
        Case(kind, "PDF header followed by a JPEG", *refused, words, lambda: b"%PDF-1.7\n" + good()),
        Case(kind, "ZIP header followed by a PNG", *refused, words, lambda: b"PK\x03\x04" + bytes(26) + good("PNG")),
        Case(kind, "HTML followed by a GIF", *refused, words, lambda: page + good("GIF")),
        Case(kind, "TIFF", *refused, words, lambda: good("TIFF")),
        Case(kind, "SVG", *refused, words, lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ]


def _odd_shapes() -> list[Case]:
    kind, empty = "extreme shape", (400, "unreadable_image", "no pixels")
    return [
        Case(kind, "PNG of 0 × 0", *empty, lambda: png(0, 0)),
        Case(kind, "PNG of 0 × 10", *empty, lambda: png(0, 10)),
        Case(kind, "GIF of 0 × 0", *empty, lambda: gif(0, 0)),
        Case(kind, "BMP of 0 × 0", *empty, lambda: bmp(0, 0)),
        Case(kind, "JPEG of 0 × 0", *empty, lambda: jpeg(0, 0)),
        Case(kind, "PNG of 1 × 65,535", 200, make_body=lambda: png(1, 65_535)),
        Case(kind, "PNG of 65,535 × 1", 200, make_body=lambda: png(65_535, 1)),
        Case(kind, "BMP of 1 × 65,535", 200, make_body=lambda: bmp(1, 65_535, data=bytes(4 * 65_535))),
        Case(kind, "PNG of 1 × 1,000,000", 413, "image_too_large", "1×1000000", lambda: png(1, 1_000_000)),
    ]


def _lying_types() -> list[Case]:
    kind = "wrong Content-Type"
    return [
        Case(
            kind,
            "PDF sent as image/jpeg",
            415,
            "unsupported_image",
            "JPEG, PNG",
            lambda: b"%PDF-1.7",
            headers={"content-type": "image/jpeg"},
        ),
        Case(kind, "JPEG sent as image/png", 200, make_body=good, headers={"content-type": "image/png"}),
        Case(kind, "JPEG sent as application/json", 200, make_body=good, headers={"content-type": "application/json"}),
        Case(
            kind,
            "JPEG sent as multipart/form-data",
            400,
            "malformed_upload",
            "multipart",
            good,
            headers={"content-type": FORM_TYPE},
        ),
        Case(
            kind,
            "form sent as image/jpeg",
            415,
            "unsupported_image",
            "",
            lambda: form(file_part(good())),
            headers={"content-type": "image/jpeg"},
        ),
        Case(
            kind,
            "Content-Encoding: gzip, body not compressed",
            200,
            make_body=good,
            headers={"content-encoding": "gzip"},
        ),
        Case(
            kind,
            "Content-Encoding: gzip, body compressed",
            415,
            "unsupported_image",
            "Content-Encoding: gzip",
            lambda: gzip.compress(good()),
            headers={"content-encoding": "gzip"},
        ),
    ]


def _forms() -> list[Case]:
    def case(
        name: str, words: str, make_body: Callable[[], bytes], status: int = 400, content_type: str = FORM_TYPE
    ) -> Case:
        code = {400: "malformed_upload", 200: "", 415: "unsupported_image"}[status]
        return Case("form", name, status, code, words, make_body, headers={"content-type": content_type})

    def whole() -> bytes:
        return form(file_part(good()))

    plain = "multipart/form-data"
    long_header = b"x-h: " + b"v" * 5000 + b"\r\n"
    return [
        case("no boundary", "boundary", whole, content_type=plain),
        case("empty boundary", "multipart", whole, content_type=f"{plain}; boundary="),
        case("boundary other than the body's", "boundary", whole, content_type=f"{plain}; boundary=other"),
        case("boundary of 5,000 characters", "exceeds maximum", whole, content_type=f"{plain}; boundary={'b' * 5000}"),
        case("no field `file`", "`picture` (a file)", lambda: form(part('name="picture"; filename="a"', good()))),
        case("text in the field `file`", "`file` (text)", lambda: form(part('name="file"', b"text"))),
        case("a part without a name", '"name"', lambda: form(part('filename="a"', good()))),
        case(
            "a picture of 2 MB without a filename",
            "`file` (text)",
            lambda: form(part('name="file"', bytes(2 * 10**6))),
        ),
        case("no parts", "no complete field", form),
        case("no closing boundary", "breaks off within its last file", lambda: whole()[:-20]),
        case("two files", "Maximum number of files is 1", lambda: form(file_part(good()), file_part(good()))),
        case(
            "10,000 text fields", "8 text fields", lambda: form(*[part('name="t"', b"x")] * 10_000, file_part(good()))
        ),
        case("10,000 headers in a part", "8 headers", lambda: form(file_part(good(), b"x-h: v\r\n" * 10_000))),
        case("a header of 5,000 bytes", "4,224 bytes", lambda: form(file_part(good(), long_header))),
        case(
            "a header of 9 MB without an end",
            "4,224 bytes",
            lambda: f"--{BOUNDARY}\r\nx-h: ".encode() + b"v" * 9_000_000,
        ),
        case("a form as the file", "", lambda: form(file_part(form(file_part(good()), boundary="inner"))), 415),
        case("a filename with NUL", "", lambda: form(file_part(good(), filename="a\0.jpg")), 200),
        case("a filename with ../", "", lambda: form(file_part(good(), filename="../../etc/passwd")), 200),
        case("a filename of 10,000 characters", "4,224 bytes", lambda: form(file_part(good(), filename="n" * 10_000))),
        case("charset=undefined", "charset", whole, content_type=f"{plain}; charset=undefined; boundary={BOUNDARY}"),
        case(
            "charset=punycode, and a text of 1 MB",
            "charset",
            lambda: form(part('name="t"', b"0" * 10**6), file_part(good())),
            content_type=f"{plain}; charset=punycode; boundary={BOUNDARY}",
        ),
        case(
            "a field name in Latin-1",
            "`file`",
            lambda: form(part('name="\xff"', b"x")),
            content_type=f"{plain}; charset=latin1; boundary={BOUNDARY}",
        ),
        case("lines that look like boundaries, 9 MB", "", lambda: form(file_part(b"\r\n--b0" * 1_300_000)), 415),
    ]


def _methods_and_paths() -> list[Case]:
    wrong = [
        Case("wrong method", f"{method} {PREDICT}", 405, "method_not_allowed", method, method=method)
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
    ]
    posted = Case("wrong method", "POST /user/", 405, "method_not_allowed", "POST", path="/user/")
    odd = [
        "/model/predict/",
        "/model/predict%00",
        "/model/..%2fpredict",
        "/model/PREDICT",
        "/model//predict",
        "/user/1/2",
    ]
    paths = [Case("unknown path", path, 404, "not_found", "", path=path, method="GET") for path in odd]
    long = Case(
        "unknown path", "a path of 5,000 characters", 404, "not_found", path="/model/" + "a" * 5000, method="GET"
    )
    return [*wrong, posted, *paths, long]


def _parameters() -> list[Case]:
    values = {
        "SQL injection": "1%27%20OR%20%271%27%3D%271",
        "SQL injection, two statements": "1%3BDROP%20TABLE%20users",
        "NUL": "1%00",
        "invalid UTF-8": "%ff%fe",
        "5,000 digits": "9" * 5000,
        "empty": "",
        "given twice, the second one invalid": "1&{name}=x",
    }
    found = []
    for path, name in (("/user/?limit=", "limit"), ("/user/?after=", "after"), (f"{PREDICT}?top_k=", "top_k")):
        method = "POST" if path.startswith(PREDICT) else "GET"
        for what, value in values.items():
            whole = path + value.format(name=name)
            found.append(Case("parameter", f"{name}: {what}", 422, "invalid_parameter", name, good, whole, method))
    for what, value in list(values.items())[:5]:
        found.append(
            Case(
                "parameter",
                f"user id: {what}",
                422,
                "invalid_parameter",
                "user_id",
                path=f"/user/{value}",
                method="GET",
            )
        )
    header = {"x-deadline-ms": "1 OR 1=1"}
    return [
        *found,
        Case(
            "parameter", "X-Deadline-Ms: SQL injection", 422, "invalid_parameter", "X-Deadline-Ms", good, headers=header
        ),
    ]


def inference_body(data: Sequence[Any] | None = None, raw: bytes | None = None, **changes: Any) -> bytes:
    """Return a request of the Open Inference Protocol with a picture, or what is named instead."""
    text = base64.b64encode(good()).decode()
    tensor: dict[str, Any] = {"name": "pictures", "datatype": "BYTES", "shape": [1]}
    tensor |= (
        {"data": [text] if data is None else data} if raw is None else {"parameters": {"binary_data_size": len(raw)}}
    )
    return json.dumps({"inputs": [tensor | changes]}).encode() + (raw or b"")


def _inferences() -> list[Case]:
    lying, elements = struct.pack("<I", 2**32 - 1) + good(), struct.pack("<I", 0) * 1_000_000
    huge_file = _element(bytes(10_000_001))
    pixels: dict[str, Any] = {"name": "pixels", "shape": [1, 1, 1, 3], "datatype": "FP32"}
    huge = {**pixels, "shape": [1, 10**9, 1, 3]}
    rows = [[1], [2, 3]]
    infinite = struct.pack("<3f", 1, float("inf"), 2)
    nan = struct.pack("<3f", 1, float("nan"), 2)
    bytes_, floats = INFER, INFER_FP32
    found: list[tuple[str, int, str, Callable[[], bytes], str]] = [
        ("a picture", 200, "", inference_body, bytes_),
        ("no JSON", 400, "JSON", good, bytes_),
        ("JSON nested 100,000 deep", 400, "recursion", lambda: b'{"inputs":' + b"[" * 100_000, bytes_),
        ("JSON of 2,000,000 lists", 413, "1,000,000", lambda: b'{"inputs":[' + b"[]," * 2_000_000 + b"1]}", bytes_),
        ("NaN as the size of a shape", 400, "shape", lambda: inference_body(shape=[float("nan")]), bytes_),
        ("a negative shape", 400, "shape", lambda: inference_body(shape=[-1]), bytes_),
        ("a shape of 1,000 dimensions", 400, "shape", lambda: inference_body(shape=[1] * 1000), bytes_),
        ("10⁹ pictures in the shape, one in the data", 413, "64", lambda: inference_body(shape=[10**9]), bytes_),
        ("65 pictures", 413, "64", lambda: inference_body(["AAAA"] * 65, shape=[65]), bytes_),
        ("two pictures in the shape, one in the data", 400, "1 elements", lambda: inference_body(shape=[2]), bytes_),
        ("an element whose length is 2³²−1", 400, "leads beyond", lambda: inference_body(raw=lying), bytes_),
        ("1,000,000 elements of length 0", 400, "more elements", lambda: inference_body(raw=elements), bytes_),
        ("a tensor longer than the body", 400, "binary_data_size", lambda: inference_body(raw=good())[:-1], bytes_),
        ("bytes behind the last tensor", 400, "belong", lambda: inference_body(raw=good()) + b"x", bytes_),
        ("pictures as FP64", 400, "BYTES", lambda: inference_body(datatype="FP64"), bytes_),
        ("an unknown input", 400, "pictures", lambda: inference_body(name="x"), bytes_),
        ("no Base64", 400, "Base64", lambda: inference_body(["%"]), bytes_),
        ("text as a picture", 415, "JPEG", lambda: inference_body(["aGVsbG8="]), bytes_),
        ("half a picture", 400, "truncated", lambda: inference_body(raw=_element(good()[:600])), bytes_),
        ("a picture of 10,000,001 bytes", 413, "10,000,000", lambda: inference_body(raw=huge_file), bytes_),
        ("10⁹ pixels in the shape", 413, "50,000,000", lambda: inference_body([1, 2, 3], **huge), floats),
        ("NaN as a pixel", 400, "NaN", lambda: inference_body(raw=nan, **pixels), floats),
        ("an infinite pixel", 400, "0 to 255", lambda: inference_body(raw=infinite, **pixels), floats),
        ("pixels that are no rectangle", 400, "rectangle", lambda: inference_body(rows, **pixels), floats),
        ("pixels of text", 400, "numbers", lambda: inference_body(["1", "2", "3"], **pixels), floats),
        ("an unknown model", 404, "no model", good, INFER.replace("resnet50", "resnet")),
    ]  # fmt: skip
    return [
        Case("Open Inference Protocol", name, status, "", words, make, path)
        for name, status, words, make, path in found
    ]


def json_length(body: bytes) -> dict[str, str]:
    """Return the header of a request with a raw tensor behind its JSON."""
    end = b"}]}"
    if b"binary_data_size" not in body[:300]:
        return {}
    return {"Inference-Header-Content-Length": str(body.index(end) + len(end))}


def _element(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _animated(frames: int) -> bytes:
    return gif(4, 4)[:-1] + gif_frame(4, 4) * (frames - 1) + b";"


def _scans(count: int) -> bytes:
    data = encode(Image.linear_gradient("L").resize((64, 64)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


async def print_table(url: str) -> int:
    """Send every case, one after the other, and print the answers in Markdown. Returns the exit code."""
    code = 0
    print("| kind | input | status | code | detail |\n|---|---|---|---|---|")
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_S) as client:
        for case in cases():
            answer = await send(client, case)
            if fault := answer.fault(case):
                code = 1
                print(f"{case.kind}, {case.name}: {fault}", file=sys.stderr)
            detail = _printable(answer.detail or "the predicted classes")
            shown = detail if len(detail) <= 150 else f"{detail[:150]}…"
            print(f"| {case.kind} | {case.name} | {answer.status} | {answer.body.get('code', '')} | {shown} |")
    return code


def _printable(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
    return shown.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(asyncio.run(print_table(sys.argv[1])))
