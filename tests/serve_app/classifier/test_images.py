"""decode_image: geometry, colour modes, orientation, reduced-scale decoding, refusals."""

import hashlib
import io
import struct
import sys
import warnings
import zlib
from types import FrameType
from typing import Any, Self

import numpy as np
import pytest
from PIL import ExifTags, Image

from serve_app.classifier.formats import MAX_PIECES
from serve_app.classifier.images import DECODING, FORMATS, GEOMETRY, decode_image
from serve_app.errors import ImageTooLarge, ServiceError, UnreadableImage, UnsupportedImage
from tests import hostile
from tests.fitted_model import evaluation_crop

MAX_PIXELS = 20_000_000
MOST_CALLS = 20 * MAX_PIECES
"""A parser in Python makes up to 13 for each read of the file; they take 0.2 s."""


def encode(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a picture with edges and gradients at several scales."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), 3)
    fine = Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((width, height), 2)
    return Image.blend(coarse, fine, 0.3)


def four_corners(width: int = 256, height: int = 256) -> Image.Image:
    """Return a picture whose quarters are red, green / blue, white."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(pixels)


def difference(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.abs(left.astype(float) - right.astype(float)).mean())


@pytest.mark.parametrize("size", [(256, 256), (500, 375), (375, 500), (1000, 300), (100, 80), (31, 977)])
def test_the_geometry_is_shorter_side_256_and_central_224(size: tuple[int, int]) -> None:
    picture = smooth(*size)
    decoded = decode_image(encode(picture, "PNG"), MAX_PIXELS).astype(int)
    assert np.abs(decoded - evaluation_crop(picture)).max() <= 1  # one level of 255: rounding


def test_a_picture_of_the_right_size_is_cropped_to_the_pixel() -> None:
    picture = smooth(256, 256)
    assert np.array_equal(decode_image(encode(picture, "PNG"), MAX_PIXELS), np.asarray(picture)[16:240, 16:240])


def test_another_input_for_the_same_bytes_needs_another_number() -> None:
    """Predictions are kept by the bytes of pictures: without a new GEOMETRY, those of the old input stay in use.

    Where only Pillow is another one, its version has changed the key already: write the new digest here.
    """
    pictures = [smooth(500, 375), smooth(300, 700).convert("L"), smooth(256, 256).convert("RGBA"), four_corners()]
    decoded = b"".join(decode_image(encode(picture, "PNG"), MAX_PIXELS).tobytes() for picture in pictures)
    assert (GEOMETRY, hashlib.sha256(decoded).hexdigest()[:12]) == (3, "a05cf77971ed")
    assert DECODING.startswith(f"{GEOMETRY}, Pillow ")


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_gives_the_same_picture(image_format: str) -> None:
    picture = smooth(300, 256)
    options = {"quality": 95} if image_format in ("JPEG", "WEBP") else {}
    decoded = decode_image(encode(picture, image_format, **options), MAX_PIXELS)
    assert decoded.shape == (224, 224, 3)
    assert decoded.dtype == np.uint8
    assert difference(decoded, evaluation_crop(picture)) < (12 if image_format == "GIF" else 3)  # GIF: 256 colours


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = four_corners()
    stored_as = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse of what a viewer does
    stored = upright.transpose(Image.Transpose(stored_as[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    decoded = decode_image(encode(stored, "PNG", exif=exif), MAX_PIXELS)
    assert difference(decoded, np.asarray(upright)[16:240, 16:240]) < 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_spoil_a_good_picture() -> None:
    data = encode(smooth(256, 256), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode_image(data, MAX_PIXELS).shape == (224, 224, 3)


def odd_exif() -> dict[str, bytes]:
    wrong_types = Image.Exif()
    wrong_types[ExifTags.Base.Orientation] = 6
    tags = wrong_types.tobytes()
    return {
        "nothing but a header": b"Exif\x00\x00II*\x00",
        "not TIFF": b"Exif\x00\x00hello",
        "orientation as text": tags.replace(b"\x00\x03\x00\x00\x00\x01", b"\x00\x02\x00\x00\x00\x01"),
        "an offset beyond the end": tags[:8] + b"\xff" * 8 + tags[16:],
    }


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read", "ignore:Metadata Warning")
@pytest.mark.parametrize("fault", odd_exif())
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_does_not_spoil_a_good_picture(image_format: str, fault: str) -> None:
    data = encode(smooth(256, 256), image_format, exif=odd_exif()[fault])
    assert decode_image(data, MAX_PIXELS).shape == (224, 224, 3)


def test_random_damage_in_exif_never_crashes() -> None:
    exif = Image.Exif()
    for tag in (ExifTags.Base.Orientation, ExifTags.Base.XResolution, ExifTags.Base.Make):
        exif[tag] = 6
    tags = bytearray(exif.tobytes())
    generator = np.random.default_rng(0)
    picture = smooth(32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(300):
            damaged = bytearray(tags)
            for position in generator.integers(6, len(tags), 4):
                damaged[position] = generator.integers(256)
            try:
                decode_image(encode(picture, "JPEG", exif=bytes(damaged)), MAX_PIXELS)
            except ServiceError:
                pytest.fail("broken metadata spoilt a good picture")


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    data = encode(smooth(64, 64), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert decode_image(data[:-2] + last_scan * 20 + data[-2:], MAX_PIXELS).shape == (224, 224, 3)
    with pytest.raises(UnreadableImage, match="more than 100 scans"):
        decode_image(data[:-2] + last_scan * 200 + data[-2:], MAX_PIXELS)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_shapes_are_pictures_too(size: tuple[int, int]) -> None:
    assert decode_image(encode(Image.new("RGB", size), "PNG"), MAX_PIXELS).shape == (224, 224, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    grey = np.asarray(smooth(256, 256).convert("L"))
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = (
            Image.fromarray(grey).quantize() if mode == "P" else Image.fromarray(grey).convert("RGB").convert(mode)
        )
    decoded = decode_image(encode(picture, "JPEG" if mode == "CMYK" else "PNG"), MAX_PIXELS)
    expected = np.asarray(picture.convert("L") if mode == "1" else Image.fromarray(grey))[16:240, 16:240]
    assert decoded.shape == (224, 224, 3)
    assert difference(decoded, np.stack([expected] * 3, axis=-1)) < 4


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode: str) -> None:
    clear = Image.new("RGBA", (256, 256), (10, 20, 30, 0))
    data = encode(clear.convert("LA") if mode == "LA" else clear.quantize() if mode == "P" else clear, "PNG")
    assert decode_image(data, MAX_PIXELS).min() == 255


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (256, 256), colour) for colour in ("red", "lime", "blue")]
    for image_format in ("GIF", "WEBP"):
        data = encode(frames[0], image_format, save_all=True, append_images=frames[1:])
        assert difference(decode_image(data, MAX_PIXELS), np.full((224, 224, 3), (255, 0, 0))) < 3


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 2000), (1600, 1200), (1030, 4000)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_large_jpegs_decoded_at_reduced_scale_differ_by_less_than_a_level(size: tuple[int, int], mode: str) -> None:
    """The bound on Pillow's draft mode: mean difference below 1 of 255 levels, 99.9 % of values within 8."""
    data = encode(smooth(*size).convert(mode), "JPEG", quality=90)
    full = decode_image(data, MAX_PIXELS, draft=False).astype(int)
    quick = decode_image(data, MAX_PIXELS).astype(int)
    assert np.abs(full - quick).mean() < 1
    assert np.quantile(np.abs(full - quick), 0.999) <= 8


@pytest.mark.parametrize(
    ("side", "words"), [(5000, "5000×5000 pixels"), (60_000, "far more pixels than the 20,000,000")]
)
def test_too_many_pixels_are_refused_from_the_header_alone(side: int, words: str) -> None:
    small = encode(Image.new("L", (8, 8)), "PNG")
    header = b"IHDR" + struct.pack(">II", side, side) + small[24:29]
    pretender = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    with pytest.raises(ImageTooLarge, match=words):
        decode_image(pretender, MAX_PIXELS)


@pytest.mark.parametrize("data", [b"GIF89", b"hello", b"\x00" * 1000, b"%PDF-1.7", b"<svg/>"])
def test_what_is_no_picture_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="JPEG, PNG, WEBP, GIF, BMP"):
        decode_image(data, MAX_PIXELS)


def test_a_tiff_is_unsupported_although_pillow_could_read_it() -> None:
    with pytest.raises(UnsupportedImage):
        decode_image(encode(smooth(64, 64), "TIFF"), MAX_PIXELS)


@pytest.mark.parametrize("image_format", FORMATS)
def test_half_a_picture_is_refused(image_format: str) -> None:
    data = encode(smooth(300, 300), image_format)
    with pytest.raises(UnreadableImage, match="truncated or corrupted"):
        decode_image(data[: len(data) // 2], MAX_PIXELS)


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_picture_cut_anywhere_is_a_refusal_and_never_a_crash(image_format: str) -> None:
    data = encode(smooth(40, 30), image_format)
    for length in range(0, len(data) - 1, max(1, len(data) // 200)):
        try:
            decode_image(data[:length], MAX_PIXELS)
        except ServiceError as refusal:
            assert refusal.status in (400, 413, 415)  # noqa: PT017 some cuts only lose padding and decode


HOSTILE = [case for case in hostile.cases() if case.kind in hostile.PICTURE_KINDS]


class Calls:
    """Counts the calls of functions, Python's and C's, while it is entered: what a parser costs on any machine."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.count += event in ("call", "c_call")


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case.name)
def test_a_hostile_picture_is_answered_after_a_bounded_number_of_calls(case: hostile.Case) -> None:
    data = case.make_body()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in the service
        try:
            with Calls() as calls:
                decode_image(data, 50_000_000)
        except ServiceError as refusal:
            assert (refusal.status, refusal.code) == (case.status, case.code)  # noqa: PT017 some are pictures after all
            assert case.words in refusal.detail  # noqa: PT017
        else:
            assert case.status == 200
    assert 0 < calls.count < MOST_CALLS
