"""The orientation in an EXIF block, read as browsers read it. Knows nothing of the file that the block stands in."""

import struct
from collections.abc import Iterator

UPRIGHT = 1
_MOST = 8

_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_SHORT, _LONG = 3, 4
_ORIENTATION = 0x0112
_EXIF_DIRECTORY = 0x8769


def read_orientation(tiff: bytes) -> int:
    """Return how a picture is stored, 1 (upright) to 8, by CIPA DC-008, tag 0x0112; 1 for what is damaged or odd.

    Chromium's rules: one SHORT, the first that is in the range, in the first directory or in its EXIF directory.
    """
    order = _ORDERS.get(tiff[:4])
    if order is None:
        return UPRIGHT
    return _find(tiff, order, _number(tiff[4:8], order, "I"), is_root=True) or UPRIGHT


def _find(tiff: bytes, order: str, start: int, *, is_root: bool) -> int | None:
    for tag, kind, count, value in _entries(tiff, order, start):
        if (tag, kind, count) == (_ORIENTATION, _SHORT, 1):
            orientation = _number(value[:2], order, "H")
            if UPRIGHT <= orientation <= _MOST:
                return orientation
        elif is_root and (tag, kind, count) == (_EXIF_DIRECTORY, _LONG, 1):
            is_root = False  # one only: each may have 65,535 entries
            if found := _find(tiff, order, _number(value, order, "I"), is_root=False):
                return found
    return None


def _entries(tiff: bytes, order: str, start: int) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield tag, type, count and the four bytes of a value, as far as there are whole entries."""
    entry = struct.Struct(f"{order}HHI4s")
    first = start + 2
    wanted = _number(tiff[start:first], order, "H")
    there = max(0, len(tiff) - first) // entry.size
    yield from entry.iter_unpack(tiff[first : first + min(wanted, there) * entry.size])


def _number(data: bytes, order: str, kind: str) -> int:
    """Return the number in `data`; 0, which leads nowhere, where it is cut off."""
    size = struct.calcsize(kind)
    return int.from_bytes(data, "little" if order == "<" else "big") if len(data) == size else 0
