"""Which metadata turn a picture: EXIF in JPEG and PNG where browsers heed it, and nothing else."""

import functools
import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image

from serve_app.classifier.formats.exif import read_orientation
from serve_app.classifier.images import UPRIGHT, decode_image
from tests.hostile import chunk, encode
from tests.picture_files import (
    entry,
    exif_segment,
    four_corners,
    oriented,
    raw_profile,
    riff,
    segment,
    text_chunk,
    tiff,
    vp8l,
    vp8x,
    xmp,
)

MAX_PIXELS = 1_000_000
JPEG = encode(four_corners(), "JPEG", quality=95, subsampling=0)
PNG = encode(four_corners(), "PNG")
SIX = tiff(oriented(6))
XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
XMP_KEYWORD = b"XML:com.adobe.xmp"


@functools.cache
def turned() -> dict[int, np.ndarray]:
    """Return how the picture comes out in each orientation."""
    upright = Image.fromarray(decode_image(PNG, MAX_PIXELS))
    shown = {1: upright} | {number: upright.transpose(turn) for number, turn in UPRIGHT.items()}
    return {number: np.asarray(each, int) for number, each in shown.items()}


def shown_as(data: bytes) -> int:
    """Return the orientation that `data` was decoded with."""
    decoded = decode_image(data, MAX_PIXELS)
    found = [number for number, each in turned().items() if np.abs(each - decoded).mean() < 6]
    assert len(found) == 1
    return found[0]


def jpeg(*segments: bytes) -> bytes:
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def png(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def png_with_late(*chunks: bytes) -> bytes:
    end = PNG.rindex(b"IEND") - 4
    return PNG[:end] + b"".join(chunks) + PNG[end:]


def webp(flags: int, *chunks: tuple[bytes, bytes]) -> bytes:
    return riff(vp8x(flags, 64, 48), vp8l(four_corners()), *chunks)


def mpo(first: int | None, second: int) -> bytes:
    """Return a JPEG with a second one, as cameras with two lenses write it, that has an orientation of its own."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = second
    other = four_corners().transpose(Image.Transpose.ROTATE_180)
    other.encoderinfo = {"exif": exif.tobytes()}
    options = {} if first is None else {"exif": b"Exif\0\0" + tiff(oriented(first))}
    file = io.BytesIO()
    four_corners().save(file, "MPO", save_all=True, append_images=[other], quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_jpeg_and_a_png(orientation: int, order: str) -> None:
    block = tiff(oriented(orientation, order), order=order)
    assert shown_as(jpeg(exif_segment(block))) == orientation
    assert shown_as(png(chunk(b"eXIf", block))) == orientation


@pytest.mark.parametrize("orientation", [0, 9, 255, 65_535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    block = tiff(oriented(orientation))
    assert shown_as(jpeg(exif_segment(block))) == 1
    assert shown_as(png(chunk(b"eXIf", block))) == 1


SCANS = encode(four_corners(), "JPEG", quality=95, progressive=True)
SECOND_SCAN = SCANS.index(b"\xff\xda", SCANS.index(b"\xff\xda") + 2)
UNTURNED = {
    "JPEG, XMP attribute": jpeg(segment(0xE1, XMP_NAME + xmp(6))),
    "JPEG, XMP element": jpeg(segment(0xE1, XMP_NAME + xmp(6, as_element=True))),
    "JPEG, XMP beside EXIF without orientation": jpeg(
        exif_segment(tiff(entry(0x010F, 2, 4, b"abc"))), segment(0xE1, XMP_NAME + xmp(6))
    ),
    "PNG, XMP": png(text_chunk(b"iTXt", XMP_KEYWORD, xmp(6))),
    "PNG, XMP as Latin text": png(text_chunk(b"tEXt", XMP_KEYWORD, xmp(6))),
    "PNG, XMP behind the image": png_with_late(text_chunk(b"iTXt", XMP_KEYWORD, xmp(6))),
    "WEBP, XMP": webp(4, (b"XMP ", xmp(6))),
    **{
        f"PNG, {name.decode()} {keyword.decode()}": png(text_chunk(name, keyword, content))
        for name in (b"tEXt", b"zTXt", b"iTXt")
        for keyword, content in (
            (b"exif", SIX),
            (b"Raw profile type exif", raw_profile("exif", b"Exif\0\0" + SIX)),
            (b"Raw profile type APP1", raw_profile("APP1", b"Exif\0\0" + SIX)),
            (b"Raw profile type xmp", raw_profile("xmp", xmp(6))),
        )
    },
    "PNG, raw profile behind the image": png_with_late(
        text_chunk(b"zTXt", b"Raw profile type exif", raw_profile("exif", b"Exif\0\0" + SIX))
    ),
    "PNG, EXIF behind the image": png_with_late(chunk(b"eXIf", SIX)),
    "PNG, EXIF behind the end": PNG + chunk(b"eXIf", SIX),
    "PNG, EXIF with JPEG's name": png(chunk(b"eXIf", b"Exif\0\0" + SIX)),
    "PNG, EXIF behind empty EXIF": png(chunk(b"eXIf", b""), chunk(b"eXIf", SIX)),
    "WEBP, EXIF": webp(8, (b"EXIF", SIX)),
    "WEBP, EXIF with JPEG's name": webp(8, (b"EXIF", b"Exif\0\0" + SIX)),
    "JPEG, EXIF behind the picture": JPEG + exif_segment(SIX),
    "JPEG, EXIF in a picture behind it": JPEG + jpeg(exif_segment(SIX)),
    "JPEG, EXIF behind the last scan": JPEG[:-2] + exif_segment(SIX) + JPEG[-2:],
    "JPEG, EXIF between scans": SCANS[:SECOND_SCAN] + exif_segment(SIX) + SCANS[SECOND_SCAN:],
    "JPEG, EXIF behind other EXIF": jpeg(exif_segment(tiff(entry(0x010F, 2, 4, b"abc"))), exif_segment(SIX)),
    "JPEG, EXIF behind damaged EXIF": jpeg(exif_segment(b"hello"), exif_segment(SIX)),
    "JPEG, EXIF in two segments": jpeg(exif_segment(SIX[:12]), exif_segment(SIX[12:])),
    "JPEG, EXIF named twice": jpeg(exif_segment(b"Exif\0\0" + SIX)),
    "JPEG, EXIF in APP2": jpeg(segment(0xE2, b"Exif\0\0" + SIX)),
    "JPEG, EXIF in a comment": jpeg(segment(0xFE, b"Exif\0\0" + SIX)),
    "MPO, EXIF in the second picture": mpo(None, 6),
}


@pytest.mark.parametrize("name", UNTURNED)
def test_what_no_browser_heeds_turns_nothing(name: str) -> None:
    assert shown_as(UNTURNED[name]) == 1


TURNED = {
    "JPEG, EXIF before XMP": jpeg(exif_segment(SIX), segment(0xE1, XMP_NAME + xmp(8))),
    "JPEG, EXIF behind XMP": jpeg(segment(0xE1, XMP_NAME + xmp(8)), exif_segment(SIX)),
    "JPEG, two EXIF segments": jpeg(exif_segment(SIX), exif_segment(tiff(oriented(8)))),
    "JPEG, EXIF behind an empty segment of it": jpeg(segment(0xE1, b"Exif\0\0"), exif_segment(SIX)),
    "JPEG, EXIF padded with another byte": jpeg(segment(0xE1, b"Exif\0\xff" + SIX)),
    "JPEG, EXIF just before the scan": JPEG[: JPEG.index(b"\xff\xda")]
    + exif_segment(SIX)
    + JPEG[JPEG.index(b"\xff\xda") :],
    "JPEG, fill bytes before EXIF": JPEG[:2] + b"\xff\xff" + exif_segment(SIX) + JPEG[2:],
    "PNG, EXIF before XMP": png(chunk(b"eXIf", SIX), text_chunk(b"iTXt", XMP_KEYWORD, xmp(8))),
    "PNG, EXIF twice": png(chunk(b"eXIf", SIX), chunk(b"eXIf", tiff(oriented(8)))),
    "PNG, EXIF before and behind the image": png_with_late(chunk(b"eXIf", tiff(oriented(8)))).replace(
        PNG[:33], PNG[:33] + chunk(b"eXIf", SIX)
    ),
    "MPO, EXIF in both": mpo(6, 8),
}


@pytest.mark.parametrize("name", TURNED)
def test_the_first_exif_before_the_picture_turns_it(name: str) -> None:
    assert shown_as(TURNED[name]) == 6


def with_exif_directory(*outer: bytes, inner: bytes) -> bytes:
    """Return a block whose pointer to its EXIF directory stands before the entries `outer`."""
    end = 8 + 2 + 12 * (1 + len(outer)) + 4
    directory = struct.pack("<H", 1) + inner + bytes(4)
    return tiff(entry(0x8769, 4, 1, struct.pack("<I", end)), *outer, more=directory)


BROKEN_VALUE = struct.pack("<I", 99_999)
BLOCKS = {
    "junk behind the value": (6, tiff(entry(0x0112, 3, 1, struct.pack("<HH", 6, 9999)))),
    "two, the first out of range": (6, tiff(oriented(9), oriented(6))),
    "two": (6, tiff(oriented(6), oriented(8))),
    "not sorted": (6, tiff(entry(0x9000, 3, 1, b"\1"), oriented(6))),
    "behind a value that is elsewhere": (6, tiff(entry(0x010F, 2, 100, BROKEN_VALUE), oriented(6))),
    "behind an unknown type": (6, tiff(entry(0x010F, 99, 100, BROKEN_VALUE), oriented(6))),
    "more entries claimed": (6, SIX[:8] + struct.pack("<H", 65_535) + SIX[10:]),
    "without its end": (6, SIX[:-4]),
    "another size claimed": (6, tiff(entry(0x0100, 4, 1, b"\x30"), entry(0x0101, 4, 1, b"\x40"), oriented(6))),
    "in the EXIF directory": (6, with_exif_directory(inner=oriented(6))),
    "in both directories": (6, with_exif_directory(oriented(8), inner=oriented(6))),
    "out of range in the EXIF directory": (8, with_exif_directory(oriented(8), inner=oriented(9))),
    "an EXIF directory that is the first one": (6, tiff(entry(0x8769, 4, 1, b"\x08"), oriented(6))),
    "a directory in the EXIF directory": (1, with_exif_directory(inner=entry(0x8769, 4, 1, b"\x08"))),
    "big-endian behind a little-endian head": (1, tiff(oriented(6, ">"), order=">", head=b"II*\0")),
    "little-endian behind a big-endian head": (1, tiff(oriented(6), head=b"MM\0*")),
    "a magic number of the other order": (1, tiff(oriented(6), head=b"II\0*")),
    "BigTIFF": (1, tiff(oriented(6), head=b"II+\0")),
    "no order": (1, tiff(oriented(6), head=b"XX*\0")),
    "as LONG": (1, tiff(entry(0x0112, 4, 1, struct.pack("<I", 6)))),
    "as BYTE": (1, tiff(entry(0x0112, 1, 1, b"\6"))),
    "as text": (1, tiff(entry(0x0112, 2, 2, b"6\0"))),
    "as a fraction": (1, tiff(entry(0x0112, 5, 1, struct.pack("<I", 26)), more=struct.pack("<II", 6, 1))),
    "two numbers": (1, tiff(entry(0x0112, 3, 2, struct.pack("<HH", 6, 6)))),
    "no number": (1, tiff(entry(0x0112, 3, 0, struct.pack("<H", 6)))),
    "cut within the value": (1, SIX[:-6]),
    "cut within the head": (1, SIX[:6]),
    "a directory beyond the end": (1, SIX[:4] + BROKEN_VALUE + SIX[8:]),
    "in the directory of the thumbnail": (
        1,
        tiff(entry(0x0128, 3, 1, b"\2"))[:-4] + struct.pack("<IH", 26, 1) + oriented(6) + bytes(4),
    ),
    "a directory at 0": (1, SIX[:4] + bytes(4) + SIX[8:]),
    "empty": (1, b""),
}


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged metadata; the service silences it
@pytest.mark.parametrize("name", BLOCKS)
def test_odd_exif_is_read_as_browsers_read_it(name: str) -> None:
    orientation, block = BLOCKS[name]
    assert read_orientation(block) == orientation
    assert shown_as(jpeg(exif_segment(block))) == orientation
    assert shown_as(png(chunk(b"eXIf", block))) == orientation
