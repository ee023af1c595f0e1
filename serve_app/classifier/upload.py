"""Reads the picture's bytes from a request: the field `file` of a multipart form, or the body itself."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from fastapi import Request
from python_multipart.multipart import DEFAULT_MAX_HEADER_COUNT, DEFAULT_MAX_HEADER_SIZE
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serve_app.classifier.admission import Lease
from serve_app.classifier.settings import MULTIPART_OVERHEAD_BYTES, ClassifierSettings
from serve_app.errors import MalformedUpload, UploadTooLarge, UploadTooSlow

FIELD = "file"
MAX_TEXT_FIELDS = 8


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

    def too_large(self) -> UploadTooLarge:
        """Return what to raise beyond `max_bytes`."""
        return UploadTooLarge(f"the upload is larger than {self.max_bytes:,} bytes; {self.remedy}")


def is_form(request: Request) -> bool:
    """Tell whether the body is a multipart form, by its header."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def read_upload(request: Request, lease: Lease, settings: ClassifierSettings) -> bytes:
    """Return the uploaded picture; bounded while it streams in, and `lease` is told how much there is.

    Raises UploadTooLarge beyond max_upload_bytes, UploadTooSlow after upload_timeout_s, MalformedUpload, and what
    `lease` raises.
    """
    bounds = BodyBounds.of(settings)
    body = await read_body(request, lease, bounds)
    picture = await _file_field(request, body) if is_form(request) else body
    if len(picture) > bounds.max_bytes:
        raise bounds.too_large()
    if not picture:
        raise MalformedUpload(f"the upload is empty; send a picture as the body or as the form field `{FIELD}`")
    return picture


async def read_body(request: Request, lease: Lease, bounds: BodyBounds) -> bytes:
    """Return the whole body, which of a form may be `overhead_bytes` larger. Raises as `read_upload` does."""
    most_bytes = bounds.max_bytes + bounds.overhead_bytes * is_form(request)
    # One buffer: a list would need fifty bytes for each chunk, and a client may send a byte a chunk.
    body = bytearray()
    try:
        async with asyncio.timeout(bounds.timeout_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > most_bytes:
                    raise bounds.too_large()
                lease.add(len(chunk))
                body += chunk
    except TimeoutError as exc:
        raise UploadTooSlow(f"the upload was not there after {bounds.timeout_s:g} s; {bounds.remedy}") from exc
    except ClientDisconnect as exc:  # nobody reads the answer; it is the client's doing, not a fault to log
        raise MalformedUpload("the upload broke off") from exc
    return bytes(body)


async def discard_upload(request: Request, bounds: BodyBounds) -> None:
    """Read what the client sends, within the same bounds, and keep nothing.

    A client that is still sending when the answer comes would see its connection reset instead.
    """
    received = 0
    with suppress(TimeoutError, ClientDisconnect, RuntimeError):  # the last: all of it has been read already
        async with asyncio.timeout(bounds.timeout_s):
            async for chunk in request.stream():
                received += len(chunk)
                if received > bounds.max_bytes + bounds.overhead_bytes:
                    return


async def parse_form(request: Request, body: bytes, max_files: int = 1) -> FormData:
    """Return the form in `body`, to be closed. Raises MalformedUpload, with the limits of a form.

    Raises UploadTooLarge where many files may come, and more do.
    """
    try:
        parser = MultiPartParser(request.headers, _once(body), max_files=max_files, max_fields=MAX_TEXT_FIELDS)
        parser.spool_max_size = len(body)  # it is in memory already: no temporary file
        return await parser.parse()
    except MultiPartException as exc:
        if max_files > 1 and exc.message.startswith("Too many files"):
            raise UploadTooLarge(f"the form has more than {max_files:,} files; send fewer at a time") from exc
        fault = exc.__cause__ or exc.message  # the parser's own words where it has any
        limits = (
            f"a form may have {'one file' if max_files == 1 else f'{max_files:,} files'}, {MAX_TEXT_FIELDS} text "
            f"fields, {DEFAULT_MAX_HEADER_COUNT} headers in a part and {DEFAULT_MAX_HEADER_SIZE:,} bytes in a header"
        )
        raise MalformedUpload(f"the multipart form cannot be read: {fault}; {limits}") from exc
    except (ValueError, LookupError) as exc:  # a charset of the client's choice, such as `undefined`, may raise them
        raise MalformedUpload(f"the multipart form cannot be read as the charset it names: {exc}") from exc


async def _file_field(request: Request, body: bytes) -> bytes:
    form = await parse_form(request, body)
    try:
        field = form.get(FIELD)
        if not isinstance(field, UploadFile):
            raise MalformedUpload(f"the multipart form has no complete file in the field `{FIELD}`")
        return await field.read()
    finally:
        await form.close()


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
