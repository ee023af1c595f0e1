"""From the bytes of a picture to the network's input. The only file that imports Pillow.

The geometry is the standard ImageNet evaluation of Keras' ResNet50 (He et al. 2015, section 3.4, one centre crop):
the shorter side is scaled to 256 pixels, antialiased bilinear, and the central 224×224 square is taken. The colour
part, RGB to BGR and subtraction of the ImageNet mean, is in the graph (`engines.prepare.preprocess`).
"""

import io
import struct
import warnings
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features
from PIL import __version__ as pillow_version

from serve_app.errors import ImageTooLarge, UnreadableImage, UnsupportedImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
SIDE_PIXELS = 224
SHORTER_SIDE_PIXELS = 256
GEOMETRY = 1
"""Raise it when the same bytes become another input of the network: predictions kept from before are then not used."""
_LOSSY_DECODERS = ("jpg", "libjpeg_turbo", "webp")
DECODING = f"{GEOMETRY}, Pillow {pillow_version}, {', '.join(f'{n} {features.version(n)}' for n in _LOSSY_DECODERS)}"
"""What decides which input of the network a picture's bytes become."""
# JPEG decoders can scale by 1/2, 1/4 and 1/8 while decoding. Kept at twice the shorter side or more, so that the
# antialiased resize still has at least two source pixels for each of its own.
DRAFT_SHORTER_SIDE_PIXELS = 2 * SHORTER_SIDE_PIXELS
# Every scan of a progressive JPEG is a pass over the whole picture (39 ms at 49 megapixels); encoders write about ten.
# A start-of-scan marker cannot occur within a scan's data.
MAX_SCANS = 100
START_OF_SCAN = b"\xff\xda"
# Pillow copies all Exif segments so far for each further one: 7 MB of them took 13 s. Cameras write one.
MAX_EXIF_SEGMENTS = 100
EXIF_SEGMENT = b"Exif\x00\x00"
# Pillow walks through segments, chunks and blocks in Python, two to four reads for each. Honest pictures of 10 MB need
# up to 10,000 (PNG whose data is in chunks of 4 kB).
MAX_READS = 100_000
# The centre of a longer one cannot be told apart in the single precision that Pillow resizes with.
MAX_SIDES_RATIO = 100_000
# BITMAPINFOHEADER.biCompression. Pillow decodes these two in Python: a file of 29 kB took 5.5 s.
RUN_LENGTH_CODED = (1, 2)
SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
# What Pillow raises on damaged bytes; its parsers check little, so that wrong types and failed assertions are among it.
DECODER_FAULTS = (
    OSError, EOFError, ValueError, SyntaxError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
# What has to be done to a picture stored with each EXIF orientation (CIPA DC-008, tag 0x0112).
UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Picture = NDArray[np.uint8]


def decode_image(data: bytes, max_pixels: int, *, draft: bool = True) -> Picture:
    """Return the picture in `data` as uint8 RGB of shape (224, 224, 3).

    EXIF orientation is applied; CMYK, palette, greyscale and 16-bit pictures become RGB; transparency is put on
    white; of an animation the first frame is taken. `draft=False` decodes large JPEGs at full size.

    Raises UnsupportedImage, ImageTooLarge (from the header, before any pixel is decoded) and UnreadableImage.
    """
    image = _open(data, max_pixels)
    _check_size(image.size, max_pixels)
    if image.format == "BMP" and image.info.get("compression") in RUN_LENGTH_CODED:
        raise UnsupportedImage("a run-length coded BMP is not decoded here; save it without compression")
    if image.format in ("JPEG", "MPO") and data.count(START_OF_SCAN) > MAX_SCANS:
        raise UnreadableImage(f"the JPEG has more than {MAX_SCANS} scans; save it anew")
    try:
        if draft:
            _draft(image)
        return np.asarray(_crop(image))
    except DECODER_FAULTS as exc:
        raise UnreadableImage(f"the {image.format} picture is truncated or corrupted: {exc}") from exc


def warm_up_decoder() -> None:
    """Decode a picture of our own: Pillow's first decode loads its plugins, 65 ms that no request should wait for.

    Also silences Pillow: it warns of damaged metadata in words from the file, and Python would keep each text for ever.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE_PIXELS, SIDE_PIXELS)).save(buffer, "JPEG")
    decode_image(buffer.getvalue(), SIDE_PIXELS**2)


class _CountedReads(io.BytesIO):
    """The upload, to be read a limited number of times."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise UnreadableImage(f"the picture is in so many pieces that they take {MAX_READS:,} reads; save it anew")
        return super().read(size)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if data.count(EXIF_SEGMENT) > MAX_EXIF_SEGMENTS:
        raise UnreadableImage(f"the picture has more than {MAX_EXIF_SEGMENTS} Exif segments; save it anew")
    try:
        return Image.open(_CountedReads(data), formats=FORMATS)
    except UnidentifiedImageError as exc:
        if name := _begins_as(data):
            raise UnreadableImage(
                f"the upload begins as a {name} picture whose header is truncated or corrupted, or has no pixels"
            ) from exc
        raise UnsupportedImage(f"the upload is not a picture in one of the formats {', '.join(FORMATS)}") from exc
    except Image.DecompressionBombError as exc:
        raise ImageTooLarge(f"the picture has far more pixels than the {max_pixels:,} decoded here") from exc
    except DECODER_FAULTS as exc:
        raise UnreadableImage(f"the picture is truncated or corrupted: {exc}") from exc


def _begins_as(data: bytes) -> str | None:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for signature, name in SIGNATURES.items() if data.startswith(signature)), None)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(f"the picture has {width}×{height} pixels; this service decodes up to {max_pixels:,}")
    if max(size) > MAX_SIDES_RATIO * min(size):
        raise ImageTooLarge(
            f"the picture has {width}×{height} pixels: one side over {MAX_SIDES_RATIO:,} times the other"
        )


def _draft(image: Image.Image) -> None:
    width, height = image.size
    scale = min(width, height) / DRAFT_SHORTER_SIDE_PIXELS
    if scale > 1:
        image.draft(None, (int(width / scale), int(height / scale)))


def _crop(image: Image.Image) -> Image.Image:
    # Scaling to 256 and cutting 224×224 out of that, in one step: only the pixels that are kept are computed.
    width, height = image.size
    scale = SHORTER_SIDE_PIXELS / min(width, height)
    scaled_width, scaled_height = round(width * scale), round(height * scale)
    left, top = (scaled_width - SIDE_PIXELS) // 2, (scaled_height - SIDE_PIXELS) // 2
    per_column, per_row = width / scaled_width, height / scaled_height
    box = (left * per_column, top * per_row, (left + SIDE_PIXELS) * per_column, (top + SIDE_PIXELS) * per_row)
    crop = _to_rgb(_resizable(image).resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BILINEAR, box))
    # Turning or mirroring maps the central square onto itself, so the small picture is turned, not the large one.
    turn = UPRIGHT.get(_orientation(image))
    return crop if turn is None else crop.transpose(turn)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except DECODER_FAULTS:
        return None  # broken metadata says nothing about the pixels


def _resizable(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return image
    if image.has_transparency_data:
        return image.convert("RGBA") if image.mode != "RGBA" else image
    return image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 when it converts; the high byte is the picture.
        high_byte = np.clip(np.asarray(image).astype(np.int32) >> 8, 0, 255)
        return Image.fromarray(high_byte.astype(np.uint8)).convert("RGB")
    if image.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
