"""The segments of a JPEG up to the end of its picture (ITU-T T.81, annex B), in the order in which libjpeg meets them.

What a phone writes behind the picture (a video, further pictures, a ZIP) is none of it, nor are thumbnails, whose
markers stand within a segment.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.formats import too_many_pieces

EXIF = b"Exif\x00\x00"
# 4 µs each. A hundred scans with their tables and 10 MB of metadata make a thousand.
MAX_SEGMENTS = 10_000
START_OF_SCAN = b"\xff\xda"

_START, _END, _SCAN, _APP1, _JPEG_LS = 0xD8, 0xD9, 0xDA, 0xE1, 0xF7
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITH_LENGTH = (frozenset(range(0xC0, 0xF0)) | {0xFE}) - {0xC8, _START, _END}
_LOSSLESS = 0xC3
_HIERARCHICAL_OR_ARITHMETIC_LOSSLESS = frozenset((0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF))
_SAMPLE_BITS, _OTHER_SAMPLE_BITS = 8, (12, 16)
_LOSSLESS_SAMPLE_BITS = range(2, 17)
_COMPONENTS = (1, 3, 4)


class Segment(NamedTuple):
    """One segment: its marker's second byte, and where its content begins and ends."""

    marker: int
    start: int
    end: int


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments from the start of `data` to the end of the picture, or of `data` where the picture has none.

    Raises UnreadableImage beyond MAX_SEGMENTS.
    """
    places = _marker_places(data)
    position, has_scan = 2, False
    for _ in range(MAX_SEGMENTS):
        index = int(places.searchsorted(position))
        if index == len(places):
            return
        start = int(places[index]) + 2
        marker = data[start - 1]
        if marker == _END and has_scan:  # before the first scan, libjpeg takes what went before for tables
            return
        has_scan = has_scan or marker == _SCAN
        position = start + (max(2, int.from_bytes(data[start : start + 2])) if marker in _WITH_LENGTH else 0)
        yield Segment(marker, min(start + 2, position), position)
    raise too_many_pieces(MAX_SEGMENTS)


def count_scans(data: bytes, most: int) -> int:
    """Return how many scans the picture has, or `most` + 1 if more. Raises as `segments` does."""
    found = 0
    for segment in segments(data):
        found += segment.marker == _SCAN
        if found > most:
            break
    return found


def count_exif(data: bytes, most: int) -> int:
    """Return how many Exif segments stand before the first scan, or `most` + 1 if more. Raises as `segments` does."""
    found = 0
    for segment in segments(data):
        found += segment.marker == _APP1 and data.startswith(EXIF, segment.start)
        if segment.marker == _SCAN or found > most:
            break
    return found


def is_exif(content: bytes) -> bool:
    """Tell whether a browser takes the content of an APP1 segment for EXIF."""
    return content.startswith(EXIF[:-1]) and len(content) > len(EXIF)


def describe_unsupported(data: bytes) -> str | None:
    """Return what kind of JPEG this is, if it is one that no decoder here knows. Raises as `segments` does."""
    for marker, start, end in segments(data):
        if marker == _JPEG_LS:
            return "a JPEG-LS picture"
        if marker in _FRAMES and start + 5 < min(end, len(data)):
            return _describe_frame(marker, bits=data[start], components=data[start + 5])
        if marker == _SCAN:
            break
    return None


def _describe_frame(marker: int, bits: int, components: int) -> str | None:
    if marker in _HIERARCHICAL_OR_ARITHMETIC_LOSSLESS:
        return "a hierarchical or arithmetic-coded lossless JPEG"
    if bits != _SAMPLE_BITS and bits in (_LOSSLESS_SAMPLE_BITS if marker == _LOSSLESS else _OTHER_SAMPLE_BITS):
        return f"a JPEG of {bits} bits a sample"
    if components and components not in _COMPONENTS:
        return f"a JPEG of {components} components"
    return None


def _marker_places(data: bytes) -> NDArray[np.intp]:
    """Return where markers stand: FF, then no stuffed zero, fill byte or restart marker, which all belong to a scan."""
    octets = np.frombuffer(data, np.uint8)
    second = octets[1:]
    is_marker = octets[:-1] == 0xFF  # noqa: PLR2004 the byte that begins a marker
    is_marker &= (second != 0) & (second != 0xFF) & ((second & 0xF8) != 0xD0)  # noqa: PLR2004
    return np.flatnonzero(is_marker)
