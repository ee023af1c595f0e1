"""A whole file of a kind that is not decoded here is unsupported; a broken one is truncated or corrupted."""

import struct

import numpy as np
import pytest
from PIL import Image

from serve_app.classifier.images import decode_image
from serve_app.errors import ServiceError, UnreadableImage, UnsupportedImage
from tests.hostile import chunk, encode
from tests.picture_files import bmp, four_corners, packed, png, segment

MAX_PIXELS = 1_000_000
SIZE = (16, 16)
ROWS = bytes(16 * 16 * 8)
JPEG = encode(four_corners(), "JPEG")
FRAME = JPEG.index(b"\xff\xc0")


def jpeg(marker: int = 0xC0, bits: int = 8, components: int = 3) -> bytes:
    """Return a JPEG whose frame says so."""
    end = FRAME + 2 + int.from_bytes(JPEG[FRAME + 2 : FRAME + 4])
    parts = b"".join(bytes([number + 1, 0x11, 0]) for number in range(components))
    return (
        JPEG[:FRAME]
        + segment(marker, bytes([bits]) + JPEG[FRAME + 5 : FRAME + 9] + bytes([components]) + parts)
        + JPEG[end:]
    )


UNSUPPORTED_BMP = {
    "2 bits": (bmp(2, ROWS, SIZE, palette=bytes(16)), "2 bits"),
    "64 bits": (bmp(64, ROWS, SIZE), "64 bits"),
    "masks of 4, 4, 4": (bmp(16, ROWS, SIZE, compression=3, masks=(0xF00, 0xF0, 0xF)), "colour masks"),
    "masks of 4, 4, 4 and alpha": (
        bmp(16, ROWS, SIZE, compression=3, header_bytes=56, masks=(0xF00, 0xF0, 0xF, 0xF000)),
        "colour masks",
    ),
    "masks of 5, 6, 5, blue first": (bmp(16, ROWS, SIZE, compression=3, masks=(0x1F, 0x7E0, 0xF800)), "colour masks"),
    "masks of 10, 10, 10": (
        bmp(32, ROWS, SIZE, compression=3, masks=(0x3FF00000, 0xFFC00, 0x3FF)),
        "32 bits a pixel, compression 3 with these colour masks",
    ),
    "alpha masks of Windows CE": (bmp(32, ROWS, SIZE, compression=6, masks=(1, 2, 4, 8)), "compression 6"),
    "a JPEG inside": (bmp(0, JPEG, SIZE, compression=4), "compression 4"),
    "a PNG inside": (bmp(0, ROWS, SIZE, compression=5), "compression 5"),
    "CMYK": (bmp(32, ROWS, SIZE, compression=11), "compression 11"),
    "Huffman of OS/2": (bmp(1, ROWS, SIZE, compression=3, header_bytes=64, palette=bytes(8)), "1 bits"),
    "RLE of OS/2": (bmp(24, ROWS, SIZE, compression=4, header_bytes=64), "compression 4"),
    "the short header of OS/2": (bmp(24, ROWS, SIZE, header_bytes=16), "header of 16 bytes"),
    "a palette of a million": (bmp(8, ROWS, SIZE, colours=10**6, palette=bytes(1024)), "8 bits"),
    "run-length coded, 8 bits": (bmp(8, ROWS, SIZE, compression=1, palette=bytes(1024)), "run-length"),
    "run-length coded, 4 bits": (bmp(4, ROWS, SIZE, compression=2, palette=bytes(64)), "run-length"),
}
BROKEN_BMP = {
    "3 bits": bmp(3, ROWS, SIZE),
    "7 bits": bmp(7, ROWS, SIZE),
    "65,535 bits": bmp(0xFFFF, ROWS, SIZE),
    "compression 7": bmp(24, ROWS, SIZE, compression=7),
    "compression 99": bmp(24, ROWS, SIZE, compression=99),
    "a header of 13 bytes": bmp(24, ROWS, SIZE, header_bytes=13),
    "a header of 200 bytes": bmp(24, ROWS, SIZE, header_bytes=200),
    "2 bits, cut within its header": bmp(2, ROWS, SIZE)[:40],
    "masks that are cut off": bmp(16, b"", SIZE, compression=3, masks=(0xF00, 0xF0, 0xF))[:60],
    "half of its rows": bmp(24, bytes(16 * 8 * 3), SIZE),
    "text": b"BMW is a maker of cars, and this is only a text that begins so.",
    "nothing but its name": b"BM",
}


@pytest.mark.parametrize("name", UNSUPPORTED_BMP)
def test_a_bmp_of_a_kind_that_is_not_decoded_is_unsupported_by_name(name: str) -> None:
    data, words = UNSUPPORTED_BMP[name]
    with pytest.raises(UnsupportedImage, match=f"{words}.* not decoded here; save it"):
        decode_image(data, MAX_PIXELS)


@pytest.mark.parametrize("name", BROKEN_BMP)
def test_a_broken_bmp_is_truncated_or_corrupted(name: str) -> None:
    with pytest.raises(UnreadableImage, match="truncated or corrupted"):
        decode_image(BROKEN_BMP[name], MAX_PIXELS)


@pytest.mark.parametrize("name", UNSUPPORTED_BMP)
def test_a_bmp_cut_anywhere_in_its_header_is_a_4xx(name: str) -> None:
    data, _ = UNSUPPORTED_BMP[name]
    for length in range(2, 80):
        with pytest.raises(ServiceError) as refusal:
            decode_image(data[:length], MAX_PIXELS)
        assert refusal.value.status in (400, 415)


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize(
    "palette",
    [bytes([0, 0, 0, 0, 255, 255, 255, 0]), bytes([0, 0, 0, 0, 1, 1, 1, 0]), bytes([9, 9, 9, 0, 30, 60, 200, 0])],
    ids=["black and white", "the first greys", "colours"],
)
@pytest.mark.parametrize("is_whole", [False, True])
def test_a_palette_means_what_it_says_at_every_depth(bits: int, palette: bytes, is_whole: bool) -> None:  # noqa: FBT001
    """Pillow takes palettes of grey for grey pixels of 1 or 8 bits, whatever the depth."""
    more = bytes(level for entry in range(2, 2**bits) for level in (entry, entry, entry, 0)) if is_whole else b""
    place = np.zeros(16, np.int64)
    place[8:] = 1
    row = int("".join(f"{value:0{bits}b}" for value in place), 2).to_bytes(16 * bits // 8).ljust(4, b"\0")
    colours = 0 if is_whole else 2
    decoded = decode_image(bmp(bits, row * 16, SIZE, palette=palette + more, colours=colours), MAX_PIXELS)
    assert decoded[112, 20].tolist() == list(palette[2::-1])
    assert decoded[112, 200].tolist() == list(palette[6:3:-1])


def test_a_palette_of_more_colours_than_places_is_one() -> None:
    palette = bytes(level for entry in range(300) for level in (entry % 256, 0, 255 - entry % 256, 0))
    decoded = decode_image(bmp(8, bytes([7]) * 256, SIZE, palette=palette, colours=300), MAX_PIXELS)
    assert decoded[112, 112].tolist() == [248, 0, 7]


UNSUPPORTED_JPEG = {
    "12 bits": (jpeg(0xC1, bits=12), "12 bits a sample"),
    "12 bits, progressive": (jpeg(0xC2, bits=12), "12 bits a sample"),
    "lossless, 16 bits": (jpeg(0xC3, bits=16), "16 bits a sample"),
    "lossless, 10 bits": (jpeg(0xC3, bits=10), "10 bits a sample"),
    "two components": (jpeg(components=2), "2 components"),
    "five components": (jpeg(components=5), "5 components"),
    "JPEG-LS": (jpeg(0xF7), "JPEG-LS"),
    **{f"hierarchical, {marker:X}": (jpeg(marker), "hierarchical") for marker in (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF)},
}
BROKEN_JPEG = {
    "3 bits": jpeg(bits=3),
    "no bits": jpeg(bits=0),
    "no components": jpeg(components=0),
    "no frame": JPEG[:FRAME] + JPEG[FRAME + 19 :],
    "12 bits, cut within its frame": jpeg(0xC1, bits=12)[: FRAME + 6],
    "half": JPEG[: len(JPEG) // 2],
}


@pytest.mark.parametrize("name", UNSUPPORTED_JPEG)
def test_a_jpeg_of_a_kind_that_is_not_decoded_is_unsupported_by_name(name: str) -> None:
    data, words = UNSUPPORTED_JPEG[name]
    with pytest.raises(UnsupportedImage, match=f"{words}.* not decoded here; save it"):
        decode_image(data, MAX_PIXELS)


@pytest.mark.parametrize("name", BROKEN_JPEG)
def test_a_broken_jpeg_is_truncated_or_corrupted(name: str) -> None:
    with pytest.raises(UnreadableImage, match="truncated or corrupted"):
        decode_image(BROKEN_JPEG[name], MAX_PIXELS)


def test_a_png_of_apples_variant_is_unsupported_by_name() -> None:
    pixels = np.full((16, 16, 4), 200, np.int64)
    data = png(pixels, 8, 6).replace(packed(pixels, 8), packed(pixels, 8)[2:])  # without the head of zlib
    with pytest.raises(UnsupportedImage, match="CgBI"):
        decode_image(data[:8] + chunk(b"CgBI", struct.pack(">I", 0x50002002)) + data[8:], MAX_PIXELS)


def test_arithmetic_coding_and_lossless_jpegs_of_8_bits_are_no_refusals_by_kind() -> None:
    """The decoder knows them; their data here is not of that kind, which may be a picture or a broken one."""
    for marker in (0xC9, 0xCA, 0xC3):
        try:
            assert decode_image(jpeg(marker), MAX_PIXELS).shape == (224, 224, 3)
        except UnreadableImage as refusal:
            assert "truncated or corrupted" in refusal.detail  # noqa: PT017 either is right


def test_a_picture_of_each_format_is_still_one() -> None:
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        assert decode_image(encode(Image.new("RGB", SIZE), image_format), MAX_PIXELS).shape == (224, 224, 3)
