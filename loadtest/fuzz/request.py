"""One request of the fuzzer: how it is made from a seed and a number, and how it is kept in a file.

The file is the request as it went over the wire (a chunked body without its chunk lengths), so that it can be read.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.errors import BadInputError
from loadtest.fuzz.mutations import Spoilt, spoil

Header = tuple[bytes, bytes]

_BOUNDARY = b"fuzz-7d1c"
_FORM_TYPE = b"multipart/form-data; boundary=" + _BOUNDARY
_OVERSIZE_BYTES = 11_000_000
_ODD_TYPES = (b"image/jpeg", b"image/png", b"text/html", b"application/json", b"x", b"multipart/mixed", b"\xff/\xfe")
_ODD_FORM_TYPES = (
    b"multipart/form-data",
    b"multipart/form-data; boundary=",
    b"multipart/form-data; boundary=other",
    b"multipart/form-data; boundary=" + b"b" * 3000,
    b"multipart/form-data; boundary=\xff\xfe",
    b"multipart/form-data; charset=undefined; boundary=" + _BOUNDARY,
    b"multipart/form-data; charset=idna; boundary=" + _BOUNDARY,
    b"multipart/form-data; charset=utf-16; boundary=" + _BOUNDARY,
    b"multipart/form-data; boundary*=utf-8''a; boundary=" + _BOUNDARY,
)
_ODD_NAMES = (b"../../etc/passwd", b"a\x00b", b"n" * 5000, b"\xff\xfe", b'a"; name="x', b"C:\\file", b"")
_VALUES = (
    "3", "1", "10", "0", "11", "-1", "", "1e3", "NaN", "9" * 400, "%00", "%ff%fe", "3%00", "%F0%9F%92%A9", "0x3", "+3",
    "1%27%20OR%20%271%27%3D%271", "1%3BDROP%20TABLE%20users", "3&top_k=x", "x&top_k=3", "[]", "%2e%2e%2f",
)  # fmt: skip
_ODD_HEADERS: tuple[Header, ...] = (
    (b"x-deadline-ms", b"soon"),
    (b"x-deadline-ms", b"-1"),
    (b"x-deadline-ms", b"9" * 400),
    (b"x-request-id", b"\xff\xfe"),
    (b"x-request-id", b"i" * 5000),
    (b"x-request-timeout-seconds", b"0.0001"),
    (b"content-encoding", b"gzip"),
    (b"accept", b"text/html"),
    (b"cookie", b"a=b; " * 500 + b"c=d"),
    (b"x-forwarded-for", b"' OR 1=1 --"),
    (b"range", b"bytes=0-1"),
    (b"host", b"other.example"),  # one that is none is for HAProxy, which cuts the upload off
)


@dataclass(frozen=True)
class FuzzRequest:
    """A POST request; `target` is what stands in its first line, path and query."""

    target: bytes
    headers: tuple[Header, ...]
    body: bytes
    is_chunked: bool = False
    was_done: str = ""

    def encode(self) -> bytes:
        """Return the request as it is kept in a file."""
        lines = [b"POST " + self.target + b" HTTP/1.1", b"x-fuzz: " + self.was_done.encode()]
        lines += [name + b": " + value for name, value in self.headers]
        if self.is_chunked:
            lines.append(b"transfer-encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


def read_request(path: Path) -> FuzzRequest:
    """Return the request that a file holds. Raises BadInputError."""
    try:
        head, separator, body = path.read_bytes().partition(b"\r\n\r\n")
    except OSError as exc:
        raise BadInputError(f"{path}: cannot be read: {exc.strerror}") from exc
    first, *lines = head.split(b"\r\n")
    words = first.split(b" ")
    if not separator or len(words) != 3 or words[0] != b"POST":  # noqa: PLR2004 method, target, version
        raise BadInputError(f"{path}: holds no request; give a file that `fuzz` has saved")
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    kept = tuple(header for header in headers if header[0] not in (b"transfer-encoding", b"x-fuzz"))
    was_done = next((value.decode() for name, value in headers if name == b"x-fuzz"), "")
    return FuzzRequest(words[1], kept, body, (b"transfer-encoding", b"chunked") in headers, was_done)


def valid_requests(path: str, files: Sequence[bytes]) -> Iterator[FuzzRequest]:
    """Yield each file as it is, as the body and in a form: one of them at least should be accepted."""
    for file in files:
        yield FuzzRequest(path.encode(), (), file)
        form = _form([_part(b'name="file"; filename="a"', file)])
        yield FuzzRequest(path.encode(), ((b"content-type", _FORM_TYPE),), form)


def make_request(path: str, files: Sequence[bytes], seed: int, number: int) -> FuzzRequest:
    """Return request `number` of the campaign `seed`: the same for the same files, whatever was sent before."""
    rng = random.Random(f"{seed} {number}")
    is_oversize = rng.random() < 0.001  # noqa: PLR2004 one in a thousand: each is 11 MB
    request = _wrap(rng, path, Spoilt("oversize", bytes(_OVERSIZE_BYTES)) if is_oversize else spoil(rng, files))
    if rng.random() < 0.2:  # noqa: PLR2004 one in five
        target = request.target + b"?top_k=" + rng.choice(_VALUES).encode()
        request = replace(request, target=target, was_done=f"{request.was_done}, query")
    if rng.random() < 0.1:  # noqa: PLR2004 one in ten
        headers = (*request.headers, rng.choice(_ODD_HEADERS))
        request = replace(request, headers=headers, was_done=f"{request.was_done}, header")
    return replace(request, is_chunked=rng.random() < 0.2)  # noqa: PLR2004 one in five


def _wrap(rng: random.Random, path: str, spoilt: Spoilt) -> FuzzRequest:
    """Return a request with the file as its body, or in a form."""
    picture, content_type = spoilt.data, b""
    kind = rng.choice(("body", "body", "lying type", "form", "form", "odd form", "spoilt form", "form of wrong type"))
    if kind == "body":
        body = picture
    elif kind == "lying type":
        body, content_type = picture, rng.choice(_ODD_TYPES)
    else:
        body, content_type = _form([_part(b'name="file"; filename="a"', picture)]), _FORM_TYPE
    if kind == "odd form":
        body = _odd_form(rng, picture)
    elif kind == "spoilt form":
        body = spoil(rng, [body]).data
    elif kind == "form of wrong type":
        content_type = rng.choice(_ODD_FORM_TYPES)
    headers = ((b"content-type", content_type),) if content_type else ()
    return FuzzRequest(path.encode(), headers, body, was_done=f"{spoilt.was_done}; {kind}")


def _odd_form(rng: random.Random, picture: bytes) -> bytes:
    file = _part(b'name="file"; filename="a"', picture)
    name = rng.choice(_ODD_NAMES)
    header = b"x-h: " + b"v" * rng.choice((1, 5000)) + b"\r\n"
    return _form(
        rng.choice(
            (
                [file, file],
                [_part(b'name="file"', picture)],
                [_part(b'name="other"; filename="a"', picture)],
                [_part(b"filename=a", picture)],
                [_part(b'name="file"; filename="' + name + b'"', picture)],
                [_part(b'name="' + name + b'"', b"text"), file],
                [_part(b'name="t"', b"")] * rng.choice((8, 9, 2000)) + [file],
                [_part(b'name="file"; filename="a"', picture, header * rng.choice((1, 9, 2000)))],
                [_part(b'name="file"; filename="a"', _form([file]), b"content-type: multipart/mixed\r\n")],
                [],
            )
        )
    )


def _form(parts: Sequence[bytes]) -> bytes:
    return b"".join(b"--" + _BOUNDARY + b"\r\n" + part for part in parts) + b"--" + _BOUNDARY + b"--\r\n"


def _part(disposition: bytes, content: bytes, headers: bytes = b"") -> bytes:
    return b"Content-Disposition: form-data; " + disposition + b"\r\n" + headers + b"\r\n" + content + b"\r\n"
