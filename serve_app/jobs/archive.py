"""Takes the pictures out of a ZIP, within bounds that hold however it was made. Works in memory; opens no paths."""

import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator

from serve_app.errors import MalformedUpload, UploadTooLarge

SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
"""A first member, or the end of a ZIP without any."""

# Python makes an object for each entry of the directory, before anyone can ask how many there are.
MAX_ENTRIES = 20_000
_ENTRY = b"PK\x01\x02"
_CHUNK_BYTES = 65_536
_ENCRYPTED = 0x1
# The others may ask for gigabytes before they give a byte (the dictionary of LZMA).
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LITTER = ("__MACOSX/", ".DS_Store", "Thumbs.db")
_ROOT = re.compile(r"/|[A-Za-z]:")
_FAULTS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, LookupError, OverflowError,
    NotImplementedError, RuntimeError, struct.error,
)  # fmt: skip


def is_archive(data: bytes) -> bool:
    """Tell whether an upload is a ZIP, by its content."""
    return data.startswith(SIGNATURES)


def unpack_archive(data: bytes, *, max_files: int, max_bytes: int, max_file_bytes: int) -> list[tuple[str, bytes]]:
    """Return name and content of each file, in the archive's order; folders and the litter of desktops are left out.

    A ZIP within the ZIP is a file like any other. Raises MalformedUpload and UploadTooLarge, which name the member.
    """
    if data.count(_ENTRY) > MAX_ENTRIES:
        raise UploadTooLarge(f"the ZIP has more than {MAX_ENTRIES:,} entries; send fewer at a time")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = list(_pictures(archive))
            if len(members) > max_files:
                raise UploadTooLarge(f"the ZIP has {len(members):,} files; a job takes up to {max_files:,}")
            files, left = [], max_bytes
            for member in members:
                content = _read(archive, member, min(left, max_file_bytes))
                if content is None:
                    raise _too_large(member.filename, max_file_bytes, max_bytes, is_whole=left < max_file_bytes)
                left -= len(content)
                files.append((member.filename, content))
            return files
    except _FAULTS as exc:
        raise MalformedUpload(f"the ZIP cannot be read: {exc}") from exc


def _pictures(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    for member in archive.infolist():
        name = member.filename
        path = name.replace("\\", "/")  # which some programs of Windows write, against the format
        if path.endswith("/") or path.startswith(_LITTER[0]) or path.rpartition("/")[-1] in _LITTER:
            continue
        if _ROOT.match(path) or ".." in path.split("/"):
            raise MalformedUpload(f"the ZIP's member {name[:255]!r} points out of the archive; use plain names")
        if member.flag_bits & _ENCRYPTED:
            raise MalformedUpload(f"the ZIP's member {name[:255]!r} is encrypted; send it without a password")
        if member.compress_type not in _METHODS:
            raise MalformedUpload(
                f"the ZIP's member {name[:255]!r} is compressed by method {member.compress_type}; use deflate or none"
            )
        yield member


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> bytes | None:
    """Return the content, or None as soon as it has more than `max_bytes`, whatever size the directory claims."""
    content = bytearray()
    with archive.open(member) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            content += chunk
            if len(content) > max_bytes:
                return None
    return bytes(content)


def _too_large(name: str, max_file_bytes: int, max_bytes: int, *, is_whole: bool) -> UploadTooLarge:
    if is_whole:
        return UploadTooLarge(f"the ZIP's files are larger than {max_bytes:,} bytes together; send fewer at a time")
    return UploadTooLarge(f"the ZIP's member {name[:255]!r} is larger than {max_file_bytes:,} bytes")
