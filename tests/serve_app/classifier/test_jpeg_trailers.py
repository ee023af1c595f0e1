"""A JPEG ends where its picture ends: what stands behind it, or within its segments, is not counted against it."""

import io
import random
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from serve_app.classifier.formats.jpeg import MAX_SEGMENTS, START_OF_SCAN, count_exif, count_scans, segments
from serve_app.classifier.images import MAX_EXIF_SEGMENTS, MAX_SCANS, decode_image
from serve_app.errors import UnreadableImage
from tests.hostile import encode
from tests.picture_files import entry, exif_segment, four_corners, oriented, segment, tiff

MAX_PIXELS = 1_000_000
PICTURE = four_corners()
BASELINE = encode(PICTURE, "JPEG", quality=95)
PROGRESSIVE = encode(PICTURE, "JPEG", quality=95, progressive=True)
THUMBNAIL = encode(PICTURE.resize((16, 12)), "JPEG", progressive=True)
SCANS_OF_PILLOW = 10
MANY = MAX_SCANS + 50


LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(START_OF_SCAN) : -2]


def with_scans(data: bytes, more: int) -> bytes:
    """Return the JPEG with its last scan so many more times."""
    return data[:-2] + data[data.rindex(START_OF_SCAN) : -2] * more + data[-2:]


def with_segments(data: bytes, *added: bytes) -> bytes:
    return data[:2] + b"".join(added) + data[2:]


def with_thumbnail(data: bytes, thumbnail: bytes) -> bytes:
    """Return the JPEG with a thumbnail in the second directory of its EXIF."""
    second = 8 + 2 + 12 + 4
    place = second + 2 + 24 + 4
    directory = struct.pack("<H", 2) + entry(0x0201, 4, 1, struct.pack("<I", place))
    directory += entry(0x0202, 4, 1, struct.pack("<I", len(thumbnail))) + bytes(4)
    block = tiff(oriented(1))[:-4] + struct.pack("<I", second) + directory + thumbnail
    return with_segments(data, exif_segment(block))


def archive(*files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for number, content in enumerate(files):
            packed.writestr(f"{number}.jpg", content)
    return file.getvalue()


def video(scans: int) -> bytes:
    """Return what looks like the MP4 of a Motion Photo, with so many bytes that would begin a scan in a JPEG."""
    noise = random.Random(scans).randbytes(50_000).replace(b"\xff", b"\xfe")
    return struct.pack(">I4s4sI4s", 20, b"ftyp", b"mp42", 0, b"mp42") + START_OF_SCAN * scans + noise


TRAILERS = {
    "a video": video(MANY),
    "a second JPEG": BASELINE,
    "many JPEGs": THUMBNAIL * MANY,
    "many JPEGs with EXIF": with_segments(THUMBNAIL, exif_segment(tiff(oriented(6)))) * MANY,
    "a JPEG of many scans": with_scans(THUMBNAIL, MANY),
    "a ZIP of JPEGs": archive(*[THUMBNAIL] * MANY),
    "half a JPEG": BASELINE[:200] + START_OF_SCAN * MANY,
    "starts of scans": START_OF_SCAN * MANY,
    "names of EXIF": b"Exif\0\0" * MANY,
    "more ends": b"\xff\xd9" * 5 + START_OF_SCAN * MANY,
    "the start of another": b"\xff\xd8\xff" + START_OF_SCAN * MANY,
    "zeros": bytes(1000),
    "text": b"hello",
}


def is_the_picture(data: bytes) -> bool:
    decoded = decode_image(data, MAX_PIXELS).astype(int)
    return bool(np.abs(decoded - decode_image(encode(PICTURE, "PNG"), MAX_PIXELS)).mean() < 6)


@pytest.mark.parametrize("kind", [BASELINE, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("name", TRAILERS)
def test_what_stands_behind_the_picture_is_none_of_it(name: str, kind: bytes) -> None:
    assert is_the_picture(kind + TRAILERS[name])


def test_random_videos_behind_a_picture_never_refuse_it() -> None:
    """Of 30 trailers of 8 MB, 29 had more than a hundred starts of scans."""
    noise = np.random.default_rng(0)
    for _ in range(3):
        trailer = noise.bytes(8_000_000)
        assert trailer.count(START_OF_SCAN) > MAX_SCANS
        assert is_the_picture(PROGRESSIVE + trailer)


WITHIN = {
    "a thumbnail of many scans": with_thumbnail(PROGRESSIVE, with_scans(THUMBNAIL, MANY)),
    "a comment": with_segments(PROGRESSIVE, segment(0xFE, START_OF_SCAN * MANY)),
    "metadata of a program": with_segments(PROGRESSIVE, segment(0xED, (START_OF_SCAN + b"Exif\0\0") * MANY)),
    "XMP": with_segments(PROGRESSIVE, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"Exif\0\0" * MANY)),
    "a comment between scans": PROGRESSIVE[:-2] + segment(0xFE, START_OF_SCAN * MANY) + PROGRESSIVE[-2:],
}


@pytest.mark.parametrize("name", WITHIN)
def test_what_stands_within_a_segment_is_no_scan_and_no_exif(name: str) -> None:
    assert is_the_picture(WITHIN[name])


BLOCKS = {"restart_marker_blocks": 1}
STUFFED = {
    "restart markers": encode(PICTURE, "JPEG", quality=95, **BLOCKS),
    "restart markers in scans": encode(PICTURE, "JPEG", quality=95, progressive=True, **BLOCKS),
    "fill bytes": PROGRESSIVE[:2] + b"\xff" * 9 + PROGRESSIVE[2:-2] + b"\xff" * 9 + PROGRESSIVE[-2:],
    "bytes between segments": BASELINE[: BASELINE.index(START_OF_SCAN)]
    + b"junk\xff\0"
    + BASELINE[BASELINE.index(START_OF_SCAN) :],
    "no end, and zeros": BASELINE[:-2] + bytes(100),
}


@pytest.mark.parametrize("name", STUFFED)
def test_what_a_scan_may_contain_does_not_end_it(name: str) -> None:
    data = STUFFED[name] + START_OF_SCAN * (MANY if name != "no end, and zeros" else 0)
    assert is_the_picture(data)
    assert count_scans(data, MANY) == (SCANS_OF_PILLOW if b"\xff\xc2" in data else 1)


HOSTILE = {
    "at the end": with_scans(PROGRESSIVE, MANY),
    "of a grey picture": with_scans(encode(PICTURE.convert("L"), "JPEG", progressive=True), MANY),
    "with fill bytes": with_scans(PROGRESSIVE, MANY).replace(START_OF_SCAN, b"\xff" + START_OF_SCAN),
    "with comments between": with_scans(PROGRESSIVE, MANY).replace(START_OF_SCAN, segment(0xFE, b"x") + START_OF_SCAN),
    "with a restart marker before each": with_scans(PROGRESSIVE, MANY).replace(
        START_OF_SCAN, b"\xff\xd0" + START_OF_SCAN
    ),
    "with a stuffed zero before each": with_scans(PROGRESSIVE, MANY).replace(START_OF_SCAN, b"\xff\0" + START_OF_SCAN),
    "with an invalid marker before each": PROGRESSIVE[:-2] + (b"\xff\x01" + LAST_SCAN) * MANY + PROGRESSIVE[-2:],
    "behind an end before the first": with_scans(PROGRESSIVE, MANY).replace(
        PROGRESSIVE[:2], b"\xff\xd8" + segment(0xFE, b"x") + b"\xff\xd9\xff\xd8", 1
    ),
    "with a video behind": with_scans(PROGRESSIVE, MANY) + video(3),
    "without an end": with_scans(PROGRESSIVE, MANY)[:-2] + bytes(100),
    "with empty segments of length 0": with_scans(PROGRESSIVE, MANY).replace(
        START_OF_SCAN, b"\xff\xfe\0\0" + START_OF_SCAN
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_more_scans_than_any_encoder_writes_are_refused_wherever_they_stand(name: str) -> None:
    with pytest.raises(UnreadableImage, match=f"more than {MAX_SCANS} scans"):
        decode_image(HOSTILE[name], MAX_PIXELS)


def test_a_hundred_scans_are_decoded_and_one_more_is_refused() -> None:
    assert is_the_picture(with_scans(PROGRESSIVE, MAX_SCANS - SCANS_OF_PILLOW))
    with pytest.raises(UnreadableImage, match="scans"):
        decode_image(with_scans(PROGRESSIVE, MAX_SCANS - SCANS_OF_PILLOW + 1), MAX_PIXELS)


def test_many_exif_segments_are_refused_and_a_hundred_are_not() -> None:
    exif = exif_segment(tiff(oriented(1)))
    assert is_the_picture(with_segments(BASELINE, *[exif] * MAX_EXIF_SEGMENTS))
    for data in (with_segments(BASELINE, *[exif] * MANY), with_segments(BASELINE, b"\xff\xd9", *[exif] * MANY)):
        assert count_exif(data, MAX_EXIF_SEGMENTS) > MAX_EXIF_SEGMENTS
        with pytest.raises(UnreadableImage, match="Exif segments"):
            decode_image(data, MAX_PIXELS)


def test_segments_behind_the_first_scan_are_bounded() -> None:
    """Pillow's reads end there, and libjpeg counts nothing."""
    flood = PROGRESSIVE[:-2] + b"\xff\xe1\0\2" * (MAX_SEGMENTS + 1)
    with pytest.raises(UnreadableImage, match="reads"):
        decode_image(flood + PROGRESSIVE[-2:] + START_OF_SCAN * MANY, MAX_PIXELS)


def test_exif_between_other_formats_names_is_nobodys_business() -> None:
    for image_format in ("PNG", "GIF", "WEBP", "BMP"):
        data = encode(PICTURE, image_format) + b"Exif\0\0" * MANY
        assert decode_image(data, MAX_PIXELS).shape == (224, 224, 3)


def test_the_walk_meets_the_same_segments_as_pillow() -> None:
    data = with_thumbnail(PROGRESSIVE, THUMBNAIL)
    found = [data[each.start : each.end] for each in segments(data) if 0xE0 <= each.marker <= 0xEF]
    assert found == [content for _, content in Image.open(io.BytesIO(data)).applist]  # type: ignore[attr-defined]
