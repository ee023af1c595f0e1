"""Reads the picture's bytes from a request: the field `file` of a multipart form, or the body itself."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from fastapi import Request
from python_multipart.multipart import DEFAULT_MAX_HEADER_COUNT, DEFAULT_MAX_HEADER_SIZE
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serve_app.classifier.admission import Lease
from serve_app.classifier.settings import MULTIPART_OVERHEAD_BYTES, ClassifierSettings
from serve_app.errors import MalformedUpload, UploadTooLarge, UploadTooSlow

FIELD = "file"
MAX_TEXT_FIELDS = 8
FORM_LIMITS = (
    f"a form may have one file, {MAX_TEXT_FIELDS} text fields, {DEFAULT_MAX_HEADER_COUNT} headers in a part and "
    f"{DEFAULT_MAX_HEADER_SIZE:,} bytes in a header"
)


async def read_upload(request: Request, lease: Lease, settings: ClassifierSettings) -> bytes:
    """Return the uploaded picture; bounded while it streams in, and `lease` is told how much there is.

    Raises UploadTooLarge beyond max_upload_bytes, UploadTooSlow after upload_timeout_s, MalformedUpload, and what
    `lease` raises.
    """
    max_bytes, timeout_s = settings.max_upload_bytes, settings.upload_timeout_s
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read_bounded(request, lease, max_bytes, MULTIPART_OVERHEAD_BYTES * is_form)
    except TimeoutError as exc:
        raise UploadTooSlow(f"the upload was not there after {timeout_s:g} s; send a smaller picture") from exc
    picture = await _file_field(request, body) if is_form else body
    if len(picture) > max_bytes:
        raise _too_large(max_bytes)
    if not picture:
        raise MalformedUpload(f"the upload is empty; send a picture as the body or as the form field `{FIELD}`")
    return picture


async def discard_upload(request: Request, settings: ClassifierSettings) -> None:
    """Read what the client sends, within the same bounds, and keep nothing.

    A client that is still sending when the answer comes would see its connection reset instead.
    """
    received = 0
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(settings.upload_timeout_s):
            async for chunk in request.stream():
                received += len(chunk)
                if received > settings.max_upload_bytes + MULTIPART_OVERHEAD_BYTES:
                    return


async def _read_bounded(request: Request, lease: Lease, max_bytes: int, overhead_bytes: int) -> bytes:
    # One buffer: a list would need fifty bytes for each chunk, and a client may send a byte a chunk.
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > max_bytes + overhead_bytes:
                raise _too_large(max_bytes)
            lease.add(len(chunk))
            body += chunk
    except ClientDisconnect as exc:  # nobody reads the answer; it is the client's doing, not a fault to log
        raise MalformedUpload("the upload broke off") from exc
    return bytes(body)


async def _file_field(request: Request, body: bytes) -> bytes:
    try:
        parser = MultiPartParser(request.headers, _once(body), max_files=1, max_fields=MAX_TEXT_FIELDS)
        parser.spool_max_size = len(body)  # it is in memory already: no temporary file
        form = await parser.parse()
    except MultiPartException as exc:
        fault = exc.__cause__ or exc.message  # the parser's own words where it has any
        raise MalformedUpload(f"the multipart form cannot be read: {fault}; {FORM_LIMITS}") from exc
    except (ValueError, LookupError) as exc:  # a charset of the client's choice, such as `undefined`, may raise them
        raise MalformedUpload(f"the multipart form cannot be read as the charset it names: {exc}") from exc
    try:
        field = form.get(FIELD)
        if not isinstance(field, UploadFile):
            raise MalformedUpload(f"the multipart form has no complete file in the field `{FIELD}`")
        return await field.read()
    finally:
        await form.close()


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _too_large(max_bytes: int) -> UploadTooLarge:
    return UploadTooLarge(f"the upload is larger than {max_bytes:,} bytes; send a smaller picture")
