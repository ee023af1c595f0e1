"""Transparent parts become white, whatever the format, the depth and the way in which it says so."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from serve_app.classifier.images import decode_image
from serve_app.errors import UnreadableImage
from tests.hostile import chunk, encode
from tests.picture_files import CHANNELS, Pixels, bmp, packed, png, riff, text_chunk, vp8l, vp8x

MAX_PIXELS = 1_000_000
SIDE = 32
DEPTHS = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)]
"""Colour type and depth of every PNG that may have one transparent colour."""


def halves(left: tuple[int, ...], right: tuple[int, ...]) -> Pixels:
    """Return pixels of two colours, side by side."""
    pixels = np.empty((SIDE, SIDE, len(left)), np.int64)
    pixels[:, : SIDE // 2], pixels[:, SIDE // 2 :] = left, right
    return pixels


def shown(data: bytes) -> tuple[list[int], list[int]]:
    """Return the colours in the middle of the left and of the right half."""
    decoded = decode_image(data, MAX_PIXELS)
    return decoded[112, 20].tolist(), decoded[112, 200].tolist()


def in_8_bits(colour: tuple[int, ...], depth: int) -> list[int]:
    values = [value >> 8 if depth == 16 else value * 255 // (2**depth - 1) for value in colour]
    return values if len(values) == 3 else values * 3


def key(colour: tuple[int, ...], surplus: int = 0) -> bytes:
    return chunk(b"tRNS", b"".join(struct.pack(">H", value | surplus) for value in colour))


def colours(colour_type: int, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return two colours that differ in as little as the depth has: in the last bit of the last channel."""
    value = {1: 0, 2: 2, 4: 10, 8: 0xA4, 16: 0x12A4}[depth]
    first = tuple(value + 2 * channel for channel in range(CHANNELS[colour_type]))
    return first, (*first[:-1], first[-1] + 1)


WHITE = [255, 255, 255]


@pytest.mark.parametrize(("colour_type", "depth"), DEPTHS)
def test_of_two_neighbouring_colours_only_the_transparent_one_becomes_white(colour_type: int, depth: int) -> None:
    one, other = colours(colour_type, depth)
    data = png(halves(one, other), depth, colour_type, key(one))
    assert shown(data) == (WHITE, in_8_bits(other, depth))
    data = png(halves(one, other), depth, colour_type, key(other))
    assert shown(data) == (in_8_bits(one, depth), WHITE)


@pytest.mark.parametrize(("colour_type", "depth"), DEPTHS)
@pytest.mark.parametrize("is_largest", [False, True])
def test_black_and_white_can_be_the_transparent_colour(colour_type: int, depth: int, is_largest: bool) -> None:  # noqa: FBT001
    black, white = (0,) * CHANNELS[colour_type], (2**depth - 1,) * CHANNELS[colour_type]
    data = png(halves(black, white), depth, colour_type, key(white if is_largest else black))
    assert shown(data) == ([0, 0, 0] if is_largest else WHITE, WHITE)


@pytest.mark.parametrize(("colour_type", "depth"), [(kind, depth) for kind, depth in DEPTHS if depth < 16])
def test_bits_beyond_the_depth_do_not_count(colour_type: int, depth: int) -> None:
    one, other = colours(colour_type, depth)
    data = png(halves(one, other), depth, colour_type, key(one, surplus=0x4000))
    assert shown(data) == (WHITE, in_8_bits(other, depth))


@pytest.mark.parametrize(("colour_type", "depth"), DEPTHS)
def test_without_a_transparent_colour_nothing_is_lost(colour_type: int, depth: int) -> None:
    one, other = colours(colour_type, depth)
    expected = (in_8_bits(one, depth), in_8_bits(other, depth))
    assert shown(png(halves(one, other), depth, colour_type)) == expected
    assert shown(png(halves(one, other), depth, colour_type, after=[key(one)])) == expected  # too late


@pytest.mark.parametrize(("colour_type", "depth"), DEPTHS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 6, 7, 8, 256])
def test_a_transparent_colour_of_a_wrong_length_or_checksum_is_none(colour_type: int, depth: int, size: int) -> None:
    """Browsers pass over such a chunk and show the picture."""
    one, other = colours(colour_type, depth)
    expected = (in_8_bits(one, depth), in_8_bits(other, depth))
    right = key(one)
    if size != 2 * CHANNELS[colour_type]:
        content = (right[8:-4] * 128)[:size]
        assert shown(png(halves(one, other), depth, colour_type, chunk(b"tRNS", content))) == expected
    assert shown(png(halves(one, other), depth, colour_type, right[:-1] + bytes([right[-1] ^ 1]))) == expected


@pytest.mark.parametrize(
    "name", [b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs", b"tIME", b"bKGD", b"eXIf", b"zTXt", b"acTL"]
)
@pytest.mark.parametrize("content", [b"", b"x", b"a\0\7broken"])
def test_no_ancillary_chunk_costs_the_picture(name: bytes, content: bytes) -> None:
    pixels = halves((200, 0, 0), (0, 0, 200))
    for odd in (chunk(name, content), chunk(name, content)[:-4] + b"none"):
        assert shown(png(pixels, 8, 2, odd)) == ([200, 0, 0], [0, 0, 200])


@pytest.mark.parametrize("colours", [1, 2, 3, 256])
def test_a_palette_has_no_more_transparent_entries_than_colours(colours: int) -> None:
    palette = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 0, 1, 2, 3])[: 3 * colours].ljust(3 * colours, b"\0"))
    for entries in (colours, colours + 1):
        left, _ = shown(png(halves((0,), (0,)), 8, 3, palette, chunk(b"tRNS", bytes(entries))))
        assert left == (WHITE if entries == colours else [10, 20, 30])


@pytest.mark.parametrize(("colour_type", "depth"), [(0, 16), (2, 16), (0, 2)])
def test_the_transparent_colour_of_an_interlaced_picture_becomes_white(colour_type: int, depth: int) -> None:
    one, other = colours(colour_type, depth)
    pixels = halves(one, other)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(zlib.decompress(packed(pixels[y::dy, x::dx], depth)) for x, y, dx, dy in passes)
    plain = png(pixels, depth, colour_type, key(one))
    header = plain[16:28] + b"\1"
    start = plain.index(b"IDAT") - 4
    data = plain[:8] + chunk(b"IHDR", header) + plain[33:start] + chunk(b"IDAT", zlib.compress(rows))
    assert shown(data + chunk(b"IEND", b"")) == (WHITE, in_8_bits(other, depth))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_entries_of_a_palette_are_transparent_at_every_depth(depth: int) -> None:
    palette = chunk(b"PLTE", bytes([10, 20, 30, 200, 100, 0]) + bytes(3 * (2**depth - 2)))
    for alphas, expected in {
        b"": ([10, 20, 30], [200, 100, 0]),
        b"\0": (WHITE, [200, 100, 0]),
        b"\xff\0": ([10, 20, 30], WHITE),
        b"\0\0": (WHITE, WHITE),
        b"\x80\xff": ([132, 137, 142], [200, 100, 0]),
        bytes(257): ([10, 20, 30], [200, 100, 0]),  # more than any palette has
    }.items():
        before = [palette, chunk(b"tRNS", alphas)] if alphas else [palette]
        left, right = shown(png(halves((0,), (1,)), depth, 3, *before))
        assert np.abs(np.array([left, right]) - expected).max() <= 1
    misplaced = png(halves((0,), (1,)), depth, 3, chunk(b"tRNS", b"\0"), palette)
    assert shown(misplaced) == ([10, 20, 30], [200, 100, 0])


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour_type", [4, 6])
def test_alpha_counts_at_every_depth(colour_type: int, depth: int) -> None:
    most, channels = 2**depth - 1, CHANNELS[colour_type] - 1
    clear, half = (*(0,) * channels, 0), (*(0,) * channels, most // 2)
    left, right = shown(png(halves(clear, half), depth, colour_type))
    assert left == WHITE
    assert np.abs(np.array(right) - 128).max() <= 1
    full = (*(most // 3,) * channels, most)
    assert shown(png(halves(full, clear), depth, colour_type)) == ([85, 85, 85], WHITE)


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt"])
@pytest.mark.parametrize(
    "keyword",
    [b"transparency", b"interlace", b"bbox", b"default_image", b"blend", b"disposal", b"gamma", b"icc_profile"],
)
def test_a_text_is_a_text_whatever_its_keyword(keyword: bytes, name: bytes) -> None:
    pixels = halves((200, 0, 0), (0, 0, 200))
    for data in (
        png(pixels, 8, 2, text_chunk(name, keyword, b"1")),
        png(pixels, 8, 2, after=[text_chunk(name, keyword, b"1")]),
        png(pixels, 8, 2, key((200, 0, 0)), text_chunk(name, keyword, b"1")),
    ):
        left, right = shown(data)
        assert left == (WHITE if b"tRNS" in data else [200, 0, 0])
        assert right == [0, 0, 200]


def test_a_palette_that_is_missing_is_named() -> None:
    with pytest.raises(UnreadableImage, match="no palette"):
        decode_image(png(halves((0,), (1,)), 8, 3), MAX_PIXELS)


def gif(frame: Image.Image, corner: tuple[int, int], *, transparent: int | None = None, background: int = 0) -> bytes:
    """Return a GIF of SIDE × SIDE with one frame in it."""
    options = {} if transparent is None else {"transparency": transparent}
    data = bytearray(encode(frame, "GIF", background=background, optimize=False, **options))
    place = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[6:10] = struct.pack("<HH", SIDE, SIDE)
    data[place + 1 : place + 5] = struct.pack("<HH", *corner)
    return bytes(data)


RED_AND_BLUE = [200, 0, 0, 0, 0, 200]


def frame_of(width: int, height: int, colour: int) -> Image.Image:
    frame = Image.new("P", (width, height), colour)
    frame.putpalette(RED_AND_BLUE)
    return frame


@pytest.mark.parametrize("transparent", [None, 0, 1])
@pytest.mark.parametrize("background", [0, 1])
def test_what_the_first_frame_of_a_gif_leaves_free_is_white(background: int, transparent: int | None) -> None:
    data = gif(frame_of(SIDE // 2, SIDE, 1), (0, 0), transparent=transparent, background=background)
    assert shown(data) == (WHITE if transparent == 1 else [0, 0, 200], WHITE)
    data = gif(frame_of(SIDE // 2, SIDE, 1), (SIDE // 2, 0), transparent=transparent, background=background)
    assert shown(data) == (WHITE, WHITE if transparent == 1 else [0, 0, 200])


def test_a_grey_frame_in_a_coloured_gif_is_a_picture() -> None:
    """Its palette is that of greyscale, which Pillow drops in favour of the screen's and then cannot load."""
    data = bytearray(gif(frame_of(SIDE, SIDE, 1), (0, 0)))
    descriptor = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[descriptor + 9] |= 0x80 | 7
    data[descriptor + 10 : descriptor + 10] = bytes(level for level in range(256) for _ in range(3))
    assert shown(bytes(data)) == ([1, 1, 1], [1, 1, 1])


@pytest.mark.parametrize("has_alpha", [False, True])
@pytest.mark.parametrize("frames", [1, 2])
def test_what_the_first_frame_of_a_webp_leaves_free_is_white(frames: int, has_alpha: bool) -> None:  # noqa: FBT001
    frame = Image.new("RGB", (SIDE // 2, SIDE), (200, 0, 0))
    name, content = vp8l(frame)
    head = bytes(6) + (SIDE // 2 - 1).to_bytes(3, "little") + (SIDE - 1).to_bytes(3, "little") + b"\x28\0\0\0"
    part = (b"ANMF", head + name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) & 1))
    canvas = vp8x(0x02 | (0x10 if has_alpha else 0), SIDE, SIDE)
    data = riff(canvas, (b"ANIM", b"\xff\0\0\xff\0\0"), *[part] * frames)
    assert shown(data) == ([200, 0, 0], WHITE)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 90}], ids=str)
def test_the_alpha_of_a_webp_is_put_on_white(options: dict[str, bool]) -> None:
    picture = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (SIDE // 2, 0, SIDE, SIDE))
    assert shown(encode(picture, "WEBP", **options)) == (WHITE, [0, 0, 0])


@pytest.mark.parametrize("header_bytes", [56, 108, 124])
@pytest.mark.parametrize(
    ("bits", "masks", "clear", "blue"),
    [
        (16, (0x7C00, 0x3E0, 0x1F, 0x8000), 0x7C00, 0x801F),
        (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 0x00FF0000, 0xFF0000FF),
    ],
)
def test_the_alpha_of_a_bmp_counts_at_every_depth(
    bits: int, masks: tuple[int, ...], clear: int, blue: int, header_bytes: int
) -> None:
    row = b"".join(value.to_bytes(bits // 8, "little") * (SIDE // 2) for value in (clear, blue))
    data = bmp(bits, row * SIDE, (SIDE, SIDE), compression=3, header_bytes=header_bytes, masks=masks)
    assert shown(data) == (WHITE, [0, 0, 255])


def test_a_bmp_without_alpha_mask_has_none() -> None:
    row = struct.pack("<I", 0x00FF0000) * SIDE
    assert shown(bmp(32, row * SIDE, (SIDE, SIDE))) == ([255, 0, 0], [255, 0, 0])


def test_a_large_clear_canvas_stays_clear_when_it_is_scaled() -> None:
    picture = Image.new("RGBA", (600, 600), (0, 255, 0, 0))
    assert decode_image(encode(picture, "PNG"), MAX_PIXELS).min() == 255
    file = io.BytesIO()
    picture.convert("LA").save(file, "PNG")
    assert decode_image(file.getvalue(), MAX_PIXELS).min() == 255
