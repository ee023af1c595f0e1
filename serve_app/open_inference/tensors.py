"""From the tensors of a request to pictures as files, and from the classes found to tensors. Knows no transport.

Pixels become the file of a picture (BMP, which loses nothing), so that limits, cache, decoding and scaling are those of
any upload.
"""

import binascii
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.classifier.settings import ClassifierSettings
from serve_app.errors import ImageTooLarge, MalformedInference, UploadTooLarge

Data = Sequence[Any] | bytes | memoryview
"""Values as JSON or protobuf has them, or a raw tensor: little-endian, row-major."""

BASE64 = "base64"
CHANNELS = 3
_LENGTH = struct.Struct("<I")
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4"), "INT32": np.dtype("<i4")}
_BRIGHTEST = 255
# BITMAPFILEHEADER and BITMAPINFOHEADER; a negative height puts the top row first.
_BMP = struct.Struct("<2sIHHI IiiHHIIiiII")
_BMP_HEADER_BYTES = 40
_BMP_BITS = 24
_BMP_ROW_MULTIPLE = 4


@dataclass(frozen=True)
class Tensor:
    """One input of a request."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Data
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """One output: `values` are a NumPy array of numbers, or of `str`."""

    name: str
    datatype: str
    values: NDArray[Any]

    def raw(self) -> bytes:
        """Return it as a raw tensor: numbers little-endian, strings as UTF-8, each behind its length."""
        if self.datatype == "BYTES":
            texts = [str(value).encode() for value in self.values.flat]
            return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
        return self.values.astype(_DTYPES[self.datatype]).tobytes()


def pictures_in(tensor: Tensor, settings: ClassifierSettings) -> list[bytes]:
    """Return the files of the pictures in `tensor`, of datatype BYTES, shape (n,) or (n, 1), or of pixels (n, h, w, 3).

    Pixels are RGB from 0 to 255; those of FP32 are rounded. Raises MalformedInference, UploadTooLarge and
    ImageTooLarge before anything is made of the values.
    """
    most = most_pictures(settings)
    if tensor.shape and tensor.shape[0] > most:
        raise UploadTooLarge(
            f"{_named(tensor)} has {tensor.shape[0]} pictures; one request may have {most}; send fewer at a time"
        )
    if tensor.datatype == "BYTES":
        return _files(tensor, settings.max_upload_bytes)
    return _drawn(tensor, settings)


def made_bytes(tensor: Tensor) -> int:
    """Return how many bytes `pictures_in` takes for what it makes of `tensor`: the files, and one more of pixels.

    Pixels that came one by one count for nothing here: whoever parsed them has accounted for that.
    """
    data, shape = tensor.data, tensor.shape
    if tensor.datatype == "BYTES":
        given = [data] if isinstance(data, bytes | memoryview) else _unnested(data)
        return sum(len(each) for each in given if isinstance(each, str | bytes | memoryview))
    if len(shape) != 1 + CHANNELS or not isinstance(data, bytes | memoryview):
        return 0
    is_whole = math.prod(shape) * _DTYPES[tensor.datatype].itemsize == len(data)
    return (shape[0] + 1) * _bmp_bytes(shape[2], shape[1]) if is_whole else 0


def most_pictures(settings: ClassifierSettings) -> int:
    """Return how many pictures one request may have: no more than have a place in the queue."""
    return min(settings.max_request_pictures, settings.max_queue)


def _named(tensor: Tensor) -> str:
    return f"the input {tensor.name}"


def _files(tensor: Tensor, most_bytes: int) -> list[bytes]:
    if not tensor.shape or tensor.shape[0] < 1 or tensor.shape[1:] not in ((), (1,)):
        raise MalformedInference(
            f"{_named(tensor)} has the shape {list(tensor.shape)}; write [n] for n pictures, at least 1"
        )
    if isinstance(tensor.data, bytes | memoryview):
        files = _split(tensor, tensor.data)
    elif len(tensor.data) == tensor.shape[0]:
        files = [_decoded(tensor, value) for value in _unnested(tensor.data)]
    else:
        raise _other_count(tensor, len(tensor.data))
    if len(files) != tensor.shape[0]:
        raise _other_count(tensor, len(files))
    for index, file in enumerate(files):
        if len(file) > most_bytes:
            raise UploadTooLarge(
                f"{_named(tensor)}[{index}] is larger than {most_bytes:,} bytes; send a smaller picture"
            )
    return files


def _other_count(tensor: Tensor, found: int) -> MalformedInference:
    return MalformedInference(f"{_named(tensor)} has {found} elements; its shape is {list(tensor.shape)}")


def _split(tensor: Tensor, raw: bytes | memoryview) -> list[bytes]:
    """Return the elements of a raw BYTES tensor, each of which stands behind its length."""
    files: list[bytes] = []
    at = 0
    while at < len(raw):
        begin = at + _LENGTH.size
        if begin > len(raw) or begin + (length := _LENGTH.unpack_from(raw, at)[0]) > len(raw):
            raise MalformedInference(
                f"{_named(tensor)}: the length before element {len(files)} leads beyond the {len(raw)} bytes of the "
                "tensor; an element is its length in 4 bytes, little-endian, and then so many bytes"
            )
        if len(files) == tensor.shape[0]:
            raise MalformedInference(f"{_named(tensor)} has more elements than its shape {list(tensor.shape)} says")
        at = begin + length
        files.append(bytes(raw[begin:at]))
    return files


def _unnested(data: Sequence[Any]) -> list[Any]:
    """Return the elements of [a, b] or [[a], [b]]."""
    return [value[0] if isinstance(value, list) and len(value) == 1 else value for value in data]


def _decoded(tensor: Tensor, value: object) -> bytes:
    if isinstance(value, bytes):  # of protobuf
        return value
    if not isinstance(value, str):
        raise MalformedInference(
            f"{_named(tensor)}: its elements must be strings with pictures in Base64, or use the binary extension"
        )
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as exc:
        raise MalformedInference(
            f"{_named(tensor)}: an element is not Base64 ({exc}), in which JSON carries bytes; encode it, or use the "
            "binary extension"
        ) from exc


def _drawn(tensor: Tensor, settings: ClassifierSettings) -> list[bytes]:
    """Return the pixels of each picture as a file."""
    shape = tensor.shape
    if len(shape) != 1 + CHANNELS or shape[-1] != CHANNELS or min(shape) < 1:
        raise MalformedInference(
            f"{_named(tensor)} has the shape {list(shape)}; write [n, height, width, 3], at least 1 each"
        )
    _, height, width, _ = shape
    if height * width > settings.max_pixels:
        raise ImageTooLarge(
            f"{_named(tensor)} has pictures of {width}×{height} pixels; this service takes up to "
            f"{settings.max_pixels:,}"
        )
    if (file_bytes := _bmp_bytes(width, height)) > settings.max_upload_bytes:
        raise UploadTooLarge(
            f"{_named(tensor)} has pictures of {width}×{height} pixels, {file_bytes:,} bytes each; this service takes "
            f"up to {settings.max_upload_bytes:,}; send smaller ones"
        )
    return [_bmp(pixels) for pixels in _pixels(tensor)]


def _pixels(tensor: Tensor) -> NDArray[Any]:
    """Return the values, from 0 to 255, in the tensor's shape."""
    wanted = _DTYPES[tensor.datatype]
    values = (
        _raw_values(tensor, tensor.data, wanted) if isinstance(tensor.data, bytes | memoryview) else _listed(tensor)
    )
    # `not … <=` refuses NaN as well.
    if values.dtype != np.uint8 and not (values.min() >= 0 and values.max() <= _BRIGHTEST):
        raise MalformedInference(
            f"{_named(tensor)} has values outside 0 to {_BRIGHTEST}, or NaN; send pixels from 0 to 255"
        )
    return values.reshape(tensor.shape)


def _raw_values(tensor: Tensor, raw: bytes | memoryview, wanted: np.dtype[Any]) -> NDArray[Any]:
    expected = math.prod(tensor.shape) * wanted.itemsize
    if len(raw) != expected:
        raise MalformedInference(
            f"{_named(tensor)} has {len(raw)} bytes; its shape {list(tensor.shape)} and datatype {tensor.datatype} "
            f"make {expected}"
        )
    return np.frombuffer(raw, wanted)


def _listed(tensor: Tensor) -> NDArray[Any]:
    """Return values that came one by one, nested as the shape says or flat.

    Their types are looked at first: NumPy would make every element as long as the longest string.
    """
    values = _flat(tensor)
    wanted, kinds = (np.int64, {int}) if tensor.datatype == "UINT8" else (np.float64, {int, float})
    fault = MalformedInference(f"{_named(tensor)}: its data are not all numbers of the datatype {tensor.datatype}")
    if not kinds.issuperset(map(type, values)):
        raise fault
    try:
        return np.fromiter(values, wanted, len(values))
    except OverflowError as exc:  # integers of any size
        raise fault from exc


def _flat(tensor: Tensor) -> Sequence[Any]:
    """Return as many values as the shape has, without their nesting."""
    values: Sequence[Any] = tensor.data
    if len(values) == math.prod(tensor.shape) and not isinstance(values[0], list):
        return values
    if len(values) != tensor.shape[0]:
        raise _no_rectangle(tensor)
    for size in tensor.shape[1:]:
        if not all(isinstance(row, list) and len(row) == size for row in values):
            raise _no_rectangle(tensor)
        values = [*chain.from_iterable(values)]
    return values


def _no_rectangle(tensor: Tensor) -> MalformedInference:
    found: list[int] = []
    first: Any = tensor.data
    while isinstance(first, Sequence) and not isinstance(first, str) and len(found) <= len(tensor.shape):
        found.append(len(first))
        first = first[0] if first else None
    return MalformedInference(
        f"{_named(tensor)}: its data are no rectangle of the shape {list(tensor.shape)}, but begin as one of {found}; "
        "nest them as the shape says, or not at all"
    )


def _bmp_bytes(width: int, height: int) -> int:
    return _BMP.size + _row_bytes(width) * height


def _row_bytes(width: int) -> int:
    return -(-CHANNELS * width // _BMP_ROW_MULTIPLE) * _BMP_ROW_MULTIPLE


def _bmp(pixels: NDArray[Any]) -> bytes:
    """Return the file of RGB `pixels`, shape (height, width, 3), rounded."""
    height, width, _ = pixels.shape
    file = np.zeros(_bmp_bytes(width, height), np.uint8)
    rows = file[_BMP.size :].reshape(height, _row_bytes(width))
    header = _BMP.pack(
        b"BM", file.size, 0, 0, _BMP.size,
        _BMP_HEADER_BYTES, width, -height, 1, _BMP_BITS, 0, rows.size, 0, 0, 0, 0,
    )  # fmt: skip
    file[: _BMP.size] = np.frombuffer(header, np.uint8)
    drawn = rows[:, : CHANNELS * width].reshape(height, width, CHANNELS)
    if pixels.dtype == np.uint8:
        drawn[...] = pixels[..., ::-1]
    else:  # in place: an array of rounded floats would be four times the file
        np.rint(pixels[..., ::-1], out=drawn, casting="unsafe")
    return file.tobytes()
