"""JPEG pictures for the load: as heavy to decode as photographs, and a different file in every request.

Called by the locustfile and, for small files of every format, by the fuzzer; knows nothing of HTTP. A pool of pictures
is drawn once; each request then gets one of them with a unique JPEG comment. The files differ, so a cache keyed by
content (SHA-256) never hits; the pixels repeat within the pool, so a cache keyed by decoded pixels would. Only a pool
with `distinct=False` repeats files.
"""

import argparse
import io
import itertools
import random
import secrets
from contextlib import suppress
from typing import Any

from PIL import ExifTags, Image, ImageChops, ImageDraw, PngImagePlugin

SIZE_PX = (500, 375)
"""Width and height: the usual ImageNet photograph."""

# Quality 85 with 4:2:0 chroma is usual for photographs on the web; with this much grain it makes 61 to 66 kB.
_JPEG_QUALITY = 85
_CHROMA_4_2_0 = 2
_GRAIN_LEVELS = 32


class PicturePool:
    """Pictures drawn once, handed out in turn; if `distinct`, each time with a comment that no other one carries."""

    def __init__(self, size: int, seed: int = 0, *, distinct: bool = True) -> None:
        """Draw `size` pictures from `seed`, about 3 ms each. Raises ValueError when `size` is below 1."""
        if size < 1:
            raise ValueError(f"a picture pool holds at least 1 picture, not {size}")
        pictures = [_split_after_header(draw_picture(seed + index)) for index in range(size)]
        self._pictures = itertools.cycle(pictures)
        self._numbers = itertools.count()
        self._distinct = distinct
        # From the operating system, so that processes forked from one Locust differ, and later runs too.
        self._run_id = secrets.token_hex(8)

    def next_picture(self) -> bytes:
        """Return one JPEG file; if `distinct`, one that neither this pool nor any other has returned before."""
        header, rest = next(self._pictures)
        if not self._distinct:
            return header + rest
        return b"".join((header, _comment(f"{self._run_id}-{next(self._numbers)}"), rest))


def read_size(text: str) -> int:
    """Return an option of a locustfile that says how many or how large. Raises ArgumentTypeError."""
    with suppress(ValueError):
        if (size := int(text)) > 0:
            return size
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


def draw_picture(seed: int) -> bytes:
    """Return a JPEG file of SIZE_PX, about 64 kB; the same seed gives the same pixels.

    Broad colour areas, a few hard edges and film grain: without the grain the file would be a third as large
    and quicker to decode than a photograph.
    """
    rng = random.Random(seed)
    picture = _colour_areas(rng)
    _draw_edges(picture, rng)
    picture = ImageChops.add(picture, _grain(rng), scale=1, offset=-_GRAIN_LEVELS // 2)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=_CHROMA_4_2_0)
    return file.getvalue()


def sample_files(seed: int = 0) -> list[bytes]:
    """Return valid small files of each format and of the variants that decoders treat apart, 0.5 to 25 kB."""
    rng = random.Random(seed)
    picture = _colour_areas(rng).resize((96, 72))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "maker"
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "text " * 50, zip=True)
    clear = picture.convert("RGBA")
    clear.putalpha(100)
    second = picture.transpose(Image.Transpose.ROTATE_180)
    frames: dict[str, Any] = {"save_all": True, "append_images": [second], "duration": 40}
    return [
        _file(picture, "JPEG", exif=exif, comment="comment"),
        _file(picture, "JPEG", progressive=True),
        _file(picture.convert("CMYK"), "JPEG"),
        _file(picture.convert("L"), "JPEG", quality=30),
        _file(picture, "PNG", exif=exif, pnginfo=text, icc_profile=bytes(200)),
        _file(clear, "PNG"),
        _file(picture.quantize(16), "PNG", bits=4, transparency=3),
        _file(picture, "PNG", **frames),
        _file(picture, "WEBP"),
        _file(clear, "WEBP", lossless=True, exif=exif),
        _file(picture, "WEBP", **frames),
        _file(picture, "GIF", comment=b"comment"),
        _file(picture.quantize(32), "GIF", **frames),
        _file(picture, "BMP"),
        _file(picture.quantize(16), "BMP"),
        _file(picture.convert("1"), "BMP"),
    ]


def _file(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, image_format, **options)
    return file.getvalue()


def _colour_areas(rng: random.Random) -> Image.Image:
    coarse = Image.frombytes("RGB", (8, 6), rng.randbytes(8 * 6 * 3))
    return coarse.resize(SIZE_PX, Image.Resampling.BICUBIC)


def _draw_edges(picture: Image.Image, rng: random.Random) -> None:
    draw = ImageDraw.Draw(picture)
    width, height = SIZE_PX
    for _ in range(12):
        corners = [(rng.randrange(width), rng.randrange(height)) for _ in range(3)]
        draw.polygon(corners, fill=tuple(rng.randbytes(3)))


def _grain(rng: random.Random) -> Image.Image:
    width, height = SIZE_PX
    noise = Image.frombytes("L", SIZE_PX, rng.randbytes(width * height))
    return noise.point([value * _GRAIN_LEVELS // 255 for value in range(256)]).convert("RGB")


def _split_after_header(jpeg: bytes) -> tuple[bytes, bytes]:
    """Split behind the JFIF header, which the standard wants directly after the start marker."""
    header_bytes = 4 + int.from_bytes(jpeg[4:6])
    return jpeg[:header_bytes], jpeg[header_bytes:]


def _comment(text: str) -> bytes:
    """Return a COM segment: the marker, then a length that counts itself and the text."""
    payload = text.encode("ascii")
    return b"\xff\xfe" + (len(payload) + 2).to_bytes(2) + payload
