"""Reads the picture's bytes from a request: the field `file` of a multipart form, or the body itself."""

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from serve_app.errors import MalformedUpload, UploadTooLarge

FIELD = "file"
# Part headers, boundaries and a few stray text fields around the picture.
MULTIPART_OVERHEAD_BYTES = 16_384


async def read_upload(request: Request, max_bytes: int) -> bytes:
    """Return the uploaded picture, at most `max_bytes` long; bounded while it streams in.

    Raises UploadTooLarge and MalformedUpload.
    """
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    body = await _read_bounded(request, max_bytes + MULTIPART_OVERHEAD_BYTES * is_form)
    picture = await _file_field(request, body) if is_form else body
    if len(picture) > max_bytes:
        raise _too_large(max_bytes)
    if not picture:
        raise MalformedUpload(f"the upload is empty; send a picture as the body or as the form field `{FIELD}`")
    return picture


async def _read_bounded(request: Request, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
    except ClientDisconnect as exc:  # nobody reads the answer; it is the client's doing, not a fault to log
        raise MalformedUpload("the upload broke off") from exc
    return b"".join(chunks)


async def _file_field(request: Request, body: bytes) -> bytes:
    try:
        parser = MultiPartParser(request.headers, _once(body), max_files=1, max_fields=8)
        parser.spool_max_size = len(body)  # it is in memory already: no temporary file
        form = await parser.parse()
    except MultiPartException as exc:
        raise MalformedUpload(f"the multipart form cannot be read: {exc.message}") from exc
    try:
        field = form.get(FIELD)
        if not isinstance(field, UploadFile):
            raise MalformedUpload(f"the multipart form has no file in the field `{FIELD}`")
        return await field.read()
    finally:
        await form.close()


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _too_large(max_bytes: int) -> UploadTooLarge:
    return UploadTooLarge(f"the upload is larger than {max_bytes:,} bytes; send a smaller picture")
