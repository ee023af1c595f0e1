"""Picture files made by the byte, for what no encoder writes: metadata at odd places, every depth, parts of animations.

Called by the tests of the classifier's decoding; `hostile` has the files that are to be refused.
"""

import struct
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.hostile import chunk, encode

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of PNG's colour types."""

Pixels = NDArray[np.int64]


def four_corners(width: int = 64, height: int = 48) -> Image.Image:
    """Return a picture that looks another way in each of the eight orientations."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 0)
    return Image.fromarray(pixels)


def entry(tag: int, kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    """Return an entry of a TIFF directory; `value` is what stands in its four bytes."""
    return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")


def oriented(orientation: int, order: str = "<") -> bytes:
    """Return the entry of an orientation."""
    return entry(0x0112, 3, 1, struct.pack(f"{order}H", orientation), order)


def tiff(*entries: bytes, order: str = "<", head: bytes | None = None, more: bytes = b"") -> bytes:
    """Return an EXIF block with one directory, and `more` behind it."""
    start = head or {"<": b"II*\0", ">": b"MM\0*"}[order]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return start + struct.pack(f"{order}I", 8) + directory + more


def segment(marker: int, content: bytes) -> bytes:
    """Return a JPEG segment."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def exif_segment(block: bytes) -> bytes:
    """Return the APP1 segment of an EXIF block."""
    return segment(0xE1, b"Exif\0\0" + block)


def xmp(orientation: int, *, as_element: bool = False) -> bytes:
    """Return an XMP packet that asks for an orientation."""
    value = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if as_element else ""
    attribute = "" if as_element else f' tiff:Orientation="{orientation}"'
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{value}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def raw_profile(kind: str, content: bytes) -> bytes:
    """Return a text as ImageMagick writes metadata into a PNG."""
    return f"\n{kind}\n{len(content):8}\n{content.hex()}\n".encode()


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WEBP of these chunks."""
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(flags: int, width: int, height: int) -> tuple[bytes, bytes]:
    """Return the chunk that begins an extended WEBP."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + size


def vp8l(picture: Image.Image) -> tuple[bytes, bytes]:
    """Return the chunk of a lossless picture."""
    data = encode(picture, "WEBP", lossless=True)
    at = data.index(b"VP8L")
    return b"VP8L", data[at + 8 : at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")]


def ihdr(width: int, height: int, depth: int, colour_type: int, interlaced: int = 0) -> bytes:
    """Return the first chunk of a PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced))


def packed(pixels: Pixels, depth: int) -> bytes:
    """Return pixels of shape (height, width, channels) as a PNG has them, compressed."""
    rows = b""
    for row in pixels.reshape(len(pixels), -1):
        bits = "".join(f"{int(value):0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8)
    return zlib.compress(rows)


def png(pixels: Pixels, depth: int, colour_type: int, *before: bytes, after: Iterable[bytes] = ()) -> bytes:
    """Return a PNG with chunks before and after its image."""
    height, width, _ = pixels.shape
    return b"".join(
        (
            PNG_SIGNATURE,
            ihdr(width, height, depth, colour_type),
            *before,
            chunk(b"IDAT", packed(pixels, depth)),
            *after,
            chunk(b"IEND", b""),
        )
    )


def text_chunk(name: bytes, keyword: bytes, text: bytes) -> bytes:
    """Return a text in one of the three chunks of a PNG."""
    if name == b"zTXt":
        return chunk(name, keyword + b"\0\0" + zlib.compress(text))
    return chunk(name, keyword + (b"\0\0\0\0\0" if name == b"iTXt" else b"\0") + text)


def animation(frames: int) -> bytes:
    """Return the chunk that makes a PNG an animation."""
    return chunk(b"acTL", struct.pack(">II", frames, 0))


def control(number: int, width: int, height: int, left: int = 0, top: int = 0) -> bytes:
    """Return the chunk before a frame."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, left, top, 1, 2, 0, 0))


def frame_data(number: int, data: bytes) -> bytes:
    """Return a chunk of a frame's data."""
    return chunk(b"fdAT", struct.pack(">I", number) + data)


def bmp(  # noqa: PLR0913 a header has that many fields
    bits: int,
    rows: bytes,
    size: tuple[int, int],
    *,
    compression: int = 0,
    header_bytes: int = 40,
    colours: int = 0,
    palette: bytes = b"",
    masks: tuple[int, ...] = (),
) -> bytes:
    """Return a BMP; `masks` stand in the header where it has room for them, else behind it."""
    width, height = size
    header = struct.pack(
        "<IiiHHIIiiII", header_bytes, width, height, 1, bits, compression, len(rows), 2835, 2835, colours, 0
    )
    header = (header + struct.pack(f"<{len(masks)}I", *masks)).ljust(header_bytes, b"\0")
    header = header[: header_bytes if header_bytes != 40 else None]
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows
