"""Reads the picture's bytes from a request: the field `file` of a multipart form, or the body itself."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from python_multipart.multipart import DEFAULT_MAX_HEADER_COUNT, DEFAULT_MAX_HEADER_SIZE, parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serve_app.classifier.answer import TopK
from serve_app.classifier.formats import begins_as
from serve_app.classifier.settings import MULTIPART_OVERHEAD_BYTES, ClassifierSettings
from serve_app.errors import EncodedUpload, InvalidParameter, MalformedUpload, Overloaded, UploadTooLarge, UploadTooSlow
from serve_app.uploads import HeldUpload
from serve_app.web import Drain

FIELD = "file"
TOP_K_FIELD = "top_k"
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
MAX_TEXT_FIELDS = 8
_TOP_K = TypeAdapter(TopK)
_TOP_K_SCHEMA = {**_TOP_K.json_schema(), "description": "As in the query, where it need not be then."}
_MOST_NAMES = 10
_MOST_NAME_CHARACTERS = 40
_ENCODINGS = ("content-encoding", "content-transfer-encoding")
_NO_ENCODING = ("", "identity", "binary", "8bit", "7bit")
# Python's punycode takes nine minutes for the megabyte that a text field may have, idna is its relative, and a field's
# name must be read as what it is: what all charsets that a form may have do with these bytes.
_PLAIN = b"xn--file-9.file"


@dataclass(frozen=True)
class BodyBounds:
    """How large an upload may be, what a form may add, and how long it may take; `remedy` is for who exceeds it."""

    max_bytes: int
    timeout_s: float
    overhead_bytes: int = MULTIPART_OVERHEAD_BYTES
    remedy: str = "send a smaller picture"

    @classmethod
    def of(cls, settings: ClassifierSettings) -> "BodyBounds":
        """Return those of one picture."""
        return cls(settings.max_upload_bytes, settings.upload_timeout_s)

    @property
    def drain(self) -> Drain:
        """How much is read of an upload that is refused, also of one that is several times too large."""
        return Drain(max(Drain.max_bytes, self.max_bytes + self.overhead_bytes), self.timeout_s)

    def too_large(self) -> UploadTooLarge:
        """Return what to raise beyond `max_bytes`."""
        return UploadTooLarge(f"the upload is larger than {self.max_bytes:,} bytes; {self.remedy}")


def document_upload(field: dict[str, Any], *types: str) -> dict[str, Any]:
    """Return the OpenAPI of a body that is a form whose field `file` has this schema, or one of the media `types`.

    The form may have a field `top_k` too.
    """
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: field, TOP_K_FIELD: _TOP_K_SCHEMA}}
    content = {"multipart/form-data": {"schema": form}, **{media: {"schema": BINARY} for media in types}}
    return {"requestBody": {"required": True, "content": content}}


def is_form(request: Request) -> bool:
    """Tell whether the body is a multipart form, by its header."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_upload(
    request: Request, upload: HeldUpload, settings: ClassifierSettings, top_k: int
) -> tuple[bytes, int]:
    """Return the uploaded picture and its `top_k`, as `top_k_of` does.

    The picture is bounded while it streams in, and `upload` is told how much there is. Raises UploadTooLarge beyond
    max_upload_bytes, UploadTooSlow after upload_timeout_s, MalformedUpload, EncodedUpload, the errors of `top_k_of`,
    and Overloaded from `upload`.
    """
    bounds = BodyBounds.of(settings)
    body = await read_body(request, upload, bounds)
    if is_form(request):
        picture, headers, top_k = await _file_field(request, body, top_k)
    else:
        picture, headers, top_k = body, request.headers, top_k_of(request, None, top_k)
    if begins_as(picture) is None:
        refuse_encoded(headers)
    if len(picture) > bounds.max_bytes:
        raise bounds.too_large()
    if not picture:
        raise MalformedUpload(f"the upload is empty; send a picture as the body or as the form field `{FIELD}`")
    return picture, top_k


async def read_body(request: Request, upload: HeldUpload, bounds: BodyBounds) -> bytes:
    """Return the whole body, which of a form may be `overhead_bytes` larger. Raises as `read_upload` does."""
    most_bytes = bounds.max_bytes + bounds.overhead_bytes * is_form(request)
    # One buffer: a list would need fifty bytes for each chunk, and a client may send a byte a chunk. `getvalue` returns
    # that buffer; of a bytearray, bytes would be a copy.
    body = BytesIO()
    try:
        async with asyncio.timeout(bounds.timeout_s):
            async for chunk in request.stream():
                if body.tell() + len(chunk) > most_bytes:
                    raise bounds.too_large()
                upload.add(len(chunk))
                body.write(chunk)
    except (UploadTooLarge, Overloaded):
        body.close()  # the error keeps this frame, and nothing accounts for the bytes while the rest is drained
        raise
    except TimeoutError as exc:
        raise UploadTooSlow(f"the upload was not there after {bounds.timeout_s:g} s; {bounds.remedy}") from exc
    except ClientDisconnect as exc:  # nobody reads the answer; it is the client's doing, not a fault to log
        raise MalformedUpload("the upload broke off") from exc
    return body.getvalue()


def refuse_encoded(headers: Headers) -> None:
    """Raise EncodedUpload if `headers` name an encoding; to be called for content that is not what was asked for.

    Content decides, as with Content-Type: a picture is taken whatever is said of it.
    """
    for header in _ENCODINGS:
        named = ", ".join(headers.getlist(header))
        if any(encoding.strip().lower() not in _NO_ENCODING for encoding in named.split(",")):
            raise EncodedUpload(
                f"the upload comes with {header.title()}: {printable(named, 100)}, which is not undone here; "
                "send the picture as it is, without this header"
            )


async def parse_form(request: Request, body: bytes, max_files: int = 1) -> FormData:
    """Return the whole form in `body`, to be closed. Raises MalformedUpload, with the limits of a form.

    Raises UploadTooLarge where many files may come, and more do; EncodedUpload if the body is no form for that.
    """
    _check_charset(request.headers)
    parser = _WholeFormParser(request.headers, body, max_files)
    try:
        return await parser.parse()
    except MultiPartException as exc:
        if max_files > 1 and exc.message.startswith("Too many files"):
            raise UploadTooLarge(f"the form has more than {max_files:,} files; send fewer at a time") from exc
        if exc.message.startswith("Part exceeded maximum size"):
            part = (parser._current_part.field_name, "")  # noqa: SLF001 the one that has no end yet
            raise _without_file([*parser.items, part], f"; text may have {parser.max_part_size:,} bytes") from exc
        refuse_encoded(request.headers)
        fault = exc.__cause__ or exc.message  # the parser's own words where it has any
        limits = (
            f"a form may have {'one file' if max_files == 1 else f'{max_files:,} files'}, {MAX_TEXT_FIELDS} text "
            f"fields, {DEFAULT_MAX_HEADER_COUNT} headers in a part and {DEFAULT_MAX_HEADER_SIZE:,} bytes in a header"
        )
        raise MalformedUpload(f"the multipart form cannot be read: {fault}; {limits}") from exc
    except (ValueError, LookupError) as exc:  # what else a charset of the client's choice may raise
        raise MalformedUpload(f"the multipart form cannot be read as the charset it names: {exc}") from exc


def files_in(form: FormData) -> list[UploadFile]:
    """Return the files in the field `file`, one at least. Raises MalformedUpload, which says what was found instead.

    Files in other fields are refused, too: their sender would not hear that they were left out.
    """
    files = [part for part in form.getlist(FIELD) if isinstance(part, UploadFile)]
    if not files:
        raise _without_file(form.multi_items())
    others = _listed(_quoted(name) for name, part in form.multi_items() if _is_lost(name, part))
    if others:
        raise MalformedUpload(f"the multipart form has files in other fields: {others}; send each one in `{FIELD}`")
    return files


def top_k_of(request: Request, form: FormData | None, top_k: int) -> int:
    """Return the `top_k` that query and form give, each as often as it likes; `top_k` where neither has one.

    Raises RequestValidationError for a value that is not allowed, InvalidParameter where two of them differ.
    """
    given: list[tuple[str, UploadFile | str]] = [("query", text) for text in request.query_params.getlist(TOP_K_FIELD)]
    given += [("form", field) for field in (form.getlist(TOP_K_FIELD) if form is not None else ())]
    read = {(where, _read_top_k(where, each)): None for where, each in given}
    values = {value for _, value in read}
    if len(values) > 1:
        told = " and ".join(f"{where}.{TOP_K_FIELD} is {value}" for where, value in read)
        raise InvalidParameter(f"{told}; send one of them")
    return values.pop() if values else top_k


def printable(text: str, most: int) -> str:
    """Return up to `most` characters of what a client sent, without those that would garble an answer or a log."""
    return "".join(letter if letter.isprintable() else "�" for letter in text[:most])


def _read_top_k(where: str, given: UploadFile | str) -> int:
    try:
        return _TOP_K.validate_python(given)
    except ValidationError as exc:
        raise RequestValidationError([{**fault, "loc": (where, TOP_K_FIELD)} for fault in exc.errors()]) from exc


def _is_lost(name: str, part: UploadFile | str) -> bool:
    """Tell whether a part is a file in another field; a browser sends one without name and content for no file."""
    return name != FIELD and isinstance(part, UploadFile) and bool(part.filename or part.size)


def _without_file(fields: Iterable[tuple[str, UploadFile | str]], limit: str = "") -> MalformedUpload:
    found = _listed(
        f"{_quoted(name)} ({'a file' if isinstance(field, UploadFile) else 'text'})" for name, field in fields
    )
    return MalformedUpload(
        f"the multipart form has no complete file in the field `{FIELD}`; found: {found or 'no complete field'}; "
        f"a part counts as a file if it has a filename{limit}"
    )


def _quoted(name: str) -> str:
    return f"`{printable(name, _MOST_NAME_CHARACTERS)}`"


def _listed(found: Iterable[str]) -> str:
    names = list(dict.fromkeys(found))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _check_charset(headers: Headers) -> None:
    charset = parse_options_header(headers["content-type"])[1].get(b"charset", b"utf-8").decode("latin-1")
    try:
        is_plain = _PLAIN.decode(charset) == _PLAIN.decode()
    except LookupError:
        return  # the parser takes latin-1 for what is no charset
    except ValueError as exc:
        raise MalformedUpload(f"the multipart form cannot be read as the charset it names: {exc}") from exc
    if not is_plain:
        raise MalformedUpload(
            f"the multipart form cannot be read as the charset it names: {printable(charset, _MOST_NAME_CHARACTERS)} "
            "does not contain ASCII; send it as UTF-8"
        )


async def _file_field(request: Request, body: bytes, top_k: int) -> tuple[bytes, Headers, int]:
    """Return the content of the field `file`, the headers of its part, and `top_k` as `top_k_of` does."""
    form = await parse_form(request, body)
    try:
        (file,) = files_in(form)
        return await file.read(), file.headers, top_k_of(request, form, top_k)
    finally:
        await form.close()


class _WholeFormParser(MultiPartParser):
    """Refuses a form that breaks off; Starlette would leave out its last part."""

    def __init__(self, headers: Headers, body: bytes, max_files: int) -> None:
        super().__init__(headers, self._fed(body), max_files=max_files, max_fields=MAX_TEXT_FIELDS)
        self.spool_max_size = len(body)  # it is in memory already: no temporary file
        self._is_within_part = False

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self._is_within_part = True

    def on_part_end(self) -> None:
        super().on_part_end()
        self._is_within_part = False

    async def _fed(self, body: bytes) -> AsyncGenerator[bytes, None]:
        yield body
        if self._is_within_part:  # raised here, the parser closes its files
            kind = "file" if self._current_part.file else "part"
            raise MalformedUpload(f"the multipart form breaks off within its last {kind}; send its closing boundary")
