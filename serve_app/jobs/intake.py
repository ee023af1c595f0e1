"""Reads a job's pictures from a request: many parts `file` of a form, one ZIP, or the body itself."""

import hashlib
import re
from functools import partial

from fastapi import Request
from starlette.datastructures import UploadFile

from serve_app.classifier.formats import begins_as
from serve_app.classifier.settings import MULTIPART_OVERHEAD_BYTES, ClassifierSettings
from serve_app.classifier.upload import (
    FIELD,
    BodyBounds,
    files_in,
    is_form,
    parse_form,
    read_body,
    refuse_encoded,
    top_k_of,
)
from serve_app.errors import MalformedUpload, UploadTooLarge
from serve_app.jobs.archive import is_archive, unpack_archive
from serve_app.jobs.queue.submit import Submission
from serve_app.uploads import HeldUpload, work_for

MAX_NAME_CHARACTERS = 255
# C0 and C1, separators of lines and paragraphs, what turns the direction of writing, and halves of characters.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PART_BYTES = 512
"""Boundary and headers of a usual part."""

_Files = list[tuple[str, bytes]]


def job_bounds(settings: ClassifierSettings) -> BodyBounds:
    """Return how large a job's upload may be, and how long it may take."""
    jobs = settings.jobs
    overhead = MULTIPART_OVERHEAD_BYTES + _PART_BYTES * jobs.max_files
    return BodyBounds(jobs.max_job_bytes, jobs.upload_timeout_s, overhead, "send fewer pictures at a time")


async def read_submission(request: Request, upload: HeldUpload, settings: ClassifierSettings, top_k: int) -> Submission:
    """Return what the request wants done, with its `top_k` as `top_k_of` does.

    Raises the errors of `classifier.upload`, and Overloaded from `upload`.
    """
    body = await read_body(request, upload, job_bounds(settings))
    if is_form(request):
        upload.add(len(body))  # its parts, beside it
        files, top_k = await _form_files(request, body, settings, top_k)
    else:
        if not is_archive(body) and begins_as(body) is None:
            refuse_encoded(request.headers)
        files, top_k = [(FIELD, body)], top_k_of(request, None, top_k)
    del body
    if len(files) == 1 and is_archive(files[0][1]):
        upload.add(settings.jobs.max_job_bytes)  # what it may unpack to
        unpack = partial(
            unpack_archive,
            max_files=settings.jobs.max_files,
            max_bytes=settings.jobs.max_job_bytes,
            max_file_bytes=settings.max_upload_bytes,
        )
        files = await work_for([upload], unpack, files[0][1])
    _check(files, settings)
    return await work_for([upload], _submission, files, top_k)


async def _form_files(request: Request, body: bytes, settings: ClassifierSettings, top_k: int) -> tuple[_Files, int]:
    form = await parse_form(request, body, settings.jobs.max_files)
    try:
        top_k = top_k_of(request, form, top_k)
        return [(part.filename or FIELD, await _take(part)) for part in files_in(form)], top_k
    finally:
        await form.close()


async def _take(part: UploadFile) -> bytes:
    try:
        return await part.read()
    finally:
        await part.close()  # or all parts were in memory twice


def _check(files: _Files, settings: ClassifierSettings) -> None:
    if not files:
        raise MalformedUpload("the ZIP has no files; send at least one picture")
    if len(files) == 1 and not files[0][1]:
        raise MalformedUpload(f"the upload is empty; send pictures or one ZIP as parts `{FIELD}` of a form")
    for name, data in files:
        if len(data) > settings.max_upload_bytes:
            raise UploadTooLarge(
                f"the file {name[:MAX_NAME_CHARACTERS]!r} is larger than {settings.max_upload_bytes:,} bytes; "
                "send a smaller picture"
            )


def _submission(files: _Files, top_k: int) -> Submission:
    named = [(_CONTROLS.sub("\ufffd", name[:MAX_NAME_CHARACTERS]), data) for name, data in files]
    whole = hashlib.sha256(f"{top_k}".encode())
    for name, data in named:
        whole.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(data).digest())
    return Submission(named, top_k, whole.hexdigest())
