"""From the bytes of a picture to the network's input. The only file that imports Pillow.

What is taken is what a browser shows on a white page: `formats` knows where Pillow shows another thing.

The geometry is that of ImageNet evaluations (He et al. 2015, section 3.4, one centre crop): the shorter side is scaled,
antialiased bilinear, and the central square is taken; ResNet50 has 256 and 224 pixels. The colour part, such as RGB to
BGR and subtraction of the ImageNet mean, is in the graph (`families.Preprocessing`).
"""

import io
import struct
import warnings
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageChops,
    ImageFile,
    ImagePalette,
    JpegImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)
from PIL import __version__ as pillow_version

from serve_app.classifier.families import RESNET50, Geometry
from serve_app.classifier.formats import MAX_PIECES, begins_as, bmp, exif, jpeg, png, too_many_pieces
from serve_app.errors import ImageTooLarge, UnreadableImage, UnsupportedImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
GEOMETRY = 3
"""Raise it when the same bytes become another input of the network: predictions kept from before are then not used."""
_LOSSY_DECODERS = ("jpg", "libjpeg_turbo", "webp")
DECODING = f"{GEOMETRY}, Pillow {pillow_version}, {', '.join(f'{n} {features.version(n)}' for n in _LOSSY_DECODERS)}"
"""What decides which input of the network a picture's bytes become."""
# JPEG decoders can scale by 1/2, 1/4 and 1/8 while decoding. Kept at twice the shorter side or more, so that the
# antialiased resize still has at least two source pixels for each of its own.
DRAFT_SCALE = 2
# Every scan of a progressive JPEG is a pass over the whole picture (39 ms at 49 megapixels); encoders write about ten.
MAX_SCANS = 100
# Pillow copies all Exif segments so far for each further one: 7 MB of them took 13 s. Cameras write one.
MAX_EXIF_SEGMENTS = 100
# The centre of a longer one cannot be told apart in the single precision that Pillow resizes with.
MAX_SIDES_RATIO = 100_000
# BITMAPINFOHEADER.biCompression. Pillow decodes these two in Python: a file of 29 kB took 5.5 s.
RUN_LENGTH_CODED = (1, 2)
# What Pillow raises on damaged bytes; its parsers check little, so that wrong types and failed assertions are among it.
DECODER_FAULTS = (
    OSError, EOFError, ValueError, SyntaxError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError,
    MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
# What has to be done to a picture stored with each EXIF orientation (CIPA DC-008, tag 0x0112).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's unpackers call pixels that are places in a palette, by their bits.
_INDEXED = {1: "P;1", 4: "P;4", 8: "P"}
_BMP_ALPHA_16 = 0x8000
_WEBP_ANIMATION = 0x02
"""Of the flags in VP8X."""

Picture = NDArray[np.uint8]


def decode_image(data: bytes, max_pixels: int, geometry: Geometry = RESNET50, *, draft: bool = True) -> Picture:
    """Return the picture in `data` as uint8 RGB of shape (crop, crop, 3).

    The EXIF orientation of JPEG and PNG is applied; CMYK, palette, greyscale and 16-bit pictures become RGB;
    transparency is put on white; of an animation the first frame is taken. `draft=False` decodes large JPEGs at full
    size.

    Raises UnsupportedImage, ImageTooLarge (from the header, before any pixel is decoded) and UnreadableImage.
    """
    image = _open(data, max_pixels)
    _check_size(image.size, max_pixels)
    if image.format == "BMP" and image.info.get("compression") in RUN_LENGTH_CODED:
        raise UnsupportedImage("a run-length coded BMP is not decoded here; save it without compression")
    if _is_jpeg(data) and _has_many_scans(data):
        raise UnreadableImage(f"the JPEG has more than {MAX_SCANS} scans; save it anew")
    try:
        if draft:
            _draft(image, DRAFT_SCALE * geometry.resize)
        picture, tiff = _first_picture(image, data, max_pixels)
        crop = _crop(picture, geometry)
        # Turning or mirroring maps the central square onto itself, so the small picture is turned, not the large one.
        turn = UPRIGHT.get(exif.read_orientation(tiff))
        return np.asarray(crop if turn is None else crop.transpose(turn))
    except DECODER_FAULTS as exc:
        _refuse_unsupported(jpeg.describe_unsupported(data) if _is_jpeg(data) else None)
        raise UnreadableImage(f"the {image.format} picture is truncated or corrupted: {exc}") from exc


def warm_up_decoder() -> None:
    """Decode a picture of our own: Pillow's first decode loads its plugins, 65 ms that no request should wait for.

    Also silences Pillow: it warns of damaged metadata in words from the file, and Python would keep each text for ever.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    decode_image(buffer.getvalue(), 64)


class _CountedReads(io.BytesIO):
    """The upload, to be read a limited number of times."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = MAX_PIECES

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise too_many_pieces()
        return super().read(size)


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    if _is_jpeg(data) and _has_many_exif_segments(data):
        raise UnreadableImage(f"the picture has more than {MAX_EXIF_SEGMENTS} Exif segments; save it anew")
    try:
        plain = png.without_ancillary_chunks(data) if begins_as(data) == "PNG" else data
        return Image.open(_CountedReads(plain), formats=FORMATS)
    except UnidentifiedImageError as exc:
        name = begins_as(data)
        if name is None:
            raise UnsupportedImage(f"the upload is not a picture in one of the formats {', '.join(FORMATS)}") from exc
        _refuse_unsupported(jpeg.describe_unsupported(data) if name == "JPEG" else None)
        raise UnreadableImage(
            f"the upload begins as a {name} picture whose header is truncated or corrupted, or has no pixels"
        ) from exc
    except Image.DecompressionBombError as exc:
        raise ImageTooLarge(f"the picture has far more pixels than the {max_pixels:,} decoded here") from exc
    except DECODER_FAULTS as exc:
        _refuse_unsupported(bmp.describe_unsupported(data) if begins_as(data) == "BMP" else None)
        raise UnreadableImage(f"the picture is truncated or corrupted: {exc}") from exc


# Counting bytes is quick. Only where they are many it matters which of them belong to a thumbnail or a trailing video.
def _has_many_scans(data: bytes) -> bool:
    return data.count(jpeg.START_OF_SCAN) > MAX_SCANS and jpeg.count_scans(data, MAX_SCANS) > MAX_SCANS


def _has_many_exif_segments(data: bytes) -> bool:
    return data.count(jpeg.EXIF) > MAX_EXIF_SEGMENTS and jpeg.count_exif(data, MAX_EXIF_SEGMENTS) > MAX_EXIF_SEGMENTS


def _is_jpeg(data: bytes) -> bool:
    return begins_as(data) == "JPEG"


def _refuse_unsupported(kind: str | None) -> None:
    if kind is not None:
        raise UnsupportedImage(f"{kind} is not decoded here; save it as PNG")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageTooLarge(f"the picture has {width}×{height} pixels; this service decodes up to {max_pixels:,}")
    if max(size) > MAX_SIDES_RATIO * min(size):
        raise ImageTooLarge(
            f"the picture has {width}×{height} pixels: one side over {MAX_SIDES_RATIO:,} times the other"
        )


def _draft(image: Image.Image, shorter_side: int) -> None:
    width, height = image.size
    scale = min(width, height) / shorter_side
    if scale > 1:
        image.draft(None, (int(width / scale), int(height / scale)))


def _first_picture(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> tuple[Image.Image, bytes]:
    """Return what a browser shows of the file, white or clear where that is nothing, and the EXIF block it heeds."""
    if image.format == "PNG":
        return _open_png(data, max_pixels)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return image, _exif_block(image)
    if image.format == "GIF":
        return _uncover_gif(image), b""
    if isinstance(image, WebPImagePlugin.WebPImageFile) and data[12:16] == b"VP8X" and data[20] & _WEBP_ANIMATION:
        # A frame may be smaller than the canvas, whatever the file says of alpha.
        image._mode, image.rawmode = "RGBA", "RGBA"  # noqa: SLF001 as Pillow's plugins set it
    elif image.format == "BMP" and (header := bmp.read_header(data)):
        _mend_bmp(image, header)
    return image, b""


def _exif_block(image: JpegImagePlugin.JpegImageFile) -> bytes:
    # The first one alone counts, whatever is in it. Pillow would add up all, and fall back to XMP.
    blocks = (content[len(jpeg.EXIF) :] for name, content in image.applist if name == "APP1" and jpeg.is_exif(content))
    return next(blocks, b"")


def _open_png(data: bytes, max_pixels: int) -> tuple[Image.Image, bytes]:
    first = png.read_first_picture(data)
    _check_size(first.size, max_pixels)
    image = _open_plain(first.file)
    if image.mode == "I;16":
        _read_as(image, "L", "L;16B")  # the high byte; the rest is lost in the network's input anyway
    picture: Image.Image = image
    if first.key is not None and first.bits == 16:  # noqa: PLR2004
        picture = _clear_in_full_depth(image, first)
    elif first.key is not None:
        scale = 255 // ((1 << first.bits) - 1)
        key = tuple(value * scale for value in first.key)
        image.info["transparency"] = key if len(key) > 1 else key[0]
    return _place(picture, first.size, first.corner), first.tiff


def _open_plain(file: bytes) -> ImageFile.ImageFile:
    return Image.open(_CountedReads(file), formats=("PNG",))


def _clear_in_full_depth(image: ImageFile.ImageFile, first: png.FirstPicture) -> Image.Image:
    """Return the picture with its transparent colour clear; Pillow's pixels have only the high byte of 16 bits."""
    low_bytes = _open_plain(first.file)
    _read_as(low_bytes, image.mode, {"L": "L;16", "RGB": "RGB;16L"}[image.mode])
    alpha = Image.new("L", image.size)
    for band, value in enumerate(first.key or ()):
        for pixels, octet in ((image, value >> 8), (low_bytes, value & 0xFF)):
            differs = pixels.getchannel(band).point([255 * (level != octet) for level in range(256)])
            alpha = ImageChops.lighter(alpha, differs)
    image.putalpha(alpha)
    return image


def _uncover_gif(image: ImageFile.ImageFile) -> Image.Image:
    """Return the first frame on a white canvas; Pillow fills what it leaves free with a colour of the palette."""
    if image.mode == "L":
        image.palette = None  # that of the screen, which Pillow gives to grey frames too, and then cannot load
    box = image.tile[0].extents
    if box is None or box == (0, 0, *image.size):
        return image
    return _place(image.crop(box), image.size, box[:2])


def _mend_bmp(image: ImageFile.ImageFile, header: bmp.BmpHeader) -> None:
    if header.alpha_mask == _BMP_ALPHA_16 and _rawmode(image) == "BGR;15":
        _read_as(image, "RGBA", "BGRA;15")
    elif header.bits in _INDEXED and (image.mode, header.bits) not in (("1", 1), ("L", 8)):
        image.palette = ImagePalette.raw("BGR" if header.is_core else "BGRX", header.palette)
        _read_as(image, "P", _INDEXED[header.bits])


def _rawmode(image: ImageFile.ImageFile) -> str:
    args = image.tile[0].args
    return args[0] if isinstance(args, tuple) else args or ""


def _read_as(image: ImageFile.ImageFile, mode: str, rawmode: str) -> None:
    """Have pixels that are not loaded yet unpacked into `mode` by Pillow's unpacker `rawmode`."""
    image._mode = mode  # noqa: SLF001 as Pillow's plugins set it
    tile = image.tile[0]
    image.tile = [tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)]


def _place(picture: Image.Image, size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    picture = picture.convert("RGBA")
    canvas = Image.new("RGB", size, "white")
    canvas.paste(picture, corner, picture)
    return canvas


def _crop(image: Image.Image, geometry: Geometry) -> Image.Image:
    # Scaling and cutting the square out of that, in one step: only the pixels that are kept are computed.
    width, height = image.size
    side = geometry.crop
    scale = geometry.resize / min(width, height)
    scaled_width, scaled_height = round(width * scale), round(height * scale)
    left, top = (scaled_width - side) // 2, (scaled_height - side) // 2
    per_column, per_row = width / scaled_width, height / scaled_height
    box = (left * per_column, top * per_row, (left + side) * per_column, (top + side) * per_row)
    return _to_rgb(_resizable(image).resize((side, side), Image.Resampling.BILINEAR, box))


def _resizable(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        return image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    return image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA"):
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
