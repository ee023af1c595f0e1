"""Of an animated PNG the first frame is taken, not the default image that only programs without animations show."""

import itertools
import struct
import zlib

import numpy as np
import pytest

from serve_app.classifier.formats import MAX_PIECES
from serve_app.classifier.images import decode_image
from serve_app.errors import ImageTooLarge, ServiceError, UnreadableImage
from tests.hostile import chunk
from tests.picture_files import (
    PNG_SIGNATURE,
    Pixels,
    animation,
    control,
    frame_data,
    ihdr,
    packed,
    png,
    text_chunk,
    tiff,
)
from tests.picture_files import oriented as orientation

MAX_PIXELS = 1_000_000
SIDE = 32
WHITE = [255, 255, 255]


def flat(*colour: int, width: int = SIDE, height: int = SIDE) -> Pixels:
    return np.full((height, width, len(colour)), colour, np.int64)


HIDDEN, RED, GREEN = flat(0, 0, 200), packed(flat(200, 0, 0), 8), packed(flat(0, 200, 0), 8)
FIRST = [control(0, SIDE, SIDE), frame_data(1, RED)]
SECOND = [control(2, SIDE, SIDE), frame_data(3, GREEN)]


def animated(*after: bytes, frames: int = 2, before: tuple[bytes, ...] = (), image: Pixels = HIDDEN) -> bytes:
    return png(image, 8, 2, animation(frames), *before, after=after)


def middle(data: bytes) -> list[int]:
    colour: list[int] = decode_image(data, MAX_PIXELS)[112, 112].tolist()
    return colour


FIRST_FRAMES = {
    "two frames": animated(*FIRST, *SECOND),
    "one frame": animated(*FIRST, frames=1),
    "more frames claimed": animated(*FIRST, *SECOND, frames=99),
    "fewer frames claimed": animated(*FIRST, *SECOND, frames=1),
    "text between": animated(text_chunk(b"tEXt", b"a", b"b"), FIRST[0], text_chunk(b"tEXt", b"c", b"d"), FIRST[1]),
    "data in pieces": animated(FIRST[0], frame_data(1, RED[:9]), frame_data(2, b""), frame_data(3, RED[9:])),
    "text between data": animated(
        FIRST[0],
        frame_data(1, RED[:9]),
        text_chunk(b"tEXt", b"a", b"b"),
        frame_data(2, RED[9:]),
        text_chunk(b"tEXt", b"c", b"d"),
        *SECOND,
    ),
    "text between data of one frame": animated(
        FIRST[0], frame_data(1, RED[:9]), text_chunk(b"tEXt", b"a", b"b"), frame_data(2, RED[9:]), frames=1
    ),
    "a second animation chunk": animated(*FIRST, *SECOND, before=(animation(7),)),
    "an animation chunk behind texts": png(
        HIDDEN, 8, 2, text_chunk(b"tEXt", b"a", b"b"), animation(2), after=[*FIRST, *SECOND]
    ),
    "two control chunks": animated(control(0, 1, 1), control(1, SIDE, SIDE), frame_data(2, RED)),
    "a broken default image": animated(*FIRST, *SECOND).replace(packed(HIDDEN, 8), b"x" * len(packed(HIDDEN, 8))),
    "an animation cut behind its first frame": animated(*FIRST, *SECOND)[: -12 - len(SECOND[1])],
}


@pytest.mark.filterwarnings("ignore:Invalid APNG")
@pytest.mark.parametrize("name", FIRST_FRAMES)
def test_a_hidden_default_image_is_not_taken(name: str) -> None:
    assert middle(FIRST_FRAMES[name]) == [200, 0, 0]


DEFAULT_IMAGES = {
    "it is the first frame": animated(control(1, SIDE, SIDE), frame_data(2, RED), before=(control(0, SIDE, SIDE),)),
    "no animation chunk": png(HIDDEN, 8, 2, after=[*FIRST, *SECOND]),
    "the animation chunk comes too late": png(HIDDEN, 8, 2, after=[animation(2), *FIRST, *SECOND]),
    "an animation of no frames": animated(*FIRST, *SECOND, frames=0),
    "an animation of too many frames": animated(*FIRST, *SECOND, frames=2**31),
    "an animation chunk that is too long": png(
        HIDDEN, 8, 2, chunk(b"acTL", struct.pack(">III", 2, 0, 0)), after=[*FIRST, *SECOND]
    ),
    "an animation without any frame": animated(),
    "frames behind the end": animated() + b"".join((*FIRST, *SECOND)),
}


@pytest.mark.filterwarnings("ignore:Invalid APNG")
@pytest.mark.parametrize("name", DEFAULT_IMAGES)
def test_a_default_image_that_is_shown_is_taken(name: str) -> None:
    assert middle(DEFAULT_IMAGES[name]) == [0, 0, 200]


def test_the_frame_stands_where_it_says_and_the_rest_is_white() -> None:
    part = packed(flat(200, 0, 0, width=8, height=8), 8)
    decoded = decode_image(animated(control(0, 8, 8, 12, 12), frame_data(1, part)), MAX_PIXELS)
    assert decoded[112, 112].tolist() == [200, 0, 0]
    for row, column in itertools.product((20, 200), (20, 200)):
        assert decoded[row, column].tolist() == WHITE


def test_exif_turns_the_canvas_and_not_the_frame_alone() -> None:
    part = packed(flat(200, 0, 0, width=16, height=16), 8)
    data = animated(control(0, 16, 16), frame_data(1, part), before=(chunk(b"eXIf", tiff(orientation(6))),))
    decoded = decode_image(data, MAX_PIXELS)
    assert decoded[60, 160].tolist() == [200, 0, 0]  # from the left upper corner to the right one
    assert decoded[60, 60].tolist() == WHITE


@pytest.mark.parametrize(
    ("colour_type", "depth", "colour", "shown"),
    [
        (0, 1, (0,), [0, 0, 0]),
        (0, 16, (0x1234,), WHITE),
        (0, 16, (0x1235,), [0x12] * 3),
        (2, 16, (0x1234,) * 3, WHITE),
        (2, 16, (0x1234, 0x1234, 0x1235), [0x12] * 3),
        (3, 8, (1,), WHITE),
        (3, 8, (2,), [7, 8, 9]),
        (4, 8, (0, 128), [127] * 3),
        (6, 16, (0, 0, 0, 0), WHITE),
    ],
)
def test_frames_have_the_depth_and_the_transparency_of_the_file(
    colour_type: int, depth: int, colour: tuple[int, ...], shown: list[int]
) -> None:
    before = {
        0: [chunk(b"tRNS", b"\x12\x34")] if depth == 16 else [],
        2: [chunk(b"tRNS", b"\x12\x34" * 3)],
        3: [chunk(b"PLTE", bytes(range(1, 10))), chunk(b"tRNS", b"\xff\0")],
    }.get(colour_type, [])
    frame = packed(flat(*colour, width=16, height=16), depth)
    hidden = flat(*(1,) * len(colour))
    data = png(
        hidden, depth, colour_type, animation(1), *before, after=[control(0, 16, 16, 8, 8), frame_data(1, frame)]
    )
    assert middle(data) == shown


BROKEN = {
    "wider than the picture": (animated(control(0, SIDE + 1, SIDE), frame_data(1, RED)), "within"),
    "beside the picture": (animated(control(0, SIDE, SIDE, 1, 0), frame_data(1, RED)), "within"),
    "below the picture": (animated(control(0, SIDE, SIDE, 0, 2**32 - 1), frame_data(1, RED)), "within"),
    "without width": (animated(control(0, 0, SIDE), frame_data(1, RED)), "within"),
    "with a short control chunk": (animated(chunk(b"fcTL", bytes(25)), frame_data(1, RED)), "within"),
    "without data": (animated(control(0, SIDE, SIDE)), "ends before"),
    "of rubbish": (animated(control(0, SIDE, SIDE), frame_data(1, b"rubbish")), "truncated or corrupted"),
    "too short": (animated(control(0, SIDE, SIDE), frame_data(1, RED[:12])), "truncated"),
    "with data of two bytes": (animated(control(0, SIDE, SIDE), chunk(b"fdAT", b"\0\0")), "truncated"),
    "cut off": (animated(*FIRST)[: -24 - 4 - len(RED) // 2], "truncated"),
    "cut off before its control chunk": (animated(*FIRST)[: -12 - 16 - len(RED) - len(FIRST[0])], "ends before"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_first_frame_is_refused_and_the_hidden_image_is_no_substitute(name: str) -> None:
    data, words = BROKEN[name]
    with pytest.raises(UnreadableImage, match=words):
        decode_image(data, MAX_PIXELS)


def test_the_pixels_of_the_canvas_are_bounded_however_small_its_frame_is() -> None:
    tiny = packed(flat(0, width=1, height=1), 8)
    chunks = [animation(1), chunk(b"IDAT", b""), control(0, 1, 1), frame_data(1, tiny)]
    with pytest.raises(ImageTooLarge, match="1001×1000"):
        decode_image(PNG_SIGNATURE + ihdr(1001, 1000, 8, 0) + b"".join(chunks), MAX_PIXELS)


def test_of_two_headers_none_escapes_the_bound_on_pixels() -> None:
    rows = zlib.compress(bytes(1001 * 1001))
    two = PNG_SIGNATURE + ihdr(1001, 1000, 8, 0) + ihdr(8, 8, 8, 0) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    with pytest.raises(ImageTooLarge, match="1001×1000"):
        decode_image(two, MAX_PIXELS)


@pytest.mark.parametrize(
    "before",
    [b"", animation(1), animation(1) + chunk(b"IDAT", packed(flat(0), 8))],
    ids=["image", "animation", "frame"],
)
def test_the_pieces_of_a_png_are_bounded_behind_the_start_of_its_image_too(before: bytes) -> None:
    name = b"tEXt" if b"IDAT" in before else b"IDAT"
    data = PNG_SIGNATURE + ihdr(SIDE, SIDE, 8, 0) + before + chunk(name, b"") * (MAX_PIECES + 1)
    with pytest.raises(UnreadableImage, match="reads"):
        decode_image(data, MAX_PIXELS)


def test_an_animation_cut_anywhere_is_a_picture_or_a_refusal() -> None:
    data = animated(*FIRST, *SECOND)
    for length in range(len(data)):
        try:
            assert middle(data[:length]) == [200, 0, 0]
        except ServiceError as refusal:
            assert refusal.status in (400, 415)  # noqa: PT017
