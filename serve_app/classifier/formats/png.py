"""What a PNG shows first (PNG third edition, which has animations), as a plain file that has nothing else.

Pillow takes the keywords of texts for values of its own, shows the default image that an animation hides, and compares
the transparent colour with pixels that it has scaled already.
"""

import itertools
import operator
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from serve_app.classifier.formats import MAX_PIECES, too_many_pieces
from serve_app.errors import UnreadableImage, UnsupportedImage

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LENGTH_AND_NAME = struct.Struct(">I4s")
_HEADER = struct.Struct(">IIBBBBB")
_CONTROL = struct.Struct(">IIIIIHHBB")
_KEYS = {0: struct.Struct(">H"), 2: struct.Struct(">HHH")}
"""What the transparent colour consists of in grey pictures and in those of red, green and blue."""
_INDEXED = 3
_CHECKSUM_BYTES = 4
_CHECKED = (b"tRNS", b"eXIf")
"""Chunks that browsers pass over when their checksum is wrong; of an animation's chunks they do not look at it."""
_ANIMATION_BYTES = 8
_MOST_FRAMES = 2**31 - 1


@dataclass(frozen=True)
class FirstPicture:
    """The first picture of a PNG."""

    file: bytes
    """A PNG of this picture alone, without its transparent colour."""
    size: tuple[int, int]
    """Width and height of what is shown, pixels; the picture may be smaller."""
    corner: tuple[int, int]
    """Where in it the picture begins, from the left and from the top."""
    bits: int
    key: tuple[int, ...] | None
    """The transparent colour, in `bits` bits each: one value for grey, or red, green and blue."""
    tiff: bytes
    """The EXIF block; empty if there is none."""


class _Frame(NamedTuple):
    width: int
    height: int
    left: int = 0
    top: int = 0


def read_first_picture(data: bytes) -> FirstPicture:
    """Return what the PNG in `data` shows: its image, or the first frame of an animation that hides it.

    Raises UnreadableImage where there is none or its frame is not within the picture, and beyond MAX_PIECES;
    UnsupportedImage for Apple's variant.
    """
    before: dict[bytes, bytes] = {}
    control = image = None
    frame: list[bytes] = []
    for name, contents in _runs(data):
        if image is None and name != b"IDAT":
            before.setdefault(name, contents[0])
        elif image is None:
            image = b"".join(contents)
            if not _hides_image(before):
                return _describe(before, None, image)
        elif name == b"fdAT" and control is not None:
            frame += [content[4:] for content in contents]  # other chunks may stand between these
        elif name == b"fcTL" and not frame:
            control = contents[-1]
        elif name == b"IEND" and control is None:
            return _describe(before, None, image)  # an animation without frames is none
        elif name in (b"fcTL", b"IEND"):
            break
    if frame:
        return _describe(before, control, b"".join(frame))
    raise UnreadableImage("the PNG picture is truncated or corrupted: it ends before the picture that it shows")


def without_ancillary_chunks(data: bytes) -> bytes:
    """Return the PNG in `data` with nothing but critical chunks before its image.

    Pillow refuses a picture for each of the others that it cannot read; browsers pass over them. Raises UnreadableImage
    beyond MAX_PIECES.
    """
    kept, position = [data[: len(_SIGNATURE)]], len(_SIGNATURE)
    for name, _, end in _places(data):
        if name == b"IDAT":
            break
        if not (name.isalpha() and name[:1].islower()):
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def _hides_image(before: dict[bytes, bytes]) -> bool:
    animation = before.get(b"acTL", b"")
    is_animation = len(animation) == _ANIMATION_BYTES and 0 < int.from_bytes(animation[:4]) <= _MOST_FRAMES
    return is_animation and b"fcTL" not in before


def _describe(before: dict[bytes, bytes], control: bytes | None, pixels: bytes) -> FirstPicture:
    if b"CgBI" in before:
        raise UnsupportedImage("a PNG as Xcode packs it (CgBI) is not decoded here; save it as usual PNG")
    width, height, bits, colour_type, *rest = _HEADER.unpack_from(before[b"IHDR"])
    frame = _Frame(width, height) if control is None else _read_control(control, width, height)
    kept = {b"IHDR": _HEADER.pack(frame.width, frame.height, bits, colour_type, *rest)}
    key, transparency = None, before.get(b"tRNS", b"")
    if colour_type == _INDEXED:
        if b"PLTE" not in before:
            raise UnreadableImage("the PNG picture is truncated or corrupted: it has no palette")
        kept |= {b"PLTE": before[b"PLTE"]}
        # Elsewhere than browsers look for it, and longer than any palette.
        colours = min(len(before[b"PLTE"]) // 3, 1 << bits)
        if b"tRNS" in itertools.dropwhile(lambda name: name != b"PLTE", before) and len(transparency) <= colours:
            kept |= {b"tRNS": transparency}
    elif colour_type in _KEYS and len(transparency) == _KEYS[colour_type].size:  # any other is passed over
        key = tuple(value & (1 << bits) - 1 for value in _KEYS[colour_type].unpack_from(transparency))
    kept |= {b"IDAT": pixels, b"IEND": b""}
    file = _SIGNATURE + b"".join(_chunk(name, content) for name, content in kept.items())
    return FirstPicture(file, (width, height), (frame.left, frame.top), bits, key, before.get(b"eXIf", b""))


def _read_control(control: bytes, width: int, height: int) -> _Frame:
    if len(control) == _CONTROL.size:
        frame = _Frame(*_CONTROL.unpack(control)[1:5])
        if 0 < frame.width <= width - frame.left and 0 < frame.height <= height - frame.top:
            return frame
    raise UnreadableImage("the PNG picture is truncated or corrupted: its first frame does not lie within it")


def _runs(data: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield name and contents of the chunks, those of one name that follow each other together."""
    for name, run in itertools.groupby(_chunks(data), operator.itemgetter(0)):
        yield name, [content for _, content in run]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk, but for those that are passed over because their checksum is wrong."""
    for name, start, end in _places(data):
        content, checksum = data[start : end - _CHECKSUM_BYTES], data[end - _CHECKSUM_BYTES : end]
        if name not in _CHECKED or checksum == _checksum(name, content):
            yield name, content


def _places(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name of each chunk, where its content begins, and where its checksum ends. Raises UnreadableImage."""
    position = len(_SIGNATURE)
    for _ in range(MAX_PIECES):
        start = position + _LENGTH_AND_NAME.size
        if start > len(data):
            return
        length, name = _LENGTH_AND_NAME.unpack_from(data, position)
        position = start + length + _CHECKSUM_BYTES
        yield name, start, position
    raise too_many_pieces()


def _checksum(name: bytes, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(name)).to_bytes(_CHECKSUM_BYTES)


def _chunk(name: bytes, content: bytes) -> bytes:
    return _LENGTH_AND_NAME.pack(len(content), name) + content + _checksum(name, content)
